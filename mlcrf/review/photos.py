"""The photos of a folder, known to the database by content, and their JPEG copies for the page."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.images import Image, LeftOut, as_image, list_images
from mlcrf.images.containers import is_parquet, is_tar
from mlcrf.images.pixels import load_thumbnail
from mlcrf.review.database import ReviewDatabase, Stamped

# the longer side of a shown copy, in pixels
WIDTHS = {"small": 360, "large": 1600, "full": 6000}
_MOST_COPIES = 240  # cached; a large copy has about 300 KB


@dataclass(frozen=True)
class Photo:
    """One photo of a folder.

    Attributes:
        id: number in the database.
        name: path in the folder to show; bytes that are not UTF-8 are replaced.
        sha256: hash of the content.
    """

    id: int
    image: Image
    name: str
    sha256: str


def find_photos(folder: Path, database: ReviewDatabase) -> tuple[list[Photo], list[str]]:
    """Register the photos of a folder; return each once, and notes for the user.

    Raises:
        DataError: no such folder, or no readable image in it.
        DatabaseError: the database cannot be written.
    """
    place = str(folder.resolve()).replace("\\", "/")
    files, notes = scan_folder(folder, database.stamps(place))
    if not files:
        raise DataError(notes[-1])
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


def scan_folder(folder: Path, known: Mapping[str, Stamped]) -> tuple[list[Stamped], list[str]]:
    """Return all images in and below a folder, and notes.

    The notes are what was left out, then an error for each image that cannot be read.

    Args:
        known: path -> file seen before; a file with the same stamp is not read again.

    Raises:
        DataError: no such folder, no image in it, or a damaged tar or Parquet file.
    """
    require_folder(folder)
    left_out = LeftOut()
    images = list(list_images([folder], left_out))
    if not images:
        raise DataError(f"{folder}: {left_out.explain_none()}")
    names = [Path(image.name).relative_to(folder).as_posix() for image in images]
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        found = list(workers.map(_stamp, images, names, map(known.get, names)))
    files = [one for one in found if isinstance(one, Stamped)]
    notes = [f"left out: {left_out}"] if left_out else []
    return files, [*notes, *(one for one in found if isinstance(one, str))]


def require_folder(folder: Path) -> None:
    """Raise an error unless the folder exists.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        why = "is a file, expected a folder" if folder.exists() else "no such folder"
        if is_tar(folder) or is_parquet(folder):
            why += "; use the folder that contains it"
        raise DataError(f"{folder}: {why}")


def _stamp(image: Image, name: str, before: Stamped | None) -> Stamped | str:
    stamp = image.stamp()
    if before and stamp and before.stamp == stamp.version:
        return before
    try:
        digest = image.fingerprint()
        if stamp is None:
            raise OSError("it has changed since it was listed")
    except OSError as error:
        return f"{image}: cannot be read: {error.strerror or error}"
    return Stamped(name, stamp.version, digest.hex())


class PhotoCopies:
    """JPEG copies of photos, upright and without metadata; the most recent are cached.

    Full copies, which have megabytes, are not. Only decoded pixels are served: no other files, and
    no location.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._photos = photos
        self._cached = lru_cache(_MOST_COPIES)(self._make_jpeg)

    def jpeg(self, number: int, size: str) -> bytes:
        return (self._make_jpeg if size == "full" else self._cached)(number, size)

    def _make_jpeg(self, number: int, size: str) -> bytes:
        return load_thumbnail(self._photos[number].image, WIDTHS[size]).jpeg
