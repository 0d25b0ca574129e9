"""The keywords that a person has given a photo: in its sidecar, in its XMP and in its IPTC."""

from pathlib import Path

from PIL import Image as PilImage
from PIL import ImageFile, IptcImagePlugin

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.images.opening import open_image
from mlcrf.keywords.retagging import marked_names, own_keywords
from mlcrf.keywords.xmp import MAX_BYTES, Packet
from mlcrf.labels import fold

_IPTC_CHARSET, _IPTC_KEYWORDS = (1, 90), (2, 25)
_IPTC_UTF8 = b"\x1b%G"


def load_sidecar(path: Path) -> bytes:
    """Load a sidecar, of a size that one can have.

    Raises:
        DataError: it cannot be read; names the file.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error


def read_keywords(photo: Image, *sidecars: Path) -> tuple[str, ...]:
    """Read a photo's keywords, each once: dc:subject of sidecars and its XMP, then IPTC's.

    What mlcrf itself has added, and marked so, is left out.

    Raises:
        DataError: a file, or what it holds of keywords, cannot be read; names the file.

    Cost: an image's header, nothing is decoded.
    """
    found: list[str] = []
    for sidecar in sidecars:
        try:
            found += own_keywords(Packet(load_sidecar(sidecar)))
        except ValueError as error:
            raise damaged_sidecar(sidecar, error) from error
    try:
        with open_image(photo) as opened:
            raw = _embedded_xmp(opened)
            ours = set[str]()
            if raw:
                packet = Packet(raw)
                found += own_keywords(packet)
                ours = marked_names(packet)  # a program may have copied them to IPTC
            found += [one for one in _iptc_keywords(opened) if fold(one) not in ours]
    except Exception as error:  # what Pillow raises on damaged files is nowhere bounded
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"its keywords cannot be read: {' '.join(reason.split())}", photo
        ) from error
    return tuple(dict.fromkeys(found))


def damaged_sidecar(sidecar: Path, error: ValueError) -> DataError:
    """Return the error that tells of a sidecar that is none."""
    return DataError(f"cannot be read as a sidecar: {error}; mend it or take it away", sidecar)


def _embedded_xmp(image: PilImage.Image) -> bytes:
    raw = image.info.get("xmp", b"")
    return raw.rstrip(b"\0 ") if isinstance(raw, bytes) else b""


def _iptc_keywords(image: ImageFile.ImageFile) -> list[str]:
    fields = IptcImagePlugin.getiptcinfo(image) or {}
    values = fields.get(_IPTC_KEYWORDS, [])
    is_utf8 = fields.get(_IPTC_CHARSET) == _IPTC_UTF8
    texts = [_iptc_text(one, is_utf8) for one in (values if isinstance(values, list) else [values])]
    return [text for text in texts if text]


def _iptc_text(raw: bytes, is_utf8: bool) -> str:
    """UTF-8 where it says so or is so; else Latin-1, which most programs that say nothing mean."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace") if is_utf8 else raw.decode("latin-1")
    return text.strip("\0 \t\r\n")
