"""Open images: regular files of safe formats only."""

import importlib
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import ExifTags, ImageFile
from PIL import Image as PilImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mlcrf.images.file_kinds import Kind, kind_of_file
from mlcrf.images.image import Image
from mlcrf.images.mending import png_without_texts

# No other formats, since Pillow would run Ghostscript on an EPS file that is named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_TIFF_NUMBERS = {1: "unsigned", 2: "signed", 3: "floating-point"}
_REMEDIES = {
    Kind.RAW: "a RAW file; export it as JPEG, or tag the JPEG beside it",
    Kind.VIDEO: "a video; export a frame of it as JPEG",
    Kind.OTHER_FORMAT: "in a format that is not supported; save it as JPEG, PNG or TIFF",
    Kind.SIDECAR: "a sidecar; name the image that it belongs to",
    Kind.ARCHIVE: "an archive; unpack it, and use the folder",
}


@contextmanager
def open_image(image: Image) -> Iterator[ImageFile.ImageFile]:
    """Open an image and read its header. HEIC needs the extra `heic`.

    Pillow's limit on pixels does not apply: it would refuse large JPEGs, too, that are decoded at
    reduced size. `pixels.py` has limits on what is decoded.

    Raises:
        DataError: it cannot be fetched from its store.
        OSError: not a regular file, or an unknown format. Damaged files may raise any exception.
    """
    source = image.path or image.read()
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise OSError("a folder, not an image" if source.is_dir() else "not a regular file")
    kind = kind_of_file(image.file_name)
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        try:
            opened = _identified(stream, "" if isinstance(source, bytes) else str(source))
        except Exception as error:
            if kind in _REMEDIES:
                raise OSError(_REMEDIES[kind]) from error
            raise
        if kind is Kind.RAW and opened.format == "TIFF":  # its first image may be a tiny preview
            raise OSError(_REMEDIES[Kind.RAW])
        yield opened


def _identified(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of the image in a file, as `PIL.Image.open` does, whatever its size.

    Raises:
        OSError: an unknown format.
    """
    head = stream.read(16)
    reason = ""
    for kind in _formats():
        factory, accept = PilImage.OPEN[kind]
        if accept is not None and accept(head) is not True:
            continue
        stream.seek(0)
        try:
            return factory(stream, name)
        except (SyntaxError, IndexError, KeyError, TypeError, struct.error) as error:
            reason = reason or _reason(kind, stream, error)
        except ValueError:
            if kind != "PNG":
                raise
            stream.seek(0)
            return factory(BytesIO(png_without_texts(stream.read())), "")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and "HEIF" not in _formats():
        raise OSError("HEIC; to read it: pip install 'mlcrf[heic]'")
    raise OSError(reason or "unknown format, or damaged")


@cache
def _formats() -> tuple[str, ...]:
    PilImage.init()
    try:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        return _FORMATS
    return (*_FORMATS, "HEIF")


def _reason(kind: str, stream: IO[bytes], error: Exception) -> str:
    """Return why an image of a known format is not read, or nothing if it may be damaged."""
    if kind == "JPEG" and (found := re.fullmatch(r"cannot handle (\d+)-bit layers", str(error))):
        return f"a JPEG of {found[1]} bits per colour; save it with 8 bits"
    if kind == "TIFF":
        with suppress(Exception):  # damaged
            return _reason_of_tiff(stream)
    return ""


def _reason_of_tiff(stream: IO[bytes]) -> str:
    stream.seek(0)
    tags = ImageFileDirectory_v2(stream.read(8))
    stream.seek(tags.next)
    tags.load(stream)
    bits, samples = tags[ExifTags.Base.BitsPerSample][0], tags[ExifTags.Base.SamplesPerPixel]
    number = _TIFF_NUMBERS.get(tags.get(ExifTags.Base.SampleFormat, (1,))[0], "unknown")
    compression = tags.get(ExifTags.Base.Compression, 1)
    return (
        f"a TIFF of an unsupported kind: {samples} x {bits} bits per pixel, {number} numbers, "
        f"compression {compression}; save it with 8 or 16 bits"
    )
