"""Where an image comes in: a file of any common kind becomes RGB pixels."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from mlcrf.errors import DataError

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif",
    ".ppm", ".pgm", ".pbm",
})
# fmt: on

DECODING = "rgb-squeezed-bicubic-1"  # changes whenever the same file would give other pixels

# Nothing else is tried: Pillow would run Ghostscript on an EPS file that is named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")

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


def load_pixels(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Decode a picture to RGB and resize it to a square, (size_px, size_px, 3).

    The orientation in EXIF is applied; an animation gives its first frame; transparency is laid
    on white; 16-bit grey keeps its upper 8 bits; CMYK is converted. The picture is squeezed
    rather than cropped, so that no label leaves the frame. JPEGs are decoded at reduced size
    where that leaves at least twice the target.

    Raises:
        DataError: no regular file, no picture, damaged, or over Pillow's limit of 179 million
            pixels; one line, also where the file's name has several.
    """
    with _opened(path, size_px) as image:
        square = (size_px, size_px)
        return np.asarray(image.resize(square, Image.Resampling.BICUBIC, reducing_gap=3.0))


def load_thumbnail(path: Path, largest_px: int) -> Thumbnail:
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
def _opened(path: Path, size_px: int) -> Iterator[Image.Image]:
    """The picture upright in RGB, of at least twice that size if it is that large.

    Raises:
        DataError: see `load_pixels`; also for what goes wrong in the body.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a regular file")
        with Image.open(path, formats=_FORMATS) as image:
            image.draft("RGB", (2 * size_px, 2 * size_px))
            image.load()
            yield _to_rgb(_upright(image))
    except Exception as error:  # what Pillow raises on damaged files is nowhere bounded
        name = str(path) if str(path).isprintable() else repr(str(path))
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known kind, or damaged"
        raise DataError(
            f"{name}: cannot be read as a picture: {' '.join(reason.split())}"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes EXIF anew, which fails where a tag is odd.
    turn = None
    with suppress(Exception):  # EXIF that cannot be read turns nothing
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
