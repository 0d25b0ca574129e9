"""Labels redrawn and effective samples a second, on one and two cores, beside other samplers.

Every row is measured in a process that may run on its cores only, whatever starts threads in it.
Only labels that were redrawn count as updates: none are clamped, and a sweep skips none.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from effective import COUNTED, effective_samples
from models import KINDS, as_double, tree_model, typical_model
from peers import Dwave, Sampler, Thrml, TorchLoop, Work
from processes import run_apart
from timing import installed, median_ratio

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, InferenceMethod, JunctionTree
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys

_SIZES: tuple[tuple[int, int | None], ...] = ((24, None), (38, None), (80, None), (374, 10))
_QUICK_SIZES: tuple[tuple[int, int | None], ...] = ((6, None),)
_CHAINS, _THRML_CHAINS, _READS = 1024, 256, 64  # thrml was no faster with 64 or 4,096
_TURN_S, _QUICK_TURN_S = 0.15, 0.01
_CHECKED = 8192  # chains
_TIMEOUT_S = 900.0
_THRML_KIND = "photo"  # what it and the torch loop take does not depend on the potentials


class Ours:
    """`run_chains`, with Rao-Blackwellised marginals as `Gibbs` runs it, or states alone."""

    def __init__(self, potentials: Potentials, *, chains: int, average: bool = True) -> None:
        keys = stream_keys(0, torch.arange(1), chains=chains)
        self._potentials, self._average, self._made = potentials, average, 0
        self._states = random_states(keys, potentials.num_labels)
        self.probabilities = torch.empty(0)

    def run(self, sweeps: int) -> Work:
        """The whole call counts."""
        began = perf_counter()
        run = run_chains(
            self._potentials,
            self._states,
            sweeps=sweeps,
            first_sweep=self._made,
            average=self._average,
        )
        seconds = perf_counter() - began
        self._states, self.probabilities = run.states, run.probabilities[0]
        self._made += sweeps
        return Work(sweeps * self._states.numel(), seconds)

    def states(self) -> np.ndarray:
        """The last ones."""
        return self._states[:, 0].numpy()


def gibbs_rows(*, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each number of cores, kind of model and number of labels.

    First every sampler must agree with exact inference on a small model.
    """
    with tempfile.TemporaryDirectory() as cache:  # thrml compiles a size once for all processes
        turn_s = _QUICK_TURN_S if quick else _TURN_S
        for cores in range(1, min(2, len(os.sched_getaffinity(0))) + 1):
            largest = run_apart(check_samplers, cores, cache, cores=cores, timeout_s=_TIMEOUT_S)
            print(f"agreement with exact on {cores} cores, largest deviation in sigma: {largest}")
            for size in _QUICK_SIZES if quick else _SIZES:
                for kind in (_THRML_KIND,) if quick else KINDS:
                    yield run_apart(
                        measure,
                        kind,
                        *size,
                        cores,
                        turn_s,
                        cache,
                        cores=cores,
                        timeout_s=_TIMEOUT_S,
                    )


def check_samplers(cores: int, cache: str) -> dict[str, float]:
    """Largest deviation of each sampler from exact, in standard errors; none may be above 5.

    Of the probabilities of labels and pairs over at least 8,192 chains, which do not depend on
    each other, 30 sweeps from their start: on 6 labels, all strongly coupled, and on a tree of 140,
    since samplers treat sparse couplings in another way. Those next to 0 or 1 are not counted,
    which so many chains seldom meet.
    """
    full = typical_model("even", 6, neighbours=None)
    models: dict[str, tuple[Potentials, InferenceMethod]] = {
        "full": (
            Potentials(full.unary, full.edges, 3 * full.pairwise),
            Exact(pairwise_marginals=True),
        ),
        "tree": (tree_model(140, num_images=1), JunctionTree(pairwise_marginals=True)),
    }
    largest = {}
    for kind, (potentials, exact) in models.items():
        truth = exact(as_double(potentials))
        assert truth.pairwise_marginals is not None, "asked for"
        expected = torch.cat([truth.marginals[0], truth.pairwise_marginals[0]])
        counted = (expected > COUNTED) & (expected < 1 - COUNTED)
        first, second = potentials.edges.T
        samplers = make_samplers(
            potentials, cores, cache, chains=_CHECKED, reads=_CHECKED, thrml_chains=_CHECKED
        )
        for name, sampler in samplers.items():
            sampler.run(30)
            y = torch.from_numpy(sampler.states()).double()
            found = torch.cat([y, y[:, first] * y[:, second]], 1).mean(0)
            sigma = (expected * (1 - expected) / len(y)).sqrt()
            worst = float(((found - expected) / sigma)[counted].abs().max())
            assert worst < 5, f"{name} samples another distribution, {kind}: {worst:.1f} sigma"
            largest[f"{name}, {kind}"] = round(worst, 1)
    return largest


def make_samplers(
    potentials: Potentials, cores: int, cache: str, *, chains: int, reads: int, thrml_chains: int
) -> dict[str, Sampler]:
    """Ours, and every peer; thrml, which compiles for long, only if it is given any chains."""
    samplers: dict[str, Sampler] = {
        "ours": Ours(potentials, chains=chains),
        "states": Ours(potentials, chains=chains, average=False),
        "dwave": Dwave(potentials, reads=reads, threads=cores),
        "torch": TorchLoop(potentials, chains=chains),
    }
    if thrml_chains and installed("thrml"):
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        samplers["thrml"] = Thrml(potentials, chains=thrml_chains)
    return samplers


def measure(
    kind: str, labels: int, neighbours: int | None, cores: int, turn_s: float, cache: str
) -> dict[str, Any]:
    """Updates a second; effective samples too where exact inference reaches."""
    potentials = typical_model(kind, labels, neighbours=neighbours)
    thrml_chains = _THRML_CHAINS if kind == _THRML_KIND else 0
    samplers = make_samplers(
        potentials, cores, cache, chains=_CHAINS, reads=_READS, thrml_chains=thrml_chains
    )
    speeds = _speeds(samplers, turn_s)
    ours = samplers["ours"]
    assert isinstance(ours, Ours), "made so"
    chance = ours.probabilities
    row = {
        "model": kind,
        "labels": labels,
        "neighbours": neighbours or labels - 1,
        "cores": cores,
        "flips": float((2 * chance * (1 - chance)).mean()),
        "updates_per_s": statistics.median(speeds["ours"]),
        "states_updates_per_s": statistics.median(speeds["states"]),
    }
    for peer in ("dwave", "torch", "thrml"):
        if peer in speeds:
            row[f"{peer}_updates_per_s"] = statistics.median(speeds[peer])
            row[f"{peer}_ratio"] = median_ratio(speeds["ours"], speeds[peer])
            row[f"{peer}_states_ratio"] = median_ratio(speeds["states"], speeds[peer])
    if labels <= 24:
        row |= effective_samples(potentials, cores, repetitions=40 if turn_s >= _TURN_S else 5)
    return row


def _speeds(samplers: dict[str, Sampler], turn_s: float) -> dict[str, list[float]]:
    """Updates a second in five turns of about the same length, once all are warm and burnt in."""
    sweeps = {}
    for name, sampler in samplers.items():
        sampler.run(20)
        pace = min(sampler.run(10).seconds for _ in range(2)) / 10
        sweeps[name] = max(1, round(turn_s / pace))
    speeds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(5):
        for name, sampler in samplers.items():
            speeds[name].append(sampler.run(sweeps[name]).per_second)
    return speeds
