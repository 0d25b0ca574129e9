"""Convert decoded images of any mode to RGB."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PilImage

# A value with less than this share of its range is nearly black.
_DARK = 1 / 16
_STRIP_ROWS = 256  # converted at a time, so that little memory is needed beside the image
_UNSIGNED = 1  # a SampleFormat of TIFF


def to_rgb(image: PilImage.Image) -> PilImage.Image:
    """Return an image in RGB; transparency becomes white.

    Grey values of more than 8 bits are scaled from their range, see `_range_of`.

    Raises:
        OSError: no value of floating point is finite.

    Memory: up to 9 bytes per pixel beside the image.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = PilImage.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")


def is_16_bit_colour(image: PilImage.Image) -> bool:
    """Return whether an image that is not yet decoded has colours of 16 bits.

    Pillow keeps the upper 8 bits of them.
    """
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in tiles)


def is_nearly_black(image: PilImage.Image) -> bool:
    """Return whether an RGB image has colours that are not 0, and none above a sixteenth."""
    counts = np.array(image.histogram()).reshape(3, 256)
    return not counts[:, int(256 * _DARK) :].any() and bool(counts[:, 1:].any())


def _grey(image: PilImage.Image) -> PilImage.Image:
    low, high = _range_of(image)
    grey = PilImage.new("L", image.size)
    for top, values in _strips(image):
        if (low, high) == (0, 65535):
            scaled = (values.clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        else:
            share = np.nan_to_num((values.astype(np.float64) - low) / (high - low or 1))
            scaled = (share.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        grey.paste(PilImage.fromarray(scaled), (0, top))
    return grey


def _range_of(image: PilImage.Image) -> tuple[float, float]:
    """Return the values of black and white.

    White is the largest value of the kind of image: 1 of floating point, 65535 of integers, or as
    its number of bits allows. If some value is larger, or all are below a sixteenth of it, as where
    12 bits are stored in 16, white is the largest value in the image. Black is 0, or the smallest
    value if that is negative.
    """
    lowest, highest = np.inf, -np.inf
    for _, values in _strips(image):
        finite = values[np.isfinite(values)]
        if finite.size:
            lowest, highest = min(lowest, finite.min()), max(highest, finite.max())
    if highest == -np.inf:
        raise OSError("no pixel has a finite value")
    white = _white(image)
    is_usual = _DARK * white <= highest <= white or highest <= 0
    return min(float(lowest), 0.0), white if is_usual else float(highest)


def _white(image: PilImage.Image) -> int:
    if image.mode == "F":
        return 1
    bits = _tiff_tag(image, ExifTags.Base.BitsPerSample, 16)
    if bits == 16 and _tiff_tag(image, ExifTags.Base.SampleFormat, _UNSIGNED) != _UNSIGNED:
        bits = 15  # and a sign
    return int(2 ** min(bits, 16)) - 1


def _strips(image: PilImage.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield rows of values, each strip with the position of its first row."""
    tag = ExifTags.Base.SampleFormat
    is_wrapped = image.mode == "I" and _tiff_tag(image, tag, 0) == _UNSIGNED  # Pillow has int32
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        yield top, values.view(np.uint32) if is_wrapped else values


def _tiff_tag(image: PilImage.Image, tag: int, default: int) -> int:
    """Return the value of a tag of a TIFF for the first sample, or a default."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
