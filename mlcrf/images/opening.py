"""Open images: regular files of safe formats only."""

import importlib
import stat
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image as PilImage
from PIL import ImageFile, UnidentifiedImageError

from mlcrf.images.image import Image

# No other formats, since Pillow would run Ghostscript on an EPS file that is named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def open_image(image: Image) -> ImageFile.ImageFile:
    """Open an image and read its header. HEIC needs the extra `heic`.

    Raises:
        DataError: it cannot be fetched from its store.
        OSError: not a regular file, or an unknown format. Damaged files may raise any exception.
    """
    source = image.path or image.read()
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise OSError("not a regular file")
    try:
        readable = BytesIO(source) if isinstance(source, bytes) else source
        return PilImage.open(readable, formats=_formats())
    except UnidentifiedImageError as error:
        if _is_heif(source) and "HEIF" not in _formats():
            raise OSError("HEIC; to read it: pip install 'mlcrf[heic]'") from error
        raise OSError("unknown format, or damaged") from error


@cache
def _formats() -> tuple[str, ...]:
    try:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        return _FORMATS
    return (*_FORMATS, "HEIF")


def _is_heif(source: Path | bytes) -> bool:
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        head = stream.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS
