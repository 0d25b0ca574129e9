"""Backbones by name: network, weights and input.

timm, which takes longer to import than a network takes to run, is imported where it is used.
`find_spec` describes a backbone, `make_backbone` builds it. To add a source of weights: a member
of `Source`, and its case in both.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from mlcrf.backbones.packaged_weights import (
    find_weights,
    load_packaged_weights,
)
from mlcrf.backbones.views import VIEWS, average_over_views, enlarged_px, require_views
from mlcrf.errors import BackboneError
from mlcrf.hints import did_you_mean
from mlcrf.images.framing import Framing

OWN_PREFIXES = ("local-dir:", "hf-hub:")  # of names of networks of one's own, as timm spells them
TABLE = "table"  # name of the backbone of a table of numbers
LARGEST_PX = 1024  # side of a network's input
_SMALLEST_PX = 32
_HALF = (0.5, 0.5, 0.5)
_LITE_SIZES_PX = {"lite0": 224, "lite1": 240, "lite2": 260}


class Source(StrEnum):
    """Sources of the weights of a backbone."""

    PACKAGE = "package"
    SCRATCH = "scratch"
    HUB = "hub"
    OWN = "own"  # a file of the user, a folder, or a repository of the hub
    TABLE = "table"  # no network: features are columns of a table


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone's input and origin; written into a run, so that prediction sees the same pixels.

    Attributes:
        size_px: side of the square input.
        mean, std: mean and standard deviation of each colour, on the scale 0 to 1.
        weights: the user's file of weights; empty for all but `OWN` by --weights.
        sha256: SHA-256 of the file of weights, for `OWN`.
        features: names of the features, if a table holds them (D,).
        views: number of views of an image whose features are averaged; see `VIEWS`.
        framing: cut and filter that the network's configuration asks for, for `OWN`; None squeezes
            the image.
    """

    name: str
    source: Source
    size_px: int
    mean: tuple[float, ...] = _HALF
    std: tuple[float, ...] = _HALF
    weights: str = ""
    sha256: str = ""
    features: tuple[str, ...] = ()
    views: int = 1
    framing: Framing | None = None

    @property
    def title(self) -> str:
        """The name, and the number of views if there are several."""
        return self.name if self.views == 1 else f"{self.name}, {self.views} views"

    @property
    def part_specs(self) -> "tuple[BackboneSpec, ...]":
        """The spec of each network, if the backbone combines several; else empty."""
        if self.source is Source.OWN or "+" not in self.name:
            return ()
        return tuple(find_spec(one, views=self.views) for one in self.name.split("+"))


class Backbone(nn.Module):
    """Pixels uint8 (N, H, W, 3) to features (N, D): normalise, then the network with pooling.

    Attributes:
        num_features: D.
        parts: the networks, if the backbone combines several: each is a backbone with its own
            input size, features are concatenated, and the whole takes no pixels. Else empty.
        published: SHA-256 of the file that the weights are from, if it is one that we know; empty
            once others are loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        network: nn.Module,
        num_features: int,
        parts: "tuple[Backbone, ...]" = (),
    ) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.num_features = num_features
        self.parts = parts
        self.published = ""
        # timm's lite nets end in a ReLU6 that must not see bfloat16 buffers: keep these float32
        self.register_buffer("mean", 255 * torch.tensor(spec.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of a batch of images."""
        if self.parts:
            raise BackboneError(f"{self.spec.name}: run each of its parts, on pixels of its size")
        return average_over_views(self.network, self.normalise(pixels), self.spec.views)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return the input of the network (N, 3, H, W)."""
        images = (pixels.to(self.mean.dtype) - self.mean) / self.std
        return images.permute(0, 3, 1, 2)

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        for one in (self, *self.parts):
            one.published = ""
        return super().load_state_dict(*given, **named)

    def load_changes(self, changes: Mapping[str, Tensor]) -> None:
        """Replace some of the published weights.

        Args:
            changes: by name in the state dict; see `changed`.

        Raises:
            RuntimeError: a weight that the network does not have, or of another shape.
        """
        published = [one.published for one in (self, *self.parts)]
        self.load_state_dict(self.state_dict() | dict(changes))
        if self.parts:
            for at, (part, one) in enumerate(zip(self.parts, published[1:], strict=True)):
                part.published = with_changes(one, weights_of_part(changes, at))
            self.published = "+".join(part.published for part in self.parts if part.published)
        else:
            self.published = with_changes(published[0], changes)

    def changed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of new weights that differ from the present ones."""
        present = self.state_dict()
        return {key: one for key, one in weights.items() if not torch.equal(one, present[key])}

    def take(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take trained weights; return those of them that a run has to keep.

        Args:
            weights: by name in the state dict; of a network of the package they may be some of
                all, or none.
        """
        if self.spec.source is Source.PACKAGE:
            changes = self.changed(weights)
            self.load_changes(changes)
            return changes
        if weights:
            self.load_state_dict(weights)
        return dict(weights)

    def join_weights(self, weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return weights of each part as those of the whole."""
        return {
            f"{_prefix(at)}{key}": value
            for at, one in enumerate(weights)
            for key, value in one.items()
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of name, input and weights: everything that features depend on."""
        return fingerprint(self.spec, self.published or self.state_dict())

    def require_finite(self) -> None:
        """Raise a BackboneError if a weight is NaN or infinite."""
        require_finite_weights(self.spec, self.state_dict())

    def built(self) -> "Backbone":
        """Return the backbone itself; see `DeferredBackbone`."""
        return self


def fingerprint(spec: BackboneSpec, weights: str | Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a backbone with these weights, or those of a file."""
    colours = (*spec.mean, *spec.std)  # a loaded spec has lists
    given: tuple[object, ...] = (spec.name, spec.size_px, *colours)
    if spec.views > 1:
        given += (f"{spec.views} views",)
    if spec.framing is not None:
        given += (str(spec.framing), *spec.framing.fill)
    return _digest(repr(given), weights)


def with_changes(published: str, changes: Mapping[str, Tensor]) -> str:
    """Return the digest of published weights of which some are replaced; empty if it is unknown."""
    return _digest(published, changes) if published and changes else published


def _digest(begin: str, weights: str | Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(begin.encode())
    if isinstance(weights, str):
        digest.update(weights.encode())
    else:
        for key in sorted(weights):
            digest.update(key.encode())
            digest.update(weights[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights_of_part(weights: Mapping[str, Tensor], at: int) -> dict[str, Tensor]:
    """Return the weights of one of several networks, by their names in it."""
    prefix = _prefix(at)
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def _prefix(at: int) -> str:
    """Return what the names of a part's weights begin with among those of the whole."""
    return f"network.{at}."


def require_finite_weights(spec: BackboneSpec, weights: Mapping[str, Tensor]) -> None:
    """Raise a BackboneError if a weight of a backbone is NaN or infinite."""
    if not all(bool(torch.isfinite(one).all()) for one in weights.values()):
        raise BackboneError(
            f"backbone {spec.name}: a weight is NaN or infinite; use another run, or train again"
        )


class Tiny(nn.Module):
    """A small network that is trained from scratch, for drawn scenes and tests.

    Four strided 3 x 3 convolutions with batch normalisation: (N, 3, H, W) -> (N, 128).

    Half the features are the mean of a channel over the image, half its maximum, so that a
    small mark is not averaged away. About 100,000 parameters.

    Args:
        seed: random seed of the initial weights; the global random state is not changed.
    """

    num_features = 128

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        widths = [3, 24, 32, 48, 64]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                *(
                    nn.Sequential(
                        nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                        nn.BatchNorm2d(wide),
                        nn.ReLU(),
                    )
                    for narrow, wide in pairwise(widths)
                )
            )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images)
        return torch.cat([maps.mean((-2, -1)), maps.amax((-2, -1))], -1)


def table_spec(features: tuple[str, ...]) -> BackboneSpec:
    """Return the backbone of a table of numbers with these features."""
    return BackboneSpec(TABLE, Source.TABLE, 1, features=features)


def find_spec(name: str, weights: str | None = None, *, views: int = 1) -> BackboneSpec:
    """Return the input and origin of a backbone.

    Names with `+` between them are several networks, whose features are concatenated. `lite0@288`
    is a network with another input size than it has by default, which convolutional networks
    take: they see more of a larger image.

    Args:
        weights: file of weights for the network of timm with this name.
        views: number of views of an image whose features are averaged, of each network.

    Raises:
        BackboneError: timm has no such network or weights; the text suggests close names. Or
            weights of one's own cannot be found, or are not safetensors. Or the size is none,
            or there are no such views.
    """
    require_views(views)
    return replace(_find_plain(name, weights), views=views)


def _find_plain(name: str, weights: str | None) -> BackboneSpec:
    """Return the spec of a backbone that sees one view."""
    if weights is not None or name.startswith(OWN_PREFIXES):
        return _own_spec(name, weights)
    if "+" in name:
        if not all(name.split("+")):
            raise BackboneError(f"backbone {name!r}: expected a network on each side of every +")
        parts = [_find_plain(part, None) for part in name.split("+")]
        if len({part.source for part in parts}) > 1 or parts[0].source is Source.SCRATCH:
            raise BackboneError(
                f"backbone {name!r}: networks can be combined only if all have published "
                "weights from one source, such as lite0+lite2"
            )
        if len(set(parts)) < len(parts):
            raise BackboneError(f"backbone {name!r}: names a network twice; leave out one")
        together = "+".join(part.name for part in parts)
        return BackboneSpec(together, parts[0].source, max(part.size_px for part in parts))
    name, size_px = split_size(name)
    found = _find_named(name)
    if size_px in (None, found.size_px):
        return found
    return replace(found, name=f"{name}@{size_px}", size_px=size_px)


def split_size(name: str) -> tuple[str, int | None]:
    """Return a network's name and the input size that is asked for, if any."""
    network, at, size = name.partition("@")
    return (network, _read_size(name, network, size)) if at and network else (name, None)


def _read_size(name: str, network: str, size: str) -> int:
    if not size.isdecimal() or not _SMALLEST_PX <= int(size) <= LARGEST_PX:
        raise BackboneError(
            f"backbone {name!r}: expected an input size from {_SMALLEST_PX} to {LARGEST_PX} px "
            f"after @, such as {network}@288"
        )
    return int(size)


def _split_own_size(name: str) -> tuple[str, int | None]:
    """Return a network of one's own, and the input size after the last @, if it is one.

    A folder may have an @ in its name, and a revision of the hub follows one: a number of two to
    four digits is a size, unless a folder is called so.
    """
    network, at, size = name.rpartition("@")
    if not name.startswith(OWN_PREFIXES):
        return split_size(name)
    is_size = at and size.isdecimal() and 2 <= len(size) <= 4
    if not is_size or Path(name.removeprefix(OWN_PREFIXES[0])).is_dir():
        return name, None
    return network, _read_size(name, network, size)


def _find_named(name: str) -> BackboneSpec:
    """Return the spec of a single network with its own input size."""
    if name in _LITE_SIZES_PX:
        return BackboneSpec(name, Source.PACKAGE, _LITE_SIZES_PX[name])
    if name == "tiny":
        return BackboneSpec(name, Source.SCRATCH, 64)
    import timm

    _require_known(name)
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tagged = timm.list_models(f"{name.split('.', maxsplit=1)[0]}.*", pretrained=True)
        raise BackboneError(
            f"unknown backbone {name!r}: timm has no such weights; known are {', '.join(tagged)}"
        ) from error
    assert config is not None, "an unregistered name raises"
    return BackboneSpec(name, Source.HUB, config.input_size[1], config.mean, config.std)


def _require_known(name: str) -> None:
    import timm

    if name.split(".", maxsplit=1)[0] not in timm.list_models():
        known = [*_LITE_SIZES_PX, "tiny", *timm.list_models()]
        hint = did_you_mean(name, known, most=3)
        raise BackboneError(f"unknown backbone {name!r}: none of lite0-2, tiny or timm's{hint}")


def _own_spec(name: str, weights: str | None) -> BackboneSpec:
    if "+" in name or name.partition("@")[0] in (*_LITE_SIZES_PX, "tiny"):
        raise BackboneError(
            f"--weights goes with one network of timm's, not with backbone {name!r}; for the "
            "architecture of lite0 name tf_efficientnet_lite0"
        )
    if not name.startswith(OWN_PREFIXES):
        _require_known(split_size(name)[0])
    from mlcrf.backbones.own_weights import find_own

    network, size_px = _split_own_size(name)
    own = find_own(network, weights)
    given = own.transform()
    spec = BackboneSpec(
        own.name,
        Source.OWN,
        given.size_px,
        given.mean,
        given.std,
        own.given_file,
        own.digest(),
        framing=given.framing,
    )
    if size_px in (None, given.size_px):
        return spec
    spec = replace(spec, name=f"{own.name}@{size_px}", size_px=size_px)
    _require_size(own.architecture(), spec)
    return spec


def make_backbone(spec: BackboneSpec, *, pretrained: bool = True, seed: int = 0) -> Backbone:
    """Build a backbone, in evaluation mode.

    Args:
        pretrained: load the published weights; False where a checkpoint will fill them in.
        seed: random seed of the initial weights if there are no published weights.

    Raises:
        BackboneError: the weights are neither installed nor cached, and cannot be downloaded.
    """
    network: nn.Module
    if spec.part_specs:
        parts = tuple(make_backbone(part, pretrained=pretrained) for part in spec.part_specs)
        together = sum(part.num_features for part in parts)
        whole = Backbone(spec, nn.ModuleList(parts), together, parts)
        whole.published = "+".join(part.published for part in parts if part.published)
        return whole.eval()
    published = ""
    own_name = spec.source is Source.OWN  # where @ may begin a revision
    name, size_px = (_split_own_size if own_name else split_size)(spec.name)
    match spec.source:
        case Source.SCRATCH:
            network = Tiny(seed=seed)
            num_features = Tiny.num_features
        case Source.PACKAGE:
            import timm

            lite: Any = timm.create_model(f"tf_efficientnet_{name}", num_classes=0)
            network, num_features = lite, lite.num_features
            if pretrained:
                published = load_packaged_weights(name, network)
        case Source.HUB:
            network = _from_hub(name, pretrained=pretrained)
            if size_px is not None:
                _require_size(network, spec)
            _require_views(network, spec)
            num_features = _measure(network, spec.size_px)
        case Source.OWN:
            from mlcrf.backbones.own_weights import find_own

            own = find_own(name, spec.weights or None)
            network = own.make(spec.sha256) if pretrained else own.architecture()
            _require_views(network, spec)
            num_features = _measure(network, spec.size_px)
        case Source.TABLE:
            network, num_features = nn.Identity(), len(spec.features)
        case other:
            assert_never(other)
    backbone = Backbone(spec, network, num_features)
    backbone.published = published
    return backbone.eval()


def available_offline() -> dict[str, bool]:
    """Return whether each backbone named by mlcrf is available offline."""
    return {"tiny": True} | {name: find_weights(name) is not None for name in _LITE_SIZES_PX}


@torch.inference_mode()
def _measure(network: nn.Module, size_px: int) -> int:
    # timm's num_features is the width before the head, not always that of the output
    return int(network.eval()(torch.zeros(1, 3, size_px, size_px)).shape[1])


def _require_size(network: nn.Module, spec: BackboneSpec) -> None:
    """Refuse an input size that a network cannot take, as those with positions learned do."""
    try:
        _measure(network, spec.size_px)
    except (AssertionError, RuntimeError) as error:
        raise BackboneError(
            f"backbone {spec.name}: the network does not take images of {spec.size_px} px; name it "
            "without @"
        ) from error


def _require_views(network: nn.Module, spec: BackboneSpec) -> None:
    """Refuse enlarged views of a network that takes images of one size only."""
    if all(not view.enlarged for view in VIEWS[: spec.views]):
        return
    size_px = enlarged_px(spec.size_px)
    try:
        _measure(network, size_px)
    except (AssertionError, RuntimeError) as error:
        raise BackboneError(
            f"backbone {spec.name}: the network does not take images of {size_px} px, which "
            f"--views {spec.views} enlarges them to; use --views 2"
        ) from error


def _from_hub(name: str, *, pretrained: bool) -> nn.Module:
    import timm

    from mlcrf.backbones.hub_access import offline_if_unreachable

    try:
        with offline_if_unreachable() if pretrained else nullcontext():
            network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        raise BackboneError(
            f"backbone {name!r}: its weights could not be fetched from timm's hub "
            f"({type(error).__name__}). Use lite0, lite1 or lite2, whose weights are installed, "
            "or run once where the hub is reachable"
        ) from error
    return network
