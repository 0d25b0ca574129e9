"""Single-label updates and effective samples a second, beside dwave-samplers, on one core.

Short runs of either take turns, so that what else the machine does hits both; the ratio is the
median over the turns. Only labels that were really redrawn count as updates.
"""

import statistics
from time import perf_counter
from typing import Any

import torch
from peers import make_model, sample_dwave, to_spins

from mlcrf.crf import Potentials
from mlcrf.inference import Exact
from mlcrf.inference.chains import ChainRun, run_chains
from mlcrf.inference.streams import random_states, stream_keys

KINDS = ("even", "photo", "rare")
SIZES: tuple[tuple[int, int | None], ...] = ((24, None), (38, None), (80, None), (374, 10))
CHAINS, TURNS = 1024, 15


def timed(potentials: Potentials, states: Any, sweeps: int, **more: Any) -> tuple[ChainRun, float]:
    """Chains that go on, and how many seconds they took."""
    began = perf_counter()
    return run_chains(potentials, states, sweeps=sweeps, **more), perf_counter() - began


def measure_updates(kind: str, num_labels: int, neighbours: int | None) -> dict[str, Any]:
    """Millions of updates a second, with Rao-Blackwellised marginals on our side."""
    potentials = make_model(kind, num_labels, neighbours=neighbours)
    spins = to_spins(potentials)
    states = random_states(stream_keys(0, torch.arange(1), chains=CHAINS), num_labels)[0]
    states = timed(potentials, states, 20)[0].states
    degree = neighbours or num_labels
    ours_sweeps = max(10, int(2e7 / (num_labels * CHAINS * max(1, degree / 40))))
    dwave_sweeps = max(5, int(48e6 / (64 * num_labels * max(degree, 10))))
    ours, dwave = [], []
    for turn in range(TURNS):
        run, seconds = timed(potentials, states, ours_sweeps, first_sweep=20 + turn * ours_sweeps)
        states = run.states
        ours.append(CHAINS * ours_sweeps * num_labels / seconds)
        _, seconds = sample_dwave(spins, reads=64, sweeps=dwave_sweeps, seed=turn)
        dwave.append(64 * dwave_sweeps * num_labels / seconds)
    chance = run.probabilities
    return {
        "model": kind,
        "labels": num_labels,
        "neighbours": neighbours or num_labels - 1,
        "cores": 1,
        "flips": float((2 * chance * (1 - chance)).mean()),
        "updates_per_s": statistics.median(ours),
        "dwave_updates_per_s": statistics.median(dwave),
        "ratio": statistics.median(a / b for a, b in zip(ours, dwave, strict=True)),
    }


def measure_effective(kind: str, num_labels: int = 24) -> dict[str, float]:
    """Effective samples a second: p (1 - p) over the squared error against exact, over the time.

    The mean over labels of probability .02 to .98.
    """
    potentials = make_model(kind, num_labels, neighbours=None)
    spins = to_spins(potentials)
    exact = Exact()(
        Potentials(potentials.unary.double(), potentials.edges, potentials.pairwise.double())
    ).marginals[0]
    counted = (exact > 0.02) & (exact < 0.98)

    def per_second(errors: list[Any], seconds: list[float]) -> float:
        samples = exact * (1 - exact) / torch.stack(errors).mean(0)
        return float(samples[counted].mean()) / statistics.median(seconds)

    ours, theirs, our_seconds, their_seconds = [], [], [], []
    for repetition in range(40):
        start = random_states(stream_keys(repetition, torch.arange(1), chains=64), num_labels)[0]
        burnt, before = timed(potentials, start, 20, seed=repetition)
        run, seconds = timed(potentials, burnt.states, 200, seed=repetition, first_sweep=20)
        ours.append((run.probabilities[0].double() - exact) ** 2)
        our_seconds.append(before + seconds)
        states, seconds = sample_dwave(spins, reads=1000, sweeps=10, seed=repetition)
        theirs.append((torch.from_numpy(states).double().mean(0) - exact) ** 2)
        their_seconds.append(seconds)
    return {
        "effective_samples_per_s": per_second(ours, our_seconds),
        "dwave_effective_samples_per_s": per_second(theirs, their_seconds),
    }
