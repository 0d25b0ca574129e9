"""Load text files, for all readers."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from mlcrf.data.problems import Problems
from mlcrf.images import Image
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
        kind = " but UTF-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        problems.add(path, f"is not UTF-8 text{kind}; save it as UTF-8", line=line)
        return ""
    if "\0" in text:
        problems.add(path, "is not a text file: it contains zero bytes; save it as UTF-8 text")
        return ""
    return text


def walk_suffix(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files with a suffix in and below a folder, by name; hidden ones are skipped."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffix) and not name.startswith("."):
                yield Path(place, name)
