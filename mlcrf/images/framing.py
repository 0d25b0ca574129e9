"""Resize and cut of an image to the square that a network sees, as timm's configurations say it."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # of Pillow
_LONGEST = 32  # ratio of the sides; what is cut off at the ends of longer images is not resized


class CropMode(StrEnum):
    """Ways to a square: the middle, the whole image between borders, or the image squeezed."""

    CENTER = "center"
    BORDER = "border"
    SQUASH = "squash"


@dataclass(frozen=True)
class Framing:
    """Cut and filter of timm's evaluation transform.

    Attributes:
        crop_pct: side of the square, as a share of the image's side after resizing; above 0, at
            most 1.
        interpolation: one of `FILTERS`.
        fill: colour of borders, on the scale 0 to 1.
    """

    crop_mode: CropMode
    crop_pct: float
    interpolation: str
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct {self.crop_pct}: expected above 0, at most 1")
        if self.interpolation not in FILTERS:
            raise ValueError(
                f"interpolation {self.interpolation!r}: expected one of {', '.join(FILTERS)}"
            )
        if len(self.fill) != 3 or not all(0 <= one <= 1 for one in self.fill):
            raise ValueError(f"fill {self.fill}: expected three numbers from 0 to 1")

    def __str__(self) -> str:
        """Return it in words."""
        kept = f"{100 * self.crop_pct:g} % of the side kept"
        match self.crop_mode:
            case CropMode.CENTER:
                how = f"middle, {kept}"
            case CropMode.BORDER:
                how = f"whole between borders, {kept}"
            case CropMode.SQUASH:
                how = "squeezed" if self.crop_pct == 1 else f"squeezed, {kept}"
        return f"{how}, {self.interpolation}"

    @property
    def keeps_all(self) -> bool:
        """Return whether the square is the image, squeezed."""
        return self.crop_mode is CropMode.SQUASH and self.crop_pct == 1

    def resized_px(self, size_px: int) -> int:
        """Return the side before the cut of a square of `size_px`."""
        return int(size_px / self.crop_pct)

    def apply(self, image: PilImage.Image, size_px: int) -> NDArray[np.uint8]:
        """Return the pixels (size_px, size_px, 3) of an RGB image, as timm's transform does."""
        if self.crop_mode is CropMode.CENTER:
            image = _without_ends(image)
        pixels: NDArray[np.uint8] = _make_transform(self, size_px)(image).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(pixels)


def _without_ends(image: PilImage.Image) -> PilImage.Image:
    """Return the middle of a very long image, of which no more is seen."""
    width, height = image.size
    left, top = (max(0, (one - _LONGEST * min(image.size)) // 2) for one in (width, height))
    return image.crop((left, top, width - left, height - top)) if left or top else image


@lru_cache(maxsize=8)
def _make_transform(framing: Framing, size_px: int) -> Any:
    from timm.data.transforms_factory import create_transform

    return create_transform(
        (3, size_px, size_px),
        is_training=False,
        normalize=False,
        crop_mode=framing.crop_mode.value,
        crop_pct=framing.crop_pct,
        interpolation=framing.interpolation,
        mean=framing.fill,
    )
