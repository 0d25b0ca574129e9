"""Open images: regular files of safe formats only."""

import ctypes
import importlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from typing import IO

from PIL import ExifTags, ImageFile
from PIL import Image as PilImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mlcrf.images.file_kinds import Kind, kind_of_file
from mlcrf.images.image import Image
from mlcrf.images.limits import refuse_bomb, refuse_large
from mlcrf.images.mending import png_without_pixels, png_without_texts
from mlcrf.images.raw_files import is_raw, load_preview

# No other formats, since Pillow would run Ghostscript on an EPS file that is named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_TIFF_NUMBERS = {1: "unsigned", 2: "signed", 3: "floating-point"}
_REMEDIES = {
    Kind.VIDEO: "a video; export a frame of it as JPEG",
    Kind.OTHER_FORMAT: "in a format that is not supported; save it as JPEG, PNG or TIFF",
    Kind.SIDECAR: "a sidecar; name the image that it belongs to",
    Kind.ARCHIVE: "an archive; unpack it, and use the folder",
}


@contextmanager
def open_image(image: Image, *, for_pixels: bool = False) -> Iterator[ImageFile.ImageFile]:
    """Open an image and read its header. HEIC needs the extra `heic`, JPEG XL the extra `jxl`.

    Of a RAW file, the header is that of its first image as in a TIFF, or of its preview; its pixels
    are read by `raw_files.load_preview`.

    Pillow's limit on pixels does not apply: it would refuse large JPEGs, too, that are decoded at
    reduced size. `pixels.py` has limits on what is decoded.

    Args:
        for_pixels: the caller will decode the image, within its limits. Else the image has all its
            metadata and perhaps no pixels: those of a PNG are left out, and a JPEG XL is decoded,
            since its reader gives EXIF and XMP only then.

    Raises:
        DataError: it cannot be fetched from its store.
        OSError: not a regular file, or an unknown format. Damaged files may raise any exception.
    """
    kind = kind_of_file(image.file_name)
    with image.open() as stream:
        try:
            opened = _identified(stream, str(image.path or ""))
        except Exception as error:
            if is_raw(image):
                opened = _preview(image)
            elif kind in _REMEDIES:
                raise OSError(_REMEDIES[kind]) from error
            else:
                raise
        if opened.format == "PNG" and not for_pixels:
            opened = _identified(BytesIO(png_without_pixels(stream)), "")
            opened.info.setdefault("exif", b"")  # else Pillow decodes the pixels to look behind
        if opened.format == "JXL" and not for_pixels:
            pixels = opened.width * opened.height
            refuse_bomb(pixels, stream.seek(0, os.SEEK_END))
            refuse_large(pixels)
            opened.load()
        yield opened


def _preview(image: Image) -> ImageFile.ImageFile:
    """Read the header of the preview in a RAW file."""
    opened = _identified(BytesIO(load_preview(image, 0).content), "")
    exif = opened.getexif()
    taken = exif.get(ExifTags.Base.DateTime)  # to which LibRaw writes the capture time
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif).setdefault(ExifTags.Base.DateTimeOriginal, taken)
    return opened


def _identified(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of the image in a file, as `PIL.Image.open` does, whatever its size.

    Raises:
        OSError: an unknown format.
    """
    head = stream.read(16)
    if not head:
        raise OSError("the file is empty; copy it again")
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
            return factory(BytesIO(png_without_texts(stream)), "")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        if "HEIF" not in _formats():
            raise OSError("HEIC; to read it: pip install 'mlcrf[heic]'")
        reason = ""  # of AVIF, which has some of its brands
    if head.startswith(_JXL) and "JXL" not in _formats():
        raise OSError("JPEG XL; to read it: pip install 'mlcrf[jxl]'")
    raise OSError(reason or "unknown format, or damaged")


@cache
def _formats() -> tuple[str, ...]:
    PilImage.init()
    _silence_libtiff()
    formats: tuple[str, ...] = _FORMATS
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
        formats = (*formats, "HEIF")
    with suppress(ImportError):
        importlib.import_module("pylibjxl").register_pillow()
        formats = (*formats, "JXL")
    return formats


def _silence_libtiff() -> None:
    """Keep libtiff from writing to standard error; Pillow raises what is wrong with a file."""
    with suppress(AttributeError, OSError):  # a system that does not look through dependencies
        library = ctypes.CDLL(importlib.import_module("PIL._imaging").__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _reason(kind: str, stream: IO[bytes], error: Exception) -> str:
    """Return why an image of a known format is not read, or nothing if it may be damaged."""
    if kind == "JPEG" and (found := re.fullmatch(r"cannot handle (\d+)-bit layers", str(error))):
        return f"a JPEG of {found[1]} bits per colour; save it with 8 bits"
    if kind == "AVIF":
        return f"an AVIF that its decoder refuses ({error}); save it again, or as JPEG"
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
