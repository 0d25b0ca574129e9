"""Maps of features: their mean is what the network gives, and other networks are refused."""

import numpy as np
import pytest
import timm
import torch

from mlcrf.backbones.feature_maps import feature_map
from mlcrf.backbones.registry import Backbone, BackboneSpec, Source
from mlcrf.errors import BackboneError

SMALL_SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24}
SMALL_SWIN |= {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def backbone(name: str, **options: object) -> Backbone:
    """A network with random weights."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **options).eval()
    return Backbone(BackboneSpec(name, Source.HUB, 64), network, network.num_features)


@pytest.mark.parametrize(
    ("name", "options"),
    [("tf_efficientnet_lite0", {}), ("swin_tiny_patch4_window7_224", SMALL_SWIN)],
    ids=["channels-first", "channels-last"],
)
def test_mean_is_the_features(name: str, options: dict[str, object]) -> None:
    """Of 2 x 2 places of an image of 64 pixels, in the order of the image."""
    one = backbone(name, **options)
    found = feature_map(one, PIXELS)
    with torch.no_grad():
        features = one(torch.from_numpy(PIXELS[None]))[0]
    assert found.shape == (len(features), 2, 2)
    assert torch.allclose(found.mean((1, 2)), features, atol=1e-5 * float(features.abs().max()))


def test_other_networks_are_refused(tiny: Backbone) -> None:
    """Layers after the pooling, and half the features a maximum."""
    with pytest.raises(BackboneError, match=r"mobilenetv3_small_050: .* not the mean of a map"):
        feature_map(backbone("mobilenetv3_small_050"), PIXELS)
    with pytest.raises(BackboneError, match=r"tiny: .* not the mean of a map"):
        feature_map(tiny, PIXELS)
