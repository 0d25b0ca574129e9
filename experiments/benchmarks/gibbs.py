"""Labels redrawn and effective samples a second, on one and two cores, beside other samplers.

Every row is measured in a process that may run on its cores only, whatever starts threads in it.
Only labels that were redrawn count as updates: none are clamped, and a sweep skips none.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from models import KINDS, as_double, typical_model
from peers import Dwave, Sampler, Thrml, TorchLoop, Work
from processes import run_apart
from timing import installed, median_ratio

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, Gibbs
from mlcrf.inference.chains import run_chains
from mlcrf.inference.streams import random_states, stream_keys

_SIZES: tuple[tuple[int, int | None], ...] = ((24, None), (38, None), (80, None), (374, 10))
_QUICK_SIZES: tuple[tuple[int, int | None], ...] = ((6, None),)
_CHAINS, _THRML_CHAINS, _READS = 1024, 256, 64  # thrml was no faster with 64 or 4,096
_TURN_S, _QUICK_TURN_S = 0.15, 0.01
_COUNTED = 0.02  # labels of a probability above, and below 1 minus that, count as sampled
_TIMEOUT_S = 900.0
_THRML_KIND = "photo"  # what it and the torch loop take does not depend on the potentials


class Ours:
    """`run_chains`, with Rao-Blackwellised marginals as `Gibbs` runs it, or states alone."""

    def __init__(self, potentials: Potentials, *, chains: int, average: bool = True) -> None:
        keys = stream_keys(0, torch.arange(1), chains=chains)
        self._potentials, self._average, self._made = potentials, average, 0
        self._states = random_states(keys, potentials.num_labels)[0]
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
    each other, 30 sweeps from their start, on a model of 6 labels.
    """
    potentials = typical_model("even", 6, neighbours=None)
    potentials = Potentials(potentials.unary, potentials.edges, 3 * potentials.pairwise)
    truth = Exact(pairwise_marginals=True)(as_double(potentials))
    assert truth.pairwise_marginals is not None, "asked for"
    expected = torch.cat([truth.marginals[0], truth.pairwise_marginals[0]])
    first, second = potentials.edges.T
    largest = {}
    number = 8192
    samplers = make_samplers(
        potentials, cores, cache, chains=number, reads=number, thrml_chains=number
    )
    for name, sampler in samplers.items():
        sampler.run(30)
        y = torch.from_numpy(sampler.states()).double()
        found = torch.cat([y, y[:, first] * y[:, second]], 1).mean(0)
        sigma = (expected * (1 - expected) / len(y)).sqrt()
        largest[name] = float(((found - expected) / sigma).abs().max())
        assert largest[name] < 5, f"{name} samples another distribution: {largest[name]:.1f} sigma"
    return {name: round(value, 1) for name, value in largest.items()}


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
        row |= _effective(potentials, cores, repetitions=40 if turn_s >= _TURN_S else 5)
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


def _effective(potentials: Potentials, cores: int, *, repetitions: int) -> dict[str, float]:
    """Effective samples a second: as many independent draws would have the same squared error.

    That is p (1 - p) over the squared error against exact, each summed over the labels neither
    nearly always nor nearly never present, over the time. From random states on, burning in
    counted. Of dwave's several ways the best counts.
    """
    exact = Exact()(as_double(potentials)).marginals[0]
    counted = (exact > _COUNTED) & (exact < 1 - _COUNTED)
    reads = 1000 // cores
    ways: dict[str, Callable[[int], tuple[torch.Tensor, float]]] = {
        "ours": lambda seed: _from_chains(potentials, seed),
        "gibbs": lambda seed: _from_gibbs(potentials, seed),
        **{
            f"dwave, {sweeps} sweeps": lambda seed, n=sweeps: _from_reads(
                Dwave(potentials, reads=reads, threads=cores, seed=cores * seed), n
            )
            for sweeps in (4, 8, 16)
        },
        "dwave, going on": lambda seed: _from_going_on(
            Dwave(potentials, reads=64, threads=cores, seed=1000 * seed)
        ),
    }
    errors: dict[str, list[torch.Tensor]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name, way in ways.items():
            estimate, taken = way(repetition)
            errors[name].append((estimate.double() - exact)[counted] ** 2)
            seconds[name].append(taken)
    of_one_draw = float((exact * (1 - exact))[counted].sum())
    found = {
        name: of_one_draw
        / float(torch.stack(errors[name]).mean(0).sum())
        / statistics.median(taken)
        for name, taken in seconds.items()
    }
    best = max(value for name, value in found.items() if name.startswith("dwave"))
    return {
        "effective_samples_per_s": found["ours"],
        "gibbs_effective_samples_per_s": found["gibbs"],
        "dwave_effective_samples_per_s": best,
        "effective_ratio": found["ours"] / best,
        "gibbs_effective_ratio": found["gibbs"] / best,
    }


def _from_chains(potentials: Potentials, seed: int) -> tuple[torch.Tensor, float]:
    """128 chains, 20 sweeps thrown away, 400 averaged, from `run_chains`."""
    began = perf_counter()
    keys = stream_keys(seed, torch.arange(1), chains=128)
    start = random_states(keys, potentials.num_labels)[0]
    burnt = run_chains(potentials, start, sweeps=20, seed=seed, average=False)
    run = run_chains(potentials, burnt.states, sweeps=400, seed=seed, first_sweep=20)
    return run.probabilities[0], perf_counter() - began


def _from_gibbs(potentials: Potentials, seed: int) -> tuple[torch.Tensor, float]:
    """The same from `Gibbs`, which also keeps the samples and says how well they mixed."""
    began = perf_counter()
    posterior = Gibbs(chains=128, burn_in=20, sweeps=400, seed=seed)(potentials)
    return posterior.marginals[0], perf_counter() - began


def _from_reads(sampler: Dwave, sweeps: int) -> tuple[torch.Tensor, float]:
    """Independent reads: dwave's usual way."""
    work = sampler.run(sweeps)
    return torch.from_numpy(sampler.states()).double().mean(0), work.seconds


def _from_going_on(sampler: Dwave) -> tuple[torch.Tensor, float]:
    """64 reads a thread, 20 sweeps thrown away, then the state after each of 100 sweeps."""
    seconds = sampler.run(20).seconds
    means = []
    for _ in range(100):
        seconds += sampler.run(1).seconds
        means.append(sampler.states().mean(0))
    return torch.from_numpy(np.mean(means, 0)), seconds
