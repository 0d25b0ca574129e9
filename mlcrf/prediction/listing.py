"""Which pictures are meant by the folders and files that a user names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from mlcrf.datasets.tagfiles import walk_pictures
from mlcrf.errors import DataError


def list_pictures(places: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named, folders walked through by name, one picture after the other.

    Hidden files and folders are skipped, links to folders are not followed. A file that is named
    is listed whatever it is called.

    Raises:
        DataError: a place does not exist.
    """
    for place in places:
        if place.is_dir():
            yield from walk_pictures(place)
        elif place.exists():
            yield place
        else:
            hint = "; `-` must stand alone" if str(place) == "-" else ""
            raise DataError(f"{place}: no such file or folder{hint}")
