"""Decode images of common formats to RGB pixels."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PilImage

from mlcrf.errors import DataError
from mlcrf.images.image import Image
from mlcrf.images.opening import open_image

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif",
    ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm",
})
# fmt: on

DECODING = "rgb-squeezed-bicubic-1"  # changes whenever the pixels of a file would change

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
    becomes white; 16-bit grey keeps its upper 8 bits; CMYK is converted. The image is squeezed,
    not cropped, so that no content is lost. JPEGs are decoded at reduced size
    where that leaves at least twice the target. HEIC is read if the extra `heic` is installed.

    Memory: up to 16 bytes per decoded pixel.

    Raises:
        DataError: the file cannot be read, is not an image, is damaged, exceeds Pillow's limit
            of 179 million pixels, or is a decompression bomb: over 16 million pixels to decode (48
            million in black and white) and more than 100 per byte of the file (25 in CMYK, and in
            TIFF except black and white). The message has one line.
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
            if not opened.info.get(
                "progressive"
            ):  # else it is loaded at full size before it shrinks
                opened.draft("RGB", (2 * size_px, 2 * size_px))
            _refuse_bomb(opened, size)
            opened.draft("RGB", (2 * size_px, 2 * size_px))
            opened.load()
            yield _to_rgb(_upright(opened))
    except Exception as error:  # Pillow may raise any exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot be read as an image: {' '.join(reason.split())}", image) from error


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


def _upright(image: PilImage.Image) -> PilImage.Image:
    # ImageOps.exif_transpose also rewrites EXIF, which fails on odd tags.
    turn = None
    with suppress(Exception):  # unreadable EXIF: no rotation
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: PilImage.Image) -> PilImage.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if image.mode == "I":
            values = values.clip(0, 65535)
        return PilImage.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = PilImage.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")
