"""List the images in files and folders."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.images.containers import as_image, find_containers, is_parquet, is_tar, members
from mlcrf.images.image import Image, LocalImage, UrlImage
from mlcrf.images.pixels import SUFFIXES
from mlcrf.stores import Stored


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def walk_images(folder: Path) -> Iterator[LocalImage]:
    """Yield the images in a folder and below it, by name; hidden ones are skipped."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            LocalImage(str(Path(place, name))) for name in sorted(names) if is_image_name(name)
        )


def list_images(places: Iterable[Path | Stored]) -> Iterator[Image]:
    """Yield the images in files and folders; folders are walked in the order of names.

    Hidden files and folders are skipped, links to folders are not followed. A given file is listed
    whatever its suffix; a tar or Parquet file gives its images in order, and so do such files in a
    folder without other images. Folders in an object store are walked in the same way.

    Raises:
        DataError: a place does not exist, its store cannot be reached, or a tar or Parquet file is
            damaged.
    """
    for place in places:
        if isinstance(place, Stored):
            yield from (UrlImage(one.url, one.root) for one in place.walk(is_image_name))
            continue
        if place.is_dir():
            found = walk_images(place)
            first = next(found, None)
            if first is not None:
                yield first
                yield from found
                continue
        elif not is_tar(place) and not is_parquet(place):
            if place.exists():
                yield as_image(place)
                continue
            hint = "; `-` must be the only one" if str(place) == "-" else ""
            raise DataError(f"no such file or folder{hint}", place)
        for container in find_containers(place):
            inside, all_count = members(container), is_parquet(container)
            yield from (one for one in inside if all_count or is_image_name(one.file_name))


class ListedImages:
    """Images that are listed again for each iteration, so that none is kept in memory.

    Args:
        listing: lists all images from the first.
        limit: maximum number of images; None for all.
        chosen: filter; None for all.
    """

    def __init__(
        self,
        listing: Callable[[], Iterable[Image]],
        *,
        limit: int | None = None,
        chosen: Callable[[Image], bool] | None = None,
    ) -> None:
        self._listing, self._limit, self._chosen = listing, limit, chosen
        self._count: int | None = None

    def __iter__(self) -> Iterator[Image]:
        return (image for _, image in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Image]]:
        """Yield each image with its position in the whole listing, from 0."""
        listed = enumerate(islice(self._listing(), self._limit))
        return (one for one in listed if self._chosen is None or self._chosen(one[1]))

    def any_listed(self) -> bool:
        """Return whether any image is listed, chosen or not."""
        return next(iter(self._listing()), None) is not None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count
