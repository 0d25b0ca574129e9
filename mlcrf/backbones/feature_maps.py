"""Feature maps: the features of a network before they are averaged over the image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.registry import Backbone
from mlcrf.backbones.views import VIEWS
from mlcrf.errors import BackboneError

_TOLERANCE = 1e-5  # largest difference from the features, relative to the largest feature


@torch.no_grad()
def feature_map(backbone: Backbone, pixels: NDArray[np.uint8]) -> Tensor:
    """Return the map of one image whose mean over all places is its features, (D, H', W').

    Of several views it is the mean of their maps, in the places of the plain one.

    Args:
        backbone: of one network.
        pixels: of one image, (H, W, 3).

    Raises:
        BackboneError: the network's features are not the mean of a map, as with attention pooling
            or layers after the pooling.
    """
    network: Any = backbone.network
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):  # timm's
        given = torch.from_numpy(np.array(pixels[None])).to(backbone.mean.device)
        images = backbone.normalise(given)
        found = [_map_of(network, view.of(images)) for view in VIEWS[: backbone.spec.views]]
        maps = [one for one in found if one is not None]
        if len(maps) == len(found):
            size = (maps[0].shape[1], maps[0].shape[2])
            seen = zip(VIEWS, maps, strict=False)
            return torch.stack([view.undo(one, size) for view, one in seen]).mean(0).cpu()
    raise BackboneError(
        f"backbone {backbone.spec.name}: its features are not the mean of a map, so no map can "
        "show where in an image they come from"
    )


def _map_of(network: Any, images: Tensor) -> Tensor | None:
    """Return the map of one image whose mean is its features, if there is one."""
    maps: Tensor = network.forward_features(images)
    features: Tensor = network.forward_head(maps)[0]
    for one in (maps[0], maps[0].permute(2, 0, 1)) if maps.ndim == 4 else ():  # D first or last
        if len(one) == len(features) and _is_close(one.mean((1, 2)), features):
            return one
    return None


def _is_close(mean: Tensor, features: Tensor) -> bool:
    return bool((mean - features).abs().max() <= _TOLERANCE * features.abs().max())
