"""A network in two parts: layers that are kept as they are, and the last stage, which is trained.

To add an architecture: the name of its stages in `_STAGES`, if it has none of these.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mlcrf.backbones.registry import Backbone
from mlcrf.errors import BackboneError

_STAGES = ("blocks", "stages", "layers", "layer4", "s4")  # of timm's networks
_WHOLE = ("layer4", "s4")  # stages that are a child of the network on their own
_TOLERANCE = 1e-4  # largest difference from the whole network, relative to the largest feature
_CHECKED = 2  # number of images compared


@dataclass(frozen=True)
class NetworkParts:
    """The layers of a network before its last stage, and the rest.

    Attributes:
        front: pixels (N, H, W, 3) to the activations before the last stage, those of the plain
            image and then those of the mirrored one, as features (N, 2 C H' W').
        rest: activations (N, C, H', W') to features (N, D). Its layers are those of the network,
            which changes with it.
        shape: (C, H', W') of the activations, in the order of the network.
    """

    front: Backbone
    rest: nn.Module
    shape: tuple[int, ...]

    def as_maps(self, activations: Tensor) -> Tensor:
        """Return the activations of one view, (N, C H' W'), as `rest` takes them."""
        return activations.reshape(-1, *self.shape)


def split_network(backbone: Backbone) -> NetworkParts:
    """Divide a network before its last stage, and check that both parts together give its features.

    The last stage is the last of several in a row, with all layers after it: `blocks.6`,
    `conv_head` and `bn2` of lite0, `layer4` of a ResNet.

    Raises:
        BackboneError: the network has no such stages.
    """
    network: Any = backbone.network
    children: dict[str, nn.Module] = dict(network.named_children())
    name = next((one for one in _STAGES if one in children), None)
    if name is None or not hasattr(network, "forward_features"):
        raise _no_stage(backbone)
    names = list(children)
    at = names.index(name)
    within = [children[name]] if name in _WHOLE else list(children[name].children())
    skipped = [nn.Identity() for _ in within[:-1]]
    ahead = _with_children(
        network,
        {name: nn.Sequential(*within[:-1], nn.Identity())}
        | {one: nn.Identity() for one in names[at + 1 :]},
    )
    rest = _with_children(
        network,
        {one: nn.Identity() for one in names[:at]} | {name: nn.Sequential(*skipped, within[-1])},
    )
    front_network = _Front(ahead)
    size_px = backbone.spec.size_px
    drawn = torch.rand(
        _CHECKED, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)
    ).to(backbone.mean)
    try:
        with torch.inference_mode():
            maps = ahead.forward_features(drawn)
            found, expected = rest(maps), network(drawn)
        is_same = bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise _no_stage(backbone) from error
    if not is_same:
        raise _no_stage(backbone)
    spec = replace(backbone.spec, views=1)
    front = Backbone(spec, front_network, 2 * maps[0].numel())
    return NetworkParts(front.eval(), rest.eval(), tuple(maps.shape[1:]))


class _Front(nn.Module):
    """Activations of images and of their mirror images, side by side."""

    def __init__(self, ahead: nn.Module) -> None:
        super().__init__()
        self.ahead: Any = ahead

    def forward(self, images: Tensor) -> Tensor:
        views = (images, images.flip(-1))
        return torch.cat([self.ahead.forward_features(view).flatten(1) for view in views], 1)


def _with_children(network: nn.Module, changed: dict[str, nn.Module]) -> Any:
    """Return the network with other children, which shares the rest with it."""
    result = copy.copy(network)
    result._modules = {**network._modules, **changed}
    return result


def _no_stage(backbone: Backbone) -> BackboneError:
    return BackboneError(
        f"backbone {backbone.spec.name}: it is not known where its last stage begins; use "
        "--finetune all, or a network of which it is, such as lite0, resnet18 or convnext_tiny"
    )
