"""Decode images of common formats to RGB pixels."""

import io
import re
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
from mlcrf.images.framing import Framing
from mlcrf.images.image import Image, ImageBytes
from mlcrf.images.limits import JPEGS, KEPT_PX, refuse_bomb, refuse_large
from mlcrf.images.mending import jpeg_with_end, png_without_texts
from mlcrf.images.opening import open_image
from mlcrf.images.raw_files import is_preview_of_raw, is_raw, load_preview

DECODING = "rgb-squeezed-bicubic-2"  # changes whenever the pixels of a file would change

# What decoders say of files that end too early, and of those with wrong bytes.
_CUT_SHORT = re.compile(
    r"(image file is |file )?truncated|(premature|unexpected) end|not enough (data|image data)",
    re.IGNORECASE,
)
_DAMAGED = re.compile(
    r"broken|decod(er|ing) error|could not (create decoder|decode)|failed to (decode|read)|corrupt|"
    r"unrecognized data stream|buffer |bad |invalid|unpack |codec configuration|tile cannot|"
    r"(string |list )?index out of range",
    re.IGNORECASE,
)

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


def load_pixels(image: Image, size_px: int, framing: Framing | None = None) -> NDArray[np.uint8]:
    """Decode an image to RGB and resize it to a square, (size_px, size_px, 3).

    The orientation in EXIF is applied; only the first frame of an animation is used; transparency
    becomes white; grey of more than 8 bits is scaled (`colours.py`); CMYK is converted. The image
    is squeezed, not cropped, so that no content is lost, unless `framing` says otherwise. JPEGs are
    decoded at reduced size where that leaves at least twice the target. HEIC, JPEG XL and RAW need
    the extras `heic`, `jxl` and `raw`.

    Memory: up to 13 bytes per decoded pixel, 18 of WebP; at most 3 GB.

    Raises:
        DataError: the file cannot be read, is not an image, is damaged, would take more than 3 GB,
            or is a decompression bomb: over 16 million pixels to decode (48 million in black and
            white) and more than 100 per byte of the file (25 in CMYK, and in TIFF except black and
            white). The message has one line.

    Warns:
        MlcrfWarning: a JPEG without its end, or colours of 16 bits that are nearly black.
    """
    if framing is not None:
        with _opened(image, framing.resized_px(size_px)) as opened:
            return framing.apply(opened, size_px)
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
        image, orientation = image.fetch(), None
        if is_raw(image):
            preview = load_preview(image, size_px)
            image, orientation = ImageBytes(image.name, preview.content), preview.orientation
        path = image.path
        size = len(image.read()) if path is None else path.stat().st_size
        with open_image(image, for_pixels=True) as opened:
            if is_preview_of_raw(opened):
                raise OSError(
                    "a TIFF that begins with a preview, as RAW files do; give it the suffix of its "
                    "kind, such as .dng"
                )
            full_px, kind = opened.width * opened.height, opened.format or ""
            if not opened.info.get("progressive") and full_px <= KEPT_PX:
                _reduce(opened, size_px)  # else it may be kept at full size
            refuse_bomb(opened.width * opened.height, size, mode=opened.mode, kind=kind)
            refuse_large(full_px, kind=kind)
            _reduce(opened, size_px)
            is_deep = is_16_bit_colour(opened)
            loaded = _load(opened, image, size_px)
            if orientation is None:
                orientation = _orientation(loaded)
            turn = _TURNS.get(orientation)
            pixels = to_rgb(loaded)
            if is_deep and is_nearly_black(pixels):
                _warn(image, "its colours use less than a sixteenth of 16 bits and appear black")
            yield pixels if turn is None else pixels.transpose(turn)
    except Exception as error:  # Pillow may raise any exception
        raise DataError(f"cannot be read as an image: {_reason(error)}", image) from error


def _reason(error: Exception) -> str:
    """Return in our words why an image is not read."""
    if isinstance(error, PilImage.DecompressionBombError):
        return "more than 179 million pixels in this format; save it smaller, or as JPEG"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if _CUT_SHORT.match(reason):
        return "the file is cut short; copy it again"
    if _DAMAGED.match(reason):
        return "the file is damaged; copy it again"
    return " ".join(reason.split())


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
        mended = png_without_texts(io.BytesIO(image.read()))
    except OSError:
        found = jpeg_with_end(image.read(), _decoded) if opened.format in JPEGS else None
        if found is None:
            raise
        _warn(image, "the end of this JPEG is missing, but none of its pixels")
        mended = found
    with open_image(ImageBytes(image.name, mended), for_pixels=True) as again:
        _reduce(again, size_px)
        again.load()
        return again


def _decoded(content: bytes) -> PilImage.Image:
    """Decode an image in full."""
    with open_image(ImageBytes("", content), for_pixels=True) as opened:
        refuse_large(opened.width * opened.height)
        opened.load()
        return opened


def _warn(image: Image, reason: str) -> None:
    warnings.warn(f"{printable(image)}: {reason}", MlcrfWarning, stacklevel=3)


def _orientation(image: PilImage.Image) -> int:
    """Return the orientation of a decoded image, from EXIF; TIFF and JPEG XL have turned theirs."""
    if image.format == "JXL":  # whose EXIF keeps the orientation
        return 1
    # ImageOps.exif_transpose also rewrites EXIF, which fails on odd tags.
    with suppress(Exception):  # unreadable EXIF: no rotation
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
