"""Parse paths and URLs given by users."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.stores.drivers import DRIVERS
from mlcrf.stores.stored import Stored


def parse_place(text: str) -> Path | Stored:
    """Parse a path or a URL.

    Raises:
        DataError: an unknown scheme, no bucket, or a driver that is not installed.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or not scheme.isidentifier():
        return Path(text)
    if scheme not in DRIVERS:
        known = ", ".join(f"{one}://" for one in DRIVERS)
        raise DataError(f"unknown kind of address; expected a path or one of {known}", text)
    if scheme == "file" and not rest.startswith("/"):
        raise DataError("is not absolute; expected file:///folder", text)
    if scheme in ("s3", "gs") and not rest.strip("/"):
        raise DataError(f"names no bucket; expected {scheme}://bucket/folder", text)
    driver = DRIVERS[scheme]
    if driver is not None and not _is_installed(driver[0]):
        raise DataError(
            f"this needs {driver[0]}, not installed here; pip install {driver[1]}", text
        )
    return Stored(text, text)


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def is_url(text: str) -> bool:
    """Return whether a name is a URL with a known scheme; any other name is a path."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in DRIVERS


def parse_target(text: str) -> Path | Stored:
    """Parse the address of an output; `file://` becomes a path.

    Raises:
        DataError: see `parse_place`.
    """
    place = parse_place(text)
    if isinstance(place, Stored) and place.scheme == "file":
        return Path(text.removeprefix("file://"))
    return place
