"""Which pictures are meant by the folders and files that a user names."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.images.containers import find_containers, is_parquet, is_tar, members
from mlcrf.images.decoding import SUFFIXES
from mlcrf.stores import Stored


def is_picture(path: Path) -> bool:
    """Whether a file name is one of a picture that is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def walk_pictures(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and below it, by name, folder after folder; hidden ones are skipped."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if is_picture(Path(name)))


def list_pictures(places: Iterable[Path | Stored]) -> Iterator[Path | Stored]:
    """Files as they are named, folders walked through by name, one picture after the other.

    Hidden files and folders are skipped, links to folders are not followed. A file that is named
    is listed whatever it is called; a tar or Parquet file stands for the pictures in it, in its
    order, and so do those in a folder that has no pictures else. A folder of an object store is
    gone through as one on a disk.

    Raises:
        DataError: a place does not exist, its store is out of reach, or a tar or Parquet file is
            damaged.
    """
    for place in places:
        if isinstance(place, Stored):
            yield from place.walk(is_picture)
            continue
        if place.is_dir():
            found = walk_pictures(place)
            first = next(found, None)
            if first is not None:
                yield first
                yield from found
                continue
        elif not is_tar(place) and not is_parquet(place):
            if place.exists():
                yield place
                continue
            hint = "; `-` must stand alone" if str(place) == "-" else ""
            raise DataError(f"{place}: no such file or folder{hint}")
        for container in find_containers(place):
            inside = members(container)
            yield from inside if is_parquet(container) else filter(is_picture, inside)


class Pictures:
    """Pictures that are listed anew whenever they are gone through, so that none is held.

    Args:
        listing: lists them from the first.
        limit: how many of them are meant; all if None.
        chosen: which of these; all if None.
    """

    def __init__(
        self,
        listing: Callable[[], Iterable[Path | Stored]],
        *,
        limit: int | None = None,
        chosen: Callable[[Path | Stored], bool] | None = None,
    ) -> None:
        self._listing, self._limit, self._chosen = listing, limit, chosen
        self._count: int | None = None

    def __iter__(self) -> Iterator[Path | Stored]:
        return (path for _, path in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Path | Stored]]:
        """Each with its place among all that are listed, from 0."""
        listed = enumerate(islice(self._listing(), self._limit))
        return (one for one in listed if self._chosen is None or self._chosen(one[1]))

    def any_listed(self) -> bool:
        """Whether there is a picture at all, chosen or not."""
        return next(iter(self._listing()), None) is not None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count
