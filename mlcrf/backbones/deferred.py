"""Backbones that are known by their features, and built once something has to compute."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from threading import Lock

from torch import Tensor

from mlcrf.backbones.packaged_weights import packaged_digest
from mlcrf.backbones.registry import (
    Backbone,
    BackboneSpec,
    Source,
    fingerprint,
    require_finite_weights,
    split_size,
    weights_of_part,
    with_changes,
)

_LITE_FEATURES = 1280  # of each network of the package


class DeferredBackbone:
    """A backbone that is known by its features, and built once something has to compute.

    Building one takes longer than tagging a photo with its compiled network or with features that
    are kept. Use it in the place of a `Backbone` that is not changed.

    Attributes:
        spec, num_features, parts: as those of the backbone.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        num_features: int,
        fingerprint: str,
        build: Callable[[], Backbone],
        parts: "tuple[DeferredBackbone, ...]" = (),
    ) -> None:
        self.spec, self.num_features, self.parts = spec, num_features, parts
        self._fingerprint, self._build = fingerprint, build
        self._built: Backbone | None = None
        self._building = Lock()

    def fingerprint(self) -> str:
        """Return that of the backbone."""
        return self._fingerprint

    def require_finite(self) -> None:
        """Do nothing: weights were looked at when they were read, or are published."""

    def built(self) -> Backbone:
        """Return the backbone, built by the first call."""
        with self._building:
            if self._built is None:
                self._built = self._build()
        return self._built


def defer_backbone(
    spec: BackboneSpec,
    num_features: int,
    weights: Mapping[str, Tensor] | None,
    build: Callable[[], Backbone],
) -> Backbone | DeferredBackbone:
    """Return a backbone to compute features with, built only where that is needed.

    Args:
        weights: those that the network is given; None for published ones, which only a network of
            the hub or of one's own has to be built for to be known, as have several of the hub.
        build: builds it.

    Raises:
        BackboneError: see `make_backbone`; or a weight is not finite.
    """
    if weights is not None:
        require_finite_weights(spec, weights)
    if spec.source is not Source.PACKAGE:
        if weights is None or spec.part_specs:
            return build()
        return DeferredBackbone(spec, num_features, fingerprint(spec, weights), build)
    changes, build = weights or {}, cache(build)
    if not spec.part_specs:
        return DeferredBackbone(
            spec, num_features, fingerprint(spec, _packaged(spec, changes)), build
        )
    digests = [
        _packaged(part, weights_of_part(changes, at)) for at, part in enumerate(spec.part_specs)
    ]
    parts = tuple(
        DeferredBackbone(part, _LITE_FEATURES, fingerprint(part, digest), partial(_part, build, at))
        for at, (part, digest) in enumerate(zip(spec.part_specs, digests, strict=True))
    )
    return DeferredBackbone(spec, num_features, fingerprint(spec, "+".join(digests)), build, parts)


def _part(build: Callable[[], Backbone], at: int) -> Backbone:
    return build().parts[at]


def _packaged(spec: BackboneSpec, changes: Mapping[str, Tensor]) -> str:
    """Return the digest of a network of the package with some of its weights replaced."""
    return with_changes(packaged_digest(split_size(spec.name)[0]), changes)
