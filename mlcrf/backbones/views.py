"""Views of an image that one network sees: plain, mirrored, enlarged; their features are averaged.

On 5,000 photos, with linear heads, crops added less than the enlarged image, whose map holds them
all: `experiments/LOG.md`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mlcrf.errors import BackboneError

_FACTOR = 9 / 7  # of the enlarged input: two more places in each direction of a map of seven


@dataclass(frozen=True)
class View:
    """An image as it is, or mirrored left to right, or enlarged, or both."""

    mirrored: bool = False
    enlarged: bool = False

    def of(self, images: Tensor) -> Tensor:
        """Return this view of images (N, 3, H, W)."""
        if self.mirrored:
            images = images.flip(-1)
        if self.enlarged:
            size = (enlarged_px(images.shape[-2]), enlarged_px(images.shape[-1]))
            images = interpolate(images, size, mode="bilinear", align_corners=False)
        return images

    def undo(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return maps (D, H', W') of this view in the places of the image, (D, *size)."""
        if self.mirrored:
            maps = maps.flip(-1)
        rows, columns = (
            _overlaps(own, wanted).to(maps)
            for own, wanted in zip(maps.shape[1:], size, strict=True)
        )
        return rows @ maps @ columns.T


VIEWS = (View(), View(mirrored=True), View(enlarged=True), View(mirrored=True, enlarged=True))


def enlarged_px(size_px: int) -> int:
    """Return the side of an enlarged view."""
    return round(size_px * _FACTOR)


def require_views(views: int) -> None:
    """Raise a BackboneError unless there are so many views."""
    if not 1 <= views <= len(VIEWS):
        raise BackboneError(f"{views} views: expected a number from 1 to {len(VIEWS)}")


def average_over_views(network: nn.Module, images: Tensor, views: int) -> Tensor:
    """Return the mean of a network's features over the first views of each image, (N, D).

    Cost: 1, 2, 3.7 or 5.3 times that of one view.
    """
    features: Tensor = network(images)
    for view in VIEWS[1:views]:
        features = features + network(view.of(images))
    return features / views


def _overlaps(own: int, wanted: int) -> Tensor:
    """Return weights (wanted, own) that resize a line by area, so that its mean stays the same."""
    ends = torch.arange(1, wanted + 1).unsqueeze(1) / wanted
    own_ends = torch.arange(1, own + 1) / own
    begins, own_begins = ends - 1 / wanted, own_ends - 1 / own
    shared = torch.minimum(ends, own_ends) - torch.maximum(begins, own_begins)
    return shared.clamp(min=0) * wanted
