"""Decode images of common formats to RGB pixels."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile
from PIL import Image as PilImage

from mlcrf.errors import DataError, MlcrfWarning, printable
from mlcrf.images.colours import is_16_bit_colour, is_nearly_black, to_rgb
from mlcrf.images.image import Image, ImageBytes
from mlcrf.images.mending import jpeg_with_end, png_without_texts
from mlcrf.images.opening import open_image

DECODING = "rgb-squeezed-bicubic-2"  # changes whenever the pixels of a file would change

# An image may take up to this much memory. What decoders and conversions take per pixel was
# measured: a WebP is decoded from memory and to a copy. A JPEG is decoded at reduced size, but the
# coefficients of a progressive one are kept at full size.
_MOST_BYTES = 3_000_000_000
_BYTES_PER_PX = {"JPEG": 9, "MPO": 9, "WEBP": 18}
_BYTES_PER_PX_ELSE = 13
_REDUCED = frozenset({"JPEG", "MPO"})

# Images with more pixels need enough bytes: black pages of a few kilobytes would take gigabytes of
# memory. Black and white takes a quarter of the memory of colours.
_LARGE_PX = 16_000_000
_LARGE_PX_BILEVEL = 48_000_000
# Photos have 0.2 to 20; black has 28 and more in TIFF, 60 and more in CMYK, else 170 to 60,000.
_MOST_PX_PER_BYTE = 100
_MOST_PX_PER_BYTE_PRINT = 25  # TIFF and CMYK, which compress photos less

_TURNS = {
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_270,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def load_pixels(image: Image, size_px: int) -> NDArray[np.uint8]:
    """Decode an image to RGB and resize it to a square, (size_px, size_px, 3).

    The orientation in EXIF is applied; only the first frame of an animation is used; transparency
    becomes white; grey of more than 8 bits is scaled (`colours.py`); CMYK is converted. The image
    is squeezed, not cropped, so that no content is lost. JPEGs are decoded at reduced size where
    that leaves at least twice the target. HEIC is read if the extra `heic` is installed.

    Memory: up to 13 bytes per decoded pixel, 18 of WebP; at most 3 GB.

    Raises:
        DataError: the file cannot be read, is not an image, is damaged, would take more than 3 GB,
            or is a decompression bomb: over 16 million pixels to decode (48 million in black and
            white) and more than 100 per byte of the file (25 in CMYK, and in TIFF except black and
            white). The message has one line.

    Warns:
        MlcrfWarning: a JPEG without its end, or colours of 16 bits that are nearly black.
    """
    with _opened(image, size_px) as opened:
        square = (size_px, size_px)
        return np.asarray(opened.resize(square, PilImage.Resampling.BICUBIC, reducing_gap=3.0))


def load_thumbnail(image: Image, largest_px: int) -> Thumbnail:
    """Decode an image as `load_pixels` does and make a small JPEG with the same aspect ratio.

    Only pixels are copied: no EXIF, location, comment or profile. Small images keep their size.

    Raises:
        DataError: see `load_pixels`.
    """
    with _opened(image, largest_px) as opened:
        small = opened.copy()
        small.thumbnail((largest_px, largest_px), PilImage.Resampling.BICUBIC, reducing_gap=3.0)
        stream = io.BytesIO()
        PilImage.fromarray(np.asarray(small)).save(stream, "JPEG", quality=82, optimize=True)
        return Thumbnail(stream.getvalue(), *small.size)


@contextmanager
def _opened(image: Image, size_px: int) -> Iterator[PilImage.Image]:
    """Open an image upright in RGB, at least twice as large as `size_px` if possible.

    Raises:
        DataError: see `load_pixels`; also for exceptions in the body.
    """
    if image.is_remote:
        image = image.fetch()  # raises its own DataError
    try:
        image = image.fetch()
        path = image.path
        size = len(image.read()) if path is None else path.stat().st_size
        with open_image(image) as opened:
            full_px = opened.width * opened.height
            if not opened.info.get("progressive"):  # else it is decoded at full size
                _reduce(opened, size_px)
            _refuse_bomb(opened, size)
            _refuse_large(full_px, opened.format or "")
            _reduce(opened, size_px)
            is_deep = is_16_bit_colour(opened)
            loaded = _load(opened, image, size_px)
            turn, pixels = _turn(loaded), to_rgb(loaded)  # a TIFF has turned itself
            if is_deep and is_nearly_black(pixels):
                _warn(image, "its colours use less than a sixteenth of 16 bits and appear black")
            yield pixels if turn is None else pixels.transpose(turn)
    except Exception as error:  # Pillow may raise any exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PilImage.DecompressionBombError):
            reason = "more than 179 million pixels in this format; save it smaller, or as JPEG"
        raise DataError(f"cannot be read as an image: {' '.join(reason.split())}", image) from error


def _reduce(image: ImageFile.ImageFile, size_px: int) -> None:
    """Let a JPEG be decoded at reduced size."""
    image.draft("RGB", (2 * size_px, 2 * size_px))


def _load(opened: ImageFile.ImageFile, image: Image, size_px: int) -> PilImage.Image:
    """Decode an opened image; one that viewers show is mended where Pillow refuses it."""
    try:
        opened.load()
        return opened
    except ValueError:
        if opened.format != "PNG":
            raise
        mended = png_without_texts(image.read())
    except OSError:
        found = jpeg_with_end(image.read(), _decoded) if opened.format in _REDUCED else None
        if found is None:
            raise
        _warn(image, "the end of this JPEG is missing, but none of its pixels")
        mended = found
    with open_image(ImageBytes(image.name, mended)) as again:
        _reduce(again, size_px)
        again.load()
        return again


def _decoded(content: bytes) -> PilImage.Image:
    """Decode an image in full."""
    with open_image(ImageBytes("", content)) as opened:
        _refuse_large(opened.width * opened.height)
        opened.load()
        return opened


def _warn(image: Image, reason: str) -> None:
    warnings.warn(f"{printable(image)}: {reason}", MlcrfWarning, stacklevel=3)


def _refuse_bomb(image: PilImage.Image, file_bytes: int) -> None:
    pixels = image.width * image.height
    bilevel = image.mode == "1"
    printed = image.mode == "CMYK" or (image.format == "TIFF" and not bilevel)
    most = _MOST_PX_PER_BYTE_PRINT if printed else _MOST_PX_PER_BYTE
    large = pixels > (_LARGE_PX_BILEVEL if bilevel else _LARGE_PX)
    if large and pixels > most * file_bytes:
        raise OSError(
            f"{pixels / 1e6:.0f} million pixels in {file_bytes:,} bytes: a decompression bomb, or "
            "an empty page; save it smaller"
        )


def _refuse_large(pixels: int, kind: str = "") -> None:
    """Refuse an image of so many pixels, before any reduction, that it could take too much memory.

    Raises:
        OSError: it could.
    """
    per_pixel = _BYTES_PER_PX.get(kind, _BYTES_PER_PX_ELSE)
    if pixels * per_pixel > _MOST_BYTES:
        remedy = "smaller" if kind in _REDUCED else "smaller, or as JPEG"
        raise OSError(
            f"{pixels / 1e6:.0f} million pixels could take {pixels * per_pixel / 1e9:.1f} GB of "
            f"memory; up to {_MOST_BYTES / per_pixel / 1e6:.0f} million are read of this format; "
            f"save it {remedy}"
        )


def _turn(image: PilImage.Image) -> PilImage.Transpose | None:
    # ImageOps.exif_transpose also rewrites EXIF, which fails on odd tags.
    with suppress(Exception):  # unreadable EXIF: no rotation
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None
