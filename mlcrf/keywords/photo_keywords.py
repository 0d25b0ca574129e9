"""Read the keywords that people gave to a photo: in its sidecar, embedded XMP and IPTC."""

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
    """Load a sidecar; at most one byte more than its size limit, so that `Packet` refuses it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error


def read_keywords(photo: Image, *sidecars: Path) -> tuple[str, ...]:
    """Read a photo's distinct keywords: dc:subject of sidecars and embedded XMP, then IPTC.

    Keywords added and marked by mlcrf are left out.

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
    try:
        with open_image(photo) as opened:
            raw = _embedded_xmp(opened)
            ours = set[str]()
            if raw:
                packet = Packet(raw)
                found += own_keywords(packet)
                ours = marked_names(packet)  # other programs may have copied them to IPTC
            found += [one for one in _iptc_keywords(opened) if fold(one) not in ours]
    except Exception as error:  # Pillow may raise any exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"its keywords cannot be read: {' '.join(reason.split())}", photo
        ) from error
    return tuple(dict.fromkeys(found))


def damaged_sidecar(sidecar: Path, error: ValueError) -> DataError:
    """Return the error for an invalid sidecar."""
    return DataError(f"cannot be read as a sidecar: {error}; repair or remove it", sidecar)


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
    """Decode UTF-8 if declared or valid, else Latin-1, the usual encoding without declaration."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace") if is_utf8 else raw.decode("latin-1")
    return text.strip("\0 \t\r\n")
