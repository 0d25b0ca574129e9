"""Make the source of a backbone's features: the network, or the table that holds them."""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mlcrf.backbones.deferred import DeferredBackbone
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.feature_source import Decoded, Feature, FeatureSource
from mlcrf.backbones.registry import Backbone, BackboneSpec, Source
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError, DataError
from mlcrf.images import Image
from mlcrf.images.number_rows import NumberRow


class TableFeatures(FeatureSource):
    """The features that rows of a table of numbers bring with them."""

    def __init__(self, spec: BackboneSpec) -> None:
        self._spec = spec
        self.num_workers = 1

    @property
    def spec(self) -> BackboneSpec:
        return self._spec

    def stream(self, images: Iterable[Image]) -> Generator[Feature | DataError, None, None]:
        yield from map(self._of, images)

    def decode(self, image: Image) -> Decoded | DataError:
        return self._without(image)

    def of_decoded(
        self, images: Sequence[Image], decoded: Sequence[Decoded | DataError]
    ) -> list[Feature | DataError]:
        return list(map(self._of, images))

    def maps(self, image: Image) -> tuple[Tensor, ...]:
        raise BackboneError(f"{image}: is a row of a table of numbers, and shows no place")

    def _of(self, image: Image) -> Feature | DataError:
        if not isinstance(image, NumberRow):
            return self._without(image)
        if image.features is None:
            return DataError(image.fault, image)
        if image.features.shape != (len(self._spec.features),):
            expected = f"has {len(image.features)} features, expected {len(self._spec.features)}"
            return DataError(expected, image)
        return image.features

    def _without(self, image: Image) -> DataError:
        return DataError(
            "is no row of a table of numbers, which this run learned from; give it a table", image
        )


def make_source(
    backbone: Backbone | DeferredBackbone,
    *,
    engine: EngineName = EngineName.AUTO,
    device: torch.device = torch.device("cpu"),
    cache_dir: Path | None = None,
    num_workers: int | None = None,
) -> FeatureSource:
    """Return the source of a backbone's features; see `FeatureExtractor` for the arguments."""
    if backbone.spec.source is Source.TABLE:
        return TableFeatures(backbone.spec)
    return FeatureExtractor(
        backbone, engine=engine, device=device, cache_dir=cache_dir, num_workers=num_workers
    )
