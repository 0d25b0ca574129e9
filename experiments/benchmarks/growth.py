"""Measure time and memory by number of labels, images and chains, up to each method's limit.

Every point is measured in a process of its own, on both cores, after a call on a tiny model that
compiles and loads what is needed. Memory is by how much the peak of the process, as the kernel
keeps it, exceeds what was resident just before the call, potentials included in neither.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from models import tree_model, typical_model
from processes import Stopped, peak_memory_mb, run_apart
from timing import seconds_of

from mlcrf.crf import Potentials
from mlcrf.errors import MlcrfError
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Bethe,
    ConvexBeliefPropagation,
    Exact,
    Gibbs,
    InferenceMethod,
    JunctionTree,
    MeanField,
    Tap,
    TreeReweighted,
)

FULL_UP_TO = 28  # labels that are all coupled; beyond, and on trees, couplings are sparse
_LABELS = (8, 16, 20, 24, 28, 40, 80, 160, 374, 1000, 5000)
_IMAGES = (1, 10, 100, 1000, 10_000)
_CHAINS = (1, 8, 64, 512, 4096)
_QUICK = {"labels": (8, 40), "images": (2,), "chains": (2,)}
_QUICK_METHODS = ("exact", "gibbs")
_SIZES = {"labels": _LABELS, "images": _IMAGES, "chains": _CHAINS}
_NEIGHBOURS = 10
_BATCH = 8  # images, where it is not images that grow
_LIMIT_S = 10.0  # what would take longer is not tried
_TIMEOUT_S = 60.0
_REPEAT_S = 0.5  # shorter calls are timed three times more

_METHODS: dict[str, InferenceMethod] = {
    method.name: method
    for method in (
        Exact(),
        JunctionTree(),
        MeanField(),
        Tap(),
        Bethe(),
        TreeReweighted(),
        ConvexBeliefPropagation(),
        Gibbs(),
        AnnealedImportanceSampling(),
    )
}
_ON_TREES = "junction-tree"
_WITH_CHAINS: dict[str, Callable[[int], InferenceMethod]] = {
    "gibbs": lambda chains: Gibbs(chains=chains),
    "ais": lambda chains: AnnealedImportanceSampling(chains=chains),
}


def growth_rows(*, quick: bool) -> Iterator[dict[str, Any]]:
    """A row a point; the last of a method says why it went no further, if it did not."""
    sizes = _QUICK if quick else _SIZES
    for axis in ("labels", "images", "chains"):
        for name in _WITH_CHAINS if axis == "chains" else _METHODS:
            if axis == "images" and name == _ON_TREES:
                continue  # exact is on the same model
            if not quick or name in _QUICK_METHODS:
                yield from _follow(axis, name, sizes[axis])


def measure(axis: str, name: str, size: int) -> dict[str, Any]:
    """Seconds and peak memory of one call.

    Raises:
        MlcrfError: the method refuses.
    """
    method = _WITH_CHAINS[name](size) if axis == "chains" else _METHODS[name]
    potentials = _make(axis, name, size)
    method(_make("labels", name, 6))
    seconds: list[float] = []
    memory = peak_memory_mb(lambda: seconds.append(seconds_of(lambda: method(potentials))))
    if seconds[0] < _REPEAT_S:
        seconds = [seconds_of(lambda: method(potentials)) for _ in range(3)]
    return {
        "labels": potentials.num_labels,
        "edges": len(potentials.edges),
        "images": potentials.num_images,
        "seconds": statistics.median(seconds),
        "peak_mb": memory,
    }


def _follow(axis: str, name: str, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    before, step = 0.0, 1.0
    for size in sizes:
        row: dict[str, Any] = {"axis": axis, "method": name, "size": size}
        stopped = ""
        if before * step > _LIMIT_S:
            stopped = f"would take more than {_LIMIT_S:.0f} s"
        else:
            try:
                row |= run_apart(
                    _measure_or_refuse,
                    axis,
                    name,
                    size,
                    cores=torch.get_num_threads(),
                    timeout_s=_TIMEOUT_S,
                )
            except Stopped as error:
                stopped = str(error)
        yield row | ({"stopped": stopped} if stopped else {})
        if stopped or "stopped" in row:
            return
        step = row["seconds"] / before if before > 0.01 else 1.0
        before = row["seconds"]


def _measure_or_refuse(axis: str, name: str, size: int) -> dict[str, Any]:
    try:
        return measure(axis, name, size)
    except MlcrfError as error:
        return {"stopped": f"refused: {error}"}


def _make(axis: str, name: str, size: int) -> Potentials:
    labels = size if axis == "labels" else 24
    images = size if axis == "images" else _BATCH
    if name == _ON_TREES:
        return tree_model(labels, num_images=images)
    neighbours = None if labels <= FULL_UP_TO else _NEIGHBOURS
    return typical_model("photo", labels, neighbours=neighbours, num_images=images)
