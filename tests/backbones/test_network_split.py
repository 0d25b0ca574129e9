"""Networks in two parts: together they are the network, and where none is known it is said."""

import numpy as np
import pytest
import timm
import torch

from mlcrf.backbones.network_split import split_network
from mlcrf.backbones.registry import Backbone, BackboneSpec, Source, find_spec, make_backbone
from mlcrf.errors import BackboneError


def draw_backbone(name: str) -> Backbone:
    """Return a network of timm with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model(name, num_classes=0).eval()
        for module in network.modules():  # statistics that are not those of no data
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
    return Backbone(BackboneSpec(name, Source.OWN, 64), network, network.num_features).eval()


@pytest.mark.parametrize(
    ("name", "first", "shape"),
    [
        ("test_efficientnet", "blocks.4.0.conv_pw.weight", (48, 4, 4)),
        ("test_resnet", "layer4.0.conv1.weight", (192, 4, 4)),
        ("test_convnext", "stages.3.downsample.0.weight", (48, 4, 4)),
    ],
)
@torch.no_grad()
def test_both_parts_are_the_network(name: str, first: str, shape: tuple[int, ...]) -> None:
    """The rest gives the features of an image and of its mirror image, from their activations."""
    backbone = draw_backbone(name)
    parts = split_network(backbone)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    plain, mirrored = parts.front(pixels).tensor_split(2, 1)
    assert parts.shape == shape and parts.front.num_features == 2 * plain.shape[1]
    for given, seen in ((plain, pixels), (mirrored, pixels.flip(2))):
        torch.testing.assert_close(parts.rest(parts.as_maps(given)), backbone(seen))
    names = [key for key, _ in backbone.network.named_parameters()]
    own = {id(one) for one in parts.rest.parameters()}
    trained = [key for key, one in backbone.network.named_parameters() if id(one) in own]
    assert trained == names[names.index(first) :], "the last stage, and all layers after it"


@torch.no_grad()
def test_the_network_follows_its_rest() -> None:
    """The network learns what the rest learns; its first layers stay."""
    backbone = draw_backbone("test_efficientnet")
    parts = split_network(backbone)
    pixels = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    before, ahead = backbone(pixels), parts.front(pixels)
    for one in parts.rest.parameters():
        one.mul_(1.1)
    assert not torch.allclose(backbone(pixels), before)
    assert torch.equal(parts.front(pixels), ahead)


@pytest.mark.parametrize("name", ["test_vit", "densenet121"])
def test_a_network_without_known_stages_is_refused(name: str) -> None:
    """Networks whose first layers cannot be left out, or without stages, are not cut."""
    network = timm.create_model(name, num_classes=0).eval()
    size_px = network.pretrained_cfg["input_size"][1]
    backbone = Backbone(BackboneSpec(name, Source.OWN, size_px), network, 1).eval()
    with pytest.raises(BackboneError, match=f"{name}: it is not known where its last stage begins"):
        split_network(backbone)


def test_the_packaged_network_has_its_last_block() -> None:
    parts = split_network(make_backbone(find_spec("lite0")))
    assert parts.shape == (192, 7, 7)
