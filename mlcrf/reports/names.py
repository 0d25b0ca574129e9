"""Make labels and file names safe to show: one line, bounded length, nothing hidden."""

import os
import unicodedata
from collections.abc import Sequence

from mlcrf.images import Image

_ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, surrogates, separators of lines
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def readable(text: str, limit: int = 80) -> str:
    """Cut a text at a limit; escape control characters and marks that change its direction.

    The result is not safe as markup; the template escapes it.
    """
    shown = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(
        one.encode("unicode_escape").decode("ascii")
        if unicodedata.category(one) in _ESCAPED or one in _TURNING
        else one
        for one in shown
    )


def some_names(names: Sequence[str], *, most: int = 40) -> str:
    """Join names by commas; after the first `most`, state the number of others."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def shared_folder(images: Sequence[Image]) -> str:
    """Return the deepest common folder of all images; pages show names relative to it."""
    return os.path.commonpath([_without_scheme(image.folder) for image in images])


def file_name(image: Image, below: str) -> str:
    """Return the path below a folder, with bytes that are not UTF-8 escaped; cut at the start."""
    path = os.path.relpath(_without_scheme(image.address), below)
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return readable(name if len(name) <= 120 else f"…{name[-119:]}", 500)


def _without_scheme(address: str) -> str:
    _, mark, rest = address.partition("://")
    return f"/{rest}" if mark else address
