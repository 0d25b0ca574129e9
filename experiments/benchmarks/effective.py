"""Effective samples a second: ours, and dwave-samplers in several ways."""

import statistics
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from models import as_double
from peers import Dwave

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, Gibbs
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys

COUNTED = 0.02  # a probability above, and below 1 minus that, counts


def effective_samples(potentials: Potentials, cores: int, *, repetitions: int) -> dict[str, float]:
    """Effective samples a second: as many independent draws would have the same squared error.

    That is p (1 - p) over the squared error against exact, each summed over the labels neither
    nearly always nor nearly never present, over the time. From random states on, burning in
    counted. Of dwave's several ways the best counts.
    """
    exact = Exact()(as_double(potentials)).marginals[0]
    counted = (exact > COUNTED) & (exact < 1 - COUNTED)
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
    start = random_states(keys, potentials.num_labels)
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
