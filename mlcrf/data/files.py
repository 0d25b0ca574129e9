"""Whole text files, and which images exist, for every reader of this package."""

import os
from pathlib import Path

from mlcrf.data.problems import Problems
from mlcrf.images import Image, as_image
from mlcrf.stores import Stored


def load_text(path: Path | Stored | Image, problems: Problems, *, keep_bytes: bool = False) -> str:
    """Load a UTF-8 file, with or without byte-order mark; line ends stay as they are.

    Whatever hinders it is noted in `problems`, and the
    text is then empty.

    Args:
        keep_bytes: let bytes that are not UTF-8 stand as Python has them in names of files.

    Raises:
        DataError: it cannot be fetched from its store.
    """
    try:
        raw = path.read_bytes() if isinstance(path, Path) else path.read()
    except OSError as error:
        problems.add(path, f"cannot be read: {error.strerror or error}")
        return ""
    try:
        text = raw.decode("utf-8-sig", "surrogateescape" if keep_bytes else "strict")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.add(path, "is not UTF-8 text; save it as UTF-8", line=line)
        return ""
    if "\0" in text:
        problems.add(path, "is not a text file: it holds zero bytes; save it as UTF-8 text")
        return ""
    return text


class FolderListings:
    """Tells whether files exist by listing each folder once, not by asking for each file.

    Cost: one listing a folder. A name that is not in it is asked for by itself, since a file
    system may ignore case.
    """

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether there is a file at `path`, also one within a tar or Parquet file.

        Raises:
            DataError: such a file is damaged.
        """
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = _file_names(folder)
        is_there = name in self._names[folder] or os.path.isfile(path)  # noqa: PTH113 - any text
        return is_there or _is_within(path)


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # no such folder, or a path that cannot be one
        return frozenset()


def _is_within(path: str) -> bool:
    image = as_image(path)
    return image.container is not None and image.stamp() is not None
