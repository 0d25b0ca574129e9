"""Read the keywords that people gave to a photo: in its sidecar, and embedded in it."""

from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.images import Image, open_regular
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.keyword_lists import fold_level
from mlcrf.keywords.retagging import own_keywords
from mlcrf.keywords.xmp import MAX_BYTES, Packet


def load_sidecar(path: Path) -> bytes:
    """Load a sidecar; at most one byte more than its size limit, so that `Packet` refuses it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error


def read_keywords(photo: Image, *sidecars: Path) -> tuple[str, ...]:
    """Read a photo's distinct keywords: in all lists of sidecars, then embedded in the image.

    Of keywords with levels, the last level counts. Keywords added and marked by mlcrf are left out.

    Raises:
        DataError: a file or its keywords cannot be read.

    Cost: reads the image's header.
    """
    found: list[str] = []
    for sidecar in sidecars:
        try:
            found += own_keywords(Packet(load_sidecar(sidecar)))
        except ValueError as error:
            raise damaged_sidecar(sidecar, error) from error
    found += own_keywords(embedded_packet(photo))
    distinct: dict[str, str] = {}
    for name in found:
        distinct.setdefault(fold_level(name), name)
    return tuple(distinct.values())


def damaged_sidecar(sidecar: Path, error: ValueError) -> DataError:
    """Return the error for an invalid sidecar."""
    return DataError(f"cannot be read as a sidecar: {error}; repair or remove it", sidecar)
