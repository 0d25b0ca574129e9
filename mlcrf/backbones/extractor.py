"""Compute features of image files with a frozen backbone.

Images are decoded in parallel with the network, and features are cached.
"""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.cache import FeatureCache
from mlcrf.backbones.deferred import DeferredBackbone
from mlcrf.backbones.engines import Engine, engine_key, has_full_precision, make_engine
from mlcrf.backbones.feature_maps import feature_map
from mlcrf.backbones.feature_source import Decoded, Feature, FeatureSource
from mlcrf.backbones.registry import Backbone, BackboneSpec
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError, DataError, MlcrfWarning
from mlcrf.images import Image
from mlcrf.images.framing import Framing
from mlcrf.images.image import Stamp
from mlcrf.images.pixels import DECODING, load_pixels

BATCH_SIZE = 64
_BATCHES_AHEAD = 2  # number of batches decoded while the network runs
_FETCHING = 16  # maximum number of remote images fetched at the same time


@dataclass(frozen=True)
class _Decoded:
    """A decoded image, with the file's stamp and SHA-256 if its features will be cached."""

    pixels: NDArray[np.uint8]
    stamp: Stamp | None = None
    digest: bytes = b""


class FeatureExtractor(FeatureSource):
    """A frozen backbone for image files, compiled on first use.

    Args:
        cache_dir: cache folder for features and compiled networks; None disables the cache.
        num_workers: number of threads for decoding and for a CPU engine; None uses all available
            cores.

    Raises:
        BackboneError: a weight of the network is not finite.
    """

    def __init__(
        self,
        backbone: Backbone | DeferredBackbone,
        *,
        engine: EngineName = EngineName.AUTO,
        device: torch.device = torch.device("cpu"),
        cache_dir: Path | None = None,
        num_workers: int | None = None,
    ) -> None:
        backbone.require_finite()
        self._backbone = backbone
        self._engine_name = engine
        self._device = device
        self._cache_dir = cache_dir
        self.num_workers = num_workers or count_cores()
        self._num_threads = num_workers
        self._decoding = BoundedSemaphore(self.num_workers)
        self._engine: Engine | None = None
        self._is_as_named = True  # the engine is the engine named in the key
        self._beside = [
            FeatureExtractor(
                part, engine=engine, device=device, cache_dir=cache_dir, num_workers=num_workers
            )
            for part in backbone.parts
        ]
        parts = (backbone.fingerprint(), engine_key(engine, device), DECODING)
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    @property
    def spec(self) -> BackboneSpec:
        """The network and its input size."""
        return self._backbone.spec

    @property
    def _input(self) -> tuple[int, Framing | None]:
        return self.spec.size_px, self.spec.framing

    def stream(self, images: Iterable[Image]) -> Generator[Feature | DataError, None, None]:
        """Yield for each image its features (D,), all finite, or an error.

        Memory does not grow with the number of images. A cached image with an unchanged stamp is
        not read. An image without a stamp, as in an object store, is fetched every time, several
        in parallel, and its features are looked up by content.
        """
        if self._beside:
            yield from self._side_by_side(images)
            return
        remaining = iter(images)
        opened = FeatureCache(self._cache_dir, self.key) if self._cache_dir else nullcontext()
        with (
            opened as cache,
            ThreadPoolExecutor(self.num_workers) as workers,
            ThreadPoolExecutor(_FETCHING) as fetchers,  # threads start when needed
        ):
            begun: deque[tuple[list[Image], list[Feature | Future[_Decoded]]]] = deque()
            while batch := list(islice(remaining, BATCH_SIZE)):
                begun.append((batch, self._begin(batch, cache, workers, fetchers)))
                if len(begun) > _BATCHES_AHEAD:
                    yield from self._finish(*begun.popleft(), cache)
            while begun:
                yield from self._finish(*begun.popleft(), cache)

    def decode(self, image: Image) -> Decoded | DataError:
        inputs = [one._input for one in self._beside or [self]]
        try:
            pixels = {each: load_pixels(image, *each) for each in set(inputs)}
        except DataError as error:
            return error
        return tuple(pixels[each] for each in inputs)

    def maps(self, image: Image) -> tuple[Tensor, ...]:
        """Return for each network the map whose mean is its features, (D, H', W'); thread-safe.

        The networks are run by torch, whatever the engine. Maps cover the whole upright image.

        Raises:
            DataError: the image cannot be read.
            BackboneError: features of a network are not the mean of a map, or it does not see the
                whole image.
        """
        framing = self.spec.framing
        if framing is not None and not framing.keeps_all:
            raise BackboneError(
                f"backbone {self.spec.name}: it sees a part of the image, or borders ({framing}), "
                "so no map of the whole image can show where its features come from"
            )
        decoded = self.decode(image)
        if isinstance(decoded, DataError):
            raise decoded
        parts = self._beside or [self]
        return tuple(
            feature_map(one._backbone.built(), pixels)
            for one, pixels in zip(parts, decoded, strict=True)
        )

    def of_decoded(
        self, images: Sequence[Image], decoded: Sequence[Decoded | DataError]
    ) -> list[Feature | DataError]:
        each = [
            one._of_pixels(
                images, [row if isinstance(row, DataError) else row[at] for row in decoded]
            )
            for at, one in enumerate(self._beside or [self])
        ]
        return _joined(zip(*each, strict=True))

    def _of_pixels(
        self, images: Sequence[Image], pixels: Sequence[NDArray[np.uint8] | DataError]
    ) -> list[Feature | DataError]:
        results: dict[int, Feature | DataError] = {}
        decoded: dict[int, _Decoded] = {}
        for place, one in enumerate(pixels):
            if isinstance(one, DataError):
                results[place] = one
            else:
                decoded[place] = _Decoded(one)
        return self._finite(images, decoded, results, None)

    def keep(
        self,
        images: Sequence[Image],
        stamps: Sequence[Stamp | None],
        features: NDArray[np.float32],
    ) -> None:
        """Put features that the layers of the network gave elsewhere into the cache, if it is on.

        They may differ from those of the engine by rounding, so none are kept for an engine of
        less than full precision; nor are those of images that have changed or have no stamp.

        Args:
            stamps: of each image, from before it was read.
            features: (N, D), all finite.

        Raises:
            DataError: the cache cannot be written.

        Cost: each of these images is read once, for its SHA-256; none is fetched from a store.
        """
        if not self._cache_dir or not has_full_precision(self._engine_name, self._device):
            return
        with (
            FeatureCache(self._cache_dir, self.key) as cache,
            ThreadPoolExecutor(self.num_workers) as workers,
        ):
            local = [row for row, stamp in enumerate(stamps) if stamp is not None]
            digests = workers.map(lambda row: _digest_if_same(images[row], stamps[row]), local)
            found = zip(local, digests, strict=True)
            cache.add([(stamps[row], digest, features[row]) for row, digest in found if digest])

    def _side_by_side(self, images: Iterable[Image]) -> Iterator[Feature | DataError]:
        """Yield the concatenated features of several networks."""
        copies = tee(images, len(self._beside))
        streams = [one.stream(copy) for one, copy in zip(self._beside, copies, strict=True)]
        for found in zip(*streams, strict=True):
            yield from _joined([found])

    def _begin(
        self,
        images: list[Image],
        cache: FeatureCache | None,
        workers: ThreadPoolExecutor,
        fetchers: ThreadPoolExecutor,
    ) -> list[Feature | Future[_Decoded]]:
        found = cache.find(images) if cache else [None] * len(images)
        begun: list[Feature | Future[_Decoded]] = []
        for image, kept in zip(images, found, strict=True):
            if kept is not None and self._is_sound(kept):
                begun.append(kept)
            else:
                pool = fetchers if image.is_remote else workers
                begun.append(pool.submit(self._load, image, hashed=cache is not None))
        return begun

    def _is_sound(self, kept: Feature) -> bool:
        """Return whether cached features are valid; else they are computed again."""
        return len(kept) == self._backbone.num_features and bool(np.isfinite(kept).all())

    def _load(self, image: Image, *, hashed: bool) -> _Decoded:
        stamp = image.stamp() if hashed else None
        if image.is_remote:
            image = image.fetch()
        with self._decoding:  # many threads wait for a store, few hold pixels in memory
            pixels = load_pixels(image, *self._input)
        return _Decoded(pixels, stamp, _digest_if_same(image, stamp) if hashed else b"")

    def _finish(
        self,
        images: list[Image],
        items: list[Feature | Future[_Decoded]],
        cache: FeatureCache | None,
    ) -> list[Feature | DataError]:
        results: dict[int, Feature | DataError] = {}
        decoded: dict[int, _Decoded] = {}
        for place, item in enumerate(items):
            if not isinstance(item, Future):
                results[place] = item
                continue
            try:
                decoded[place] = item.result()
            except DataError as error:
                results[place] = error
        return self._finite(images, decoded, results, cache)

    def _finite(
        self,
        images: Sequence[Image],
        decoded: dict[int, _Decoded],
        results: dict[int, Feature | DataError],
        cache: FeatureCache | None,
    ) -> list[Feature | DataError]:
        """Return the results, completed by features of the decoded images, in order."""
        for place, feature in self._features(decoded, cache).items():
            finite = bool(np.isfinite(feature).all())
            error = DataError("its features are not finite; try --engine torch", images[place])
            results[place] = feature if finite else error
        return [results[place] for place in range(len(images))]

    def _features(
        self, decoded: dict[int, _Decoded], cache: FeatureCache | None
    ) -> dict[int, Feature]:
        features: dict[int, Feature] = {}
        if cache:  # a new file may have known content
            found = ((place, cache.find_content(one.digest)) for place, one in decoded.items())
            features = {
                place: feature
                for place, feature in found
                if feature is not None and self._is_sound(feature)
            }
        new = [place for place in decoded if place not in features]
        if new:
            computed = self._run(np.stack([decoded[place].pixels for place in new]))
            features |= zip(new, computed, strict=True)
        if cache and self._is_as_named:
            cache.add(
                [
                    (one.stamp, one.digest, features[place])
                    for place, one in decoded.items()
                    if one.digest and np.isfinite(features[place]).all()
                ]
            )
        return features

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._engine is None:
            self._engine = make_engine(
                self._engine_name,
                self._backbone,
                self._device,
                cache_dir=self._cache_dir,
                num_threads=self._num_threads,
                on_fallback=self._fall_back,
            )
        return self._engine(pixels)

    def _fall_back(self, reason: str) -> None:
        self._is_as_named = False
        warnings.warn(f"{reason}; features are not cached", MlcrfWarning, stacklevel=2)


def _digest_if_same(image: Image, stamp: Stamp | None) -> bytes:
    """Return the SHA-256 of an image that still has this stamp; else nothing."""
    with suppress(OSError, DataError):  # one that disappears or changes meanwhile is not cached
        digest = image.fingerprint()
        if image.stamp() == stamp:
            return digest
    return b""


def _joined(found: Iterable[tuple[Feature | DataError, ...]]) -> list[Feature | DataError]:
    """Concatenate the features of several networks, image by image."""
    joined: list[Feature | DataError] = []
    for each in found:
        errors = [one for one in each if isinstance(one, DataError)]
        whole = [one for one in each if not isinstance(one, DataError)]
        joined.append(errors[0] if errors else np.concatenate(whole))
    return joined


def count_cores() -> int:
    """Return the number of cores in this process's CPU affinity mask (taskset, cpuset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
