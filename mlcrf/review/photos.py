"""The photos of a review, and their JPEG copies for the page."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Lock

from mlcrf.errors import DataError
from mlcrf.images import Image, as_image
from mlcrf.images.pixels import load_thumbnail
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.scan import scan_folder

_MOST_BYTES = 2**26  # size of cached copies


@dataclass(frozen=True)
class Photo:
    """One photo of a folder.

    Attributes:
        id: number in the database.
        image: the image.
        name: path in the folder to show; bytes that are not UTF-8 are replaced.
        sha256: hash of the content.
    """

    id: int
    image: Image
    name: str
    sha256: str


class Width(IntEnum):
    """The longer side of a shown copy, in pixels."""

    SMALL = 360
    LARGE = 1600


def find_photos(
    folder: Path,
    database: ReviewDatabase,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Photo], list[str]]:
    """Register the photos of a folder; return each once, and notes for the user.

    Raises:
        DataError: no such folder, or no readable image in it.
        DatabaseError: the database cannot be written.
    """
    place = str(folder.resolve()).replace("\\", "/")
    files, notes = scan_folder(folder, database.stamps(place), progress=progress)
    if not files:
        raise DataError(notes[0])
    numbers, edited = database.register(place, files)
    photos: dict[int, Photo] = {}
    for number, file in zip(numbers, files, strict=True):
        name = file.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        photos.setdefault(number, Photo(number, as_image(folder / file.path), name, file.sha256))
    copies = len(files) - len(photos)
    if copies:
        notes.append(f"images that are copies of others and are shown once: {copies}")
    if edited:
        notes.append(f"photos that were edited since and keep their answers: {edited}")
    return list(photos.values()), notes


class PhotoCopies:
    """JPEG copies of photos: of a given size, upright, without metadata; recent ones are cached.

    Only decoded pixels are served: no other files, and no location.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._photos = photos
        self._kept: OrderedDict[tuple[int, Width], bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def jpeg(self, number: int, width: Width) -> bytes:
        """Return the JPEG copy of a photo.

        Raises:
            DataError: the photo is missing or damaged.
        """
        key = number, width
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = load_thumbnail(self._photos[number].image, width).jpeg
        with self._lock:
            if key not in self._kept:
                self._kept[key] = content
                self._size += len(content)
            while self._size > _MOST_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)
        return content
