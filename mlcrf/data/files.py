"""Load text files and check which images exist, for all readers."""

import os
from pathlib import Path

from mlcrf.data.problems import Problems
from mlcrf.images import Image, as_image
from mlcrf.stores import Stored


def load_text(path: Path | Stored | Image, problems: Problems, *, keep_bytes: bool = False) -> str:
    """Load a UTF-8 file, with or without byte-order mark; line ends are kept.

    If the file cannot be read, `problems` says why and the text is empty.

    Args:
        keep_bytes: escape bytes that are not UTF-8 as Python does in file names.

    Raises:
        DataError: the file cannot be fetched from its store.
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
        problems.add(path, "is not a text file: it contains zero bytes; save it as UTF-8 text")
        return ""
    return text


class FolderListings:
    """Checks whether files exist by listing each folder once.

    Cost: one listing per folder. A name that is not listed is checked by itself, since a file
    system may ignore case.
    """

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether the file exists; it may be inside a tar or Parquet file.

        Raises:
            DataError: the tar or Parquet file is damaged.
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
