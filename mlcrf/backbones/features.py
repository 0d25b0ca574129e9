"""Features of many pictures: decoded side by side with the network, kept for the next time."""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.cache import FeatureCache, Stamp
from mlcrf.backbones.engines import Engine, engine_key, make_engine
from mlcrf.backbones.registry import Backbone
from mlcrf.choices import EngineName
from mlcrf.data.problems import Problems
from mlcrf.errors import BackboneError, DataError, MlcrfWarning
from mlcrf.images.containers import find_member
from mlcrf.images.decoding import DECODING, load_pixels
from mlcrf.stores import Stored

BATCH_SIZE = 64
_BATCHES_AHEAD = 2  # decoded, or being decoded, while the network runs
_FETCHING = 16  # pictures of an object store that are waited for at once

Feature = NDArray[np.float32]
Decoded = tuple[NDArray[np.uint8], ...]  # pixels as each network of a backbone takes them


@dataclass(frozen=True)
class _Picture:
    """A decoded picture; stamp and SHA-256 of its file where its features are to be kept."""

    pixels: NDArray[np.uint8]
    stamp: Stamp | None = None
    digest: bytes = b""


class FeatureExtractor:
    """A frozen backbone, ready for files. It is compiled when first needed, not before.

    Args:
        cache_dir: where features and compiled networks are kept; None keeps nothing.
        num_workers: threads that decode, and that an engine on the CPU runs on; as many as there
            are cores to run on if None.

    Raises:
        BackboneError: a weight of the network is not finite.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        engine: EngineName = EngineName.AUTO,
        device: torch.device = torch.device("cpu"),
        cache_dir: Path | None = None,
        num_workers: int | None = None,
    ) -> None:
        if not all(bool(torch.isfinite(one).all()) for one in backbone.state_dict().values()):
            raise BackboneError(
                f"backbone {backbone.spec.name}: a weight is NaN or infinite; use another run, or "
                "train again"
            )
        self._backbone = backbone
        self._engine_name = engine
        self._device = device
        self._cache_dir = cache_dir
        self.num_workers = num_workers or count_cores()
        self._num_threads = num_workers
        self._decoding = BoundedSemaphore(self.num_workers)
        self._engine: Engine | None = None
        self._is_as_named = True  # the engine is the one that the key stands for
        self._beside = [
            FeatureExtractor(
                part, engine=engine, device=device, cache_dir=cache_dir, num_workers=num_workers
            )
            for part in backbone.parts
        ]
        parts = (backbone.fingerprint(), engine_key(engine, device), DECODING)
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def stream(self, paths: Iterable[Path | Stored]) -> Iterator[Feature | DataError]:
        """For each picture in turn its features (D,), all finite, or why there are none.

        Memory does not grow with the number of pictures. A picture that is in the cache, and
        whose file has kept its size and time, is not read. One in an object store is fetched
        every time, several at once, and its features are found again by what it holds.
        """
        if self._beside:
            yield from self._side_by_side(paths)
            return
        remaining = iter(paths)
        opened = FeatureCache(self._cache_dir, self.key) if self._cache_dir else nullcontext()
        with (
            opened as cache,
            ThreadPoolExecutor(self.num_workers) as workers,
            ThreadPoolExecutor(_FETCHING) as fetchers,  # none begins before it is needed
        ):
            begun: deque[tuple[list[Path | Stored], list[Feature | Future[_Picture]]]] = deque()
            while batch := list(islice(remaining, BATCH_SIZE)):
                begun.append((batch, self._begin(batch, cache, workers, fetchers)))
                if len(begun) > _BATCHES_AHEAD:
                    yield from self._finish(*begun.popleft(), cache)
            while begun:
                yield from self._finish(*begun.popleft(), cache)

    def matrix(
        self,
        paths: Sequence[Path | Stored],
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float32]:
        """Features of all pictures, (N, D).

        Args:
            progress: called with how many pictures are done, and of how many.

        Raises:
            DataError: some cannot be read or give features that are not finite; names them all.
        """
        problems = Problems()
        features = []
        pairs = zip(paths, self.stream(paths), strict=True)
        for done, (path, feature) in enumerate(pairs, start=1):
            if isinstance(feature, DataError):
                reason = str(feature).removeprefix(f"{path}: ")
                problems.add(path, f"{reason}; mend it or remove it from the data")
            else:
                features.append(feature)
            progress(done, len(paths))
        problems.raise_if_any()
        return np.stack(features)

    def of_contents(self, contents: Sequence[bytes]) -> list[Feature | DataError]:
        """For each picture, given as what its file would hold, its features or why there are none.

        Nothing is kept; all are held at once.
        """
        with ThreadPoolExecutor(self.num_workers) as workers:
            return self.of_decoded(list(workers.map(self.decode, contents)))

    def decode(self, content: bytes) -> Decoded | DataError:
        """The first half of `of_contents`, of one picture; threads may do this side by side."""
        sizes = [one._backbone.spec.size_px for one in self._beside or [self]]
        try:
            pixels = {size_px: load_pixels(content, size_px) for size_px in set(sizes)}
        except DataError as error:
            return error
        return tuple(pixels[size_px] for size_px in sizes)

    def of_decoded(self, decoded: Sequence[Decoded | DataError]) -> list[Feature | DataError]:
        """The second half; one thread at a time."""
        each = [
            one._of_pixels([row if isinstance(row, DataError) else row[at] for row in decoded])
            for at, one in enumerate(self._beside or [self])
        ]
        return _joined(zip(*each, strict=True))

    def _of_pixels(
        self, pixels: Sequence[NDArray[np.uint8] | DataError]
    ) -> list[Feature | DataError]:
        results: dict[int, Feature | DataError] = {}
        pictures: dict[int, _Picture] = {}
        for place, one in enumerate(pixels):
            if isinstance(one, DataError):
                results[place] = one
            else:
                pictures[place] = _Picture(one)
        return self._finite([Path("picture")] * len(pixels), pictures, results, None)

    def _side_by_side(self, paths: Iterable[Path | Stored]) -> Iterator[Feature | DataError]:
        """Those of every network of several, one after the other."""
        copies = tee(paths, len(self._beside))
        streams = [one.stream(copy) for one, copy in zip(self._beside, copies, strict=True)]
        for found in zip(*streams, strict=True):
            yield from _joined([found])

    def _begin(
        self,
        paths: list[Path | Stored],
        cache: FeatureCache | None,
        workers: ThreadPoolExecutor,
        fetchers: ThreadPoolExecutor,
    ) -> list[Feature | Future[_Picture]]:
        files = [path for path in paths if isinstance(path, Path)]
        found = dict(zip(files, cache.find(files), strict=True)) if cache else {}
        begun: list[Feature | Future[_Picture]] = []
        for path in paths:
            if isinstance(path, Stored):
                begun.append(fetchers.submit(self._fetch, path))
            elif (kept := found.get(path)) is not None and self._is_sound(kept):
                begun.append(kept)
            else:
                begun.append(workers.submit(self._decode, path, hashed=cache is not None))
        return begun

    def _is_sound(self, kept: Feature) -> bool:
        """Whether features can be what was kept; if not they are computed anew, in their place."""
        return len(kept) == self._backbone.num_features and bool(np.isfinite(kept).all())

    def _decode(self, path: Path, *, hashed: bool) -> _Picture:
        stamp = Stamp.of(path) if hashed else None
        pixels = load_pixels(path, self._backbone.spec.size_px)
        with suppress(OSError):  # a file that goes or changes while it is read is not kept
            if stamp:
                if (member := find_member(path)) is not None:
                    digest = hashlib.sha256(member.read()).digest()
                else:
                    with path.open("rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").digest()
                if Stamp.of(path) == stamp:
                    return _Picture(pixels, stamp, digest)
        return _Picture(pixels)

    def _fetch(self, stored: Stored) -> _Picture:
        content = stored.read()
        try:
            with self._decoding:  # many wait for the store, few have pixels in memory
                pixels = load_pixels(content, self._backbone.spec.size_px)
        except DataError as error:
            name = stored.url if stored.url.isprintable() else repr(stored.url)
            raise DataError(f"{name}: {str(error).removeprefix('picture: ')}") from error
        stamp = Stamp(stored.url.encode("utf-8", "surrogateescape"), len(content), 0)
        return _Picture(pixels, stamp, hashlib.sha256(content).digest())

    def _finish(
        self,
        paths: list[Path | Stored],
        items: list[Feature | Future[_Picture]],
        cache: FeatureCache | None,
    ) -> list[Feature | DataError]:
        results: dict[int, Feature | DataError] = {}
        pictures: dict[int, _Picture] = {}
        for place, item in enumerate(items):
            if not isinstance(item, Future):
                results[place] = item
                continue
            try:
                pictures[place] = item.result()
            except DataError as error:
                results[place] = error
        return self._finite(paths, pictures, results, cache)

    def _finite(
        self,
        paths: Sequence[Path | Stored],
        pictures: dict[int, _Picture],
        results: dict[int, Feature | DataError],
        cache: FeatureCache | None,
    ) -> list[Feature | DataError]:
        """The results with those of the pictures, in order."""
        for place, feature in self._features(pictures, cache).items():
            finite = bool(np.isfinite(feature).all())
            reason = f"{paths[place]}: its features are not finite; try --engine torch"
            results[place] = feature if finite else DataError(reason)
        return [results[place] for place in range(len(paths))]

    def _features(
        self, pictures: dict[int, _Picture], cache: FeatureCache | None
    ) -> dict[int, Feature]:
        features: dict[int, Feature] = {}
        if cache:  # a file that is new may hold what is known
            found = ((place, cache.find_content(one.digest)) for place, one in pictures.items())
            features = {
                place: feature
                for place, feature in found
                if feature is not None and self._is_sound(feature)
            }
        new = [place for place in pictures if place not in features]
        if new:
            computed = self._run(np.stack([pictures[place].pixels for place in new]))
            features |= zip(new, computed, strict=True)
        if cache and self._is_as_named:
            stamped = ((one.stamp, one.digest, features[place]) for place, one in pictures.items())
            cache.add(
                [
                    (stamp, digest, feature)
                    for stamp, digest, feature in stamped
                    if stamp and np.isfinite(feature).all()
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
        warnings.warn(f"{reason}; features are not kept", MlcrfWarning, stacklevel=2)


def _joined(found: Iterable[tuple[Feature | DataError, ...]]) -> list[Feature | DataError]:
    """What several networks say of each picture, as one."""
    joined: list[Feature | DataError] = []
    for each in found:
        errors = [one for one in each if isinstance(one, DataError)]
        whole = [one for one in each if not isinstance(one, DataError)]
        joined.append(errors[0] if errors else np.concatenate(whole))
    return joined


def count_cores() -> int:
    """Those that this process may use, of which a container or `taskset` may leave it few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
