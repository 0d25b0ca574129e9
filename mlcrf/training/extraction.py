"""Compute the features of all images of a run, in one or several processes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.feature_matrix import (
    SHARD_ROWS,
    Matrix,
    count_shards,
    is_whole,
    map_shards,
    shard_path,
    write_shard,
)
from mlcrf.backbones.registry import Backbone, Source
from mlcrf.backbones.sources import make_source
from mlcrf.choices import EngineName
from mlcrf.data.problems import Problems
from mlcrf.errors import DataError, SettingsError
from mlcrf.images import Image
from mlcrf.images.image import Stamp
from mlcrf.processes import ALONE, Processes

_BLOCK = 4096  # rows written together

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Environment:
    """Devices, processes and folders of a run; they change results by rounding only.

    Attributes:
        device: device of the network; heads are always fitted on the CPU.
        engine: engine of a frozen network.
        cache_dir: cache folder for features; None disables the cache.
        in_memory: largest size of features in memory, in bytes; larger features are mapped from
            files in `cache_dir`.
        processes: processes that train together on the same files.
    """

    device: torch.device = torch.device("cpu")
    engine: EngineName = EngineName.AUTO
    cache_dir: Path | None = None
    in_memory: int = 4 * 2**30
    processes: Processes = ALONE


def extract(
    backbone: Backbone,
    images: Sequence[Image],
    environment: Environment,
    *,
    progress: Progress = lambda done, total: None,
) -> Matrix:
    """Return the features of all images (N, D) in every process; each process computes its share.

    Features too large for memory are written to shards of 65,536 rows, which are mapped. Shards of
    an earlier run on the same files are used again; so are shards for the same URLs in an object
    store, even if their content has changed.

    Args:
        progress: called with the number of images of this process that are done, and of all its
            images.

    Raises:
        DataError: images that cannot be read in any process, all named.
        SettingsError: the features are too large for memory, and there is no cache folder.
    """
    if backbone.spec.source is Source.TABLE:  # in memory already
        return make_source(backbone).matrix(images, progress=progress)
    num_bytes = len(images) * backbone.num_features * 4
    if num_bytes <= environment.in_memory:
        return _in_memory(backbone, images, environment, progress)
    if environment.cache_dir is None:
        raise SettingsError(
            f"the features of {len(images)} images take {num_bytes / 2**30:.1f} GB; give a "
            "--cache-dir to keep them in, or raise --in-memory"
        )
    return _in_shards(backbone, images, environment, environment.cache_dir, progress)


def keep_features(
    backbone: Backbone,
    images: Sequence[Image],
    stamps: Sequence[Stamp | None],
    features: NDArray[np.float32],
    environment: Environment,
) -> None:
    """Put features that the backbone's layers gave into the cache; each process keeps its share.

    See `FeatureExtractor.keep` for the arguments.
    """
    own = environment.processes.shard(len(images))
    extractor = _extractor(backbone, environment, environment.cache_dir)
    extractor.keep(images[own], stamps[own], features[own])


def _in_memory(
    backbone: Backbone, images: Sequence[Image], environment: Environment, progress: Progress
) -> NDArray[np.float32]:
    processes = environment.processes
    extractor = _extractor(backbone, environment, environment.cache_dir)
    own, problem = images[processes.shard(len(images))], ""
    features = np.zeros((0, backbone.num_features), np.float32)
    try:
        if own:
            features = extractor.matrix(own, progress=progress)
    except DataError as error:
        problem = str(error)
    _raise_together(processes, problem)
    return processes.all_gather(features, len(images))


def _in_shards(
    backbone: Backbone,
    images: Sequence[Image],
    environment: Environment,
    cache_dir: Path,
    progress: Progress,
) -> Matrix:
    processes, num_features = environment.processes, backbone.num_features
    extractor = _extractor(backbone, environment, None)
    folder = cache_dir / f"matrix-{extractor.key}-{_digest(images)}"
    own = range(processes.rank, count_shards(len(images)), processes.size)
    total = sum(len(images[SHARD_ROWS * shard : SHARD_ROWS * (shard + 1)]) for shard in own)
    done, problems = 0, Problems()
    for number in own:
        part, path = images[SHARD_ROWS * number :][:SHARD_ROWS], shard_path(folder, number)
        shape = (len(part), num_features)
        if not is_whole(path, shape):
            shown = _after(progress, done, total)
            try:
                write_shard(path, _blocks(extractor, part, shown, problems), shape)
            except _UnreadableError:  # the shard is not written; later shards are still checked
                continue
        done += len(part)
        progress(done, total)
    problem = ""
    try:
        problems.raise_if_any()
    except DataError as error:
        problem = str(error)
    _raise_together(processes, problem)
    return map_shards(folder, len(images), num_features)


class _UnreadableError(Exception):
    """A shard is not written because some of its images cannot be read."""


def _blocks(
    extractor: FeatureExtractor, images: Sequence[Image], progress: Progress, problems: Problems
) -> Iterator[NDArray[np.float32]]:
    block: list[NDArray[np.float32]] = []
    sound = True
    for done, (image, feature) in enumerate(zip(images, extractor.stream(images), strict=True), 1):
        if isinstance(feature, DataError):
            problems.add(image, f"{feature.reason}; fix it or remove it from the data")
            sound, block = False, []
        elif sound:
            block.append(feature)
        if len(block) == _BLOCK or (block and done == len(images)):
            yield np.stack(block)
            block = []
        progress(done, len(images))
    if not sound:
        raise _UnreadableError


def _after(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _extractor(
    backbone: Backbone, environment: Environment, cache_dir: Path | None
) -> FeatureExtractor:
    return FeatureExtractor(
        backbone, engine=environment.engine, device=environment.device, cache_dir=cache_dir
    )


def _raise_together(processes: Processes, problem: str) -> None:
    """Raise the problems of any process in every process, so that none waits for another."""
    problems = processes.gather_texts([problem] if problem else [])
    if problems:
        raise DataError("\n".join(problems))


def _digest(images: Sequence[Image]) -> str:
    """Return a hash of the images' current stamps."""
    digest = hashlib.sha256()
    for image in images:
        stamp = image.stamp() or Stamp(image.name, -1, -1, -1, -1)
        known = (os.fsencode(stamp.address), stamp.version)
        digest.update(repr(known).encode())
    return digest.hexdigest()[:16]
