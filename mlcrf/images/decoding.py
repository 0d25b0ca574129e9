"""Where an image comes in: a file of any common kind becomes RGB pixels."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mlcrf.errors import DataError
from mlcrf.images.opening import open_picture, picture_source
from mlcrf.stores import Stored

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif",
    ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm",
})
# fmt: on

DECODING = "rgb-squeezed-bicubic-1"  # changes whenever the same file would give other pixels

# What decodes to more pixels than this has to have some bytes for them: black pages of a few
# kilobytes would take gigabytes of memory. Black and white take a quarter of what colours take.
_LARGE_PX = 16_000_000
_LARGE_PX_BILEVEL = 48_000_000
# Photos have 0.2 to 20. Black has from 28 in TIFF, from 60 in CMYK, and 170 to 60,000 elsewhere.
_MOST_PX_PER_BYTE = 100
_MOST_PX_PER_BYTE_PRINT = 25  # TIFF and CMYK, whose photos are saved well

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def load_pixels(source: Path | Stored | bytes, size_px: int) -> NDArray[np.uint8]:
    """Decode a picture to RGB and resize it to a square, (size_px, size_px, 3).

    The orientation in EXIF is applied; an animation gives its first frame; transparency is laid
    on white; 16-bit grey keeps its upper 8 bits; CMYK is converted. The picture is squeezed
    rather than cropped, so that no label leaves the frame. JPEGs are decoded at reduced size
    where that leaves at least twice the target. HEIC is read if the extra `heic` is installed.

    Memory is in proportion to the pixels that are decoded, up to 16 bytes for each.

    Args:
        source: the file, or what would be in it.

    Raises:
        DataError: out of reach, no regular file, no picture, damaged, over Pillow's limit of 179
            million pixels, or a decompression bomb: over 16 million pixels to decode (48 million
            in black and white) and more than 100 to a byte of the file (25 in CMYK and in TIFF but
            for black and white); one line, also where the file's name has several.
    """
    with _opened(source, size_px) as image:
        square = (size_px, size_px)
        return np.asarray(image.resize(square, Image.Resampling.BICUBIC, reducing_gap=3.0))


def load_thumbnail(path: Path | Stored, largest_px: int) -> Thumbnail:
    """Decode a picture as `load_pixels` does and make it a small JPEG of its own proportions.

    Nothing but the pixels is taken over: no EXIF, place, comment or profile. A picture that is
    small already keeps its size.

    Raises:
        DataError: see `load_pixels`.
    """
    with _opened(path, largest_px) as image:
        small = image.copy()
        small.thumbnail((largest_px, largest_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
        stream = io.BytesIO()
        Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=82, optimize=True)
        return Thumbnail(stream.getvalue(), *small.size)


@contextmanager
def _opened(source: Path | Stored | bytes, size_px: int) -> Iterator[Image.Image]:
    """The picture upright in RGB, of at least twice that size if it is that large.

    Raises:
        DataError: see `load_pixels`; also for what goes wrong in the body.
    """
    fetched = source.read() if isinstance(source, Stored) else source
    try:
        content = picture_source(fetched)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with open_picture(content) as image:
            if not image.info.get("progressive"):  # else all of it is in memory before it shrinks
                image.draft("RGB", (2 * size_px, 2 * size_px))
            _refuse_bomb(image, size)
            image.draft("RGB", (2 * size_px, 2 * size_px))
            image.load()
            yield _to_rgb(_upright(image))
    except Exception as error:  # what Pillow raises on damaged files is nowhere bounded
        name = "picture" if isinstance(source, bytes) else str(source)
        name = name if name.isprintable() else repr(name)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"{name}: cannot be read as a picture: {' '.join(reason.split())}"
        ) from error


def _refuse_bomb(image: Image.Image, file_bytes: int) -> None:
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


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes EXIF anew, which fails where a tag is odd.
    turn = None
    with suppress(Exception):  # EXIF that cannot be read turns nothing
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if image.mode == "I":
            values = values.clip(0, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")
