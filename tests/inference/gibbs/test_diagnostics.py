"""Convergence and effective sample size, against chains whose law is known."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from mlcrf.inference.gibbs import diagnostics
from mlcrf.inference.gibbs.diagnostics import effective_sample_size, log_mean_error, split_r_hat
from tests.making import close


def markov_chains(stay: float, draws: int, chains: int, *, columns: int = 1) -> Tensor:
    """Chains that keep their value with a chance `stay`, else draw a fair one: lag-t correlation
    stay^t."""
    generator = torch.Generator().manual_seed(0)
    shape = (draws, chains, 1, columns)
    fresh = torch.rand(shape, generator=generator) < 0.5
    kept = torch.rand(shape, generator=generator) < stay
    for t in range(1, draws):
        fresh[t] = torch.where(kept[t], fresh[t - 1], fresh[t])
    return fresh.to(torch.uint8)


def test_r_hat_of_chains_that_mix() -> None:
    """Independent draws have a split R-hat near 1."""
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(100, 20, 3, 2, generator=generator) < 0.3).to(torch.uint8)
    r_hat = split_r_hat(samples)
    close(r_hat, torch.ones_like(r_hat), 0.02)


def test_r_hat_of_stuck_chains() -> None:
    """Chains that never move, but disagree, have infinity; that agree, 1."""
    samples = torch.zeros(20, 4, 1, 2, dtype=torch.uint8)
    samples[:, 2, 0, 1] = 1
    assert split_r_hat(samples).tolist() == [[1.0, math.inf]]


def test_r_hat_of_chains_that_drift() -> None:
    """Halves are compared too: chains that move together from 0 to 1 are far from converged."""
    samples = torch.zeros(20, 4, 1, 1, dtype=torch.uint8)
    samples[9:] = 1
    assert float(split_r_hat(samples)) > 2


def test_r_hat_by_its_formula() -> None:
    """The value is that of Gelman et al., computed here without the package."""
    generator = torch.Generator().manual_seed(1)
    rates = torch.tensor([0.2, 0.5, 0.7])[:, None, None]
    samples = (torch.rand(11, 3, 1, 1, generator=generator) < rates).to(torch.uint8)
    chains = samples[:10, :, 0, 0].double().T.tolist()  # the odd one at the end is left out
    halves = [chain[:5] for chain in chains] + [chain[5:] for chain in chains]
    within = statistics.fmean(statistics.variance(half) for half in halves)
    between = statistics.variance([statistics.fmean(half) for half in halves])
    assert float(split_r_hat(samples)) == pytest.approx(math.sqrt(4 / 5 + between / within))


def test_too_few_sweeps() -> None:
    """Three sweeps say nothing of convergence, nor of correlation."""
    samples = torch.zeros(3, 5, 2, 1, dtype=torch.uint8)
    assert split_r_hat(samples).tolist() == [[math.inf]] * 2
    assert effective_sample_size(samples).tolist() == [[0.0]] * 2


@pytest.mark.parametrize("stay", [0.0, 0.5, 0.8])
def test_effective_size_of_a_known_chain(stay: float) -> None:
    """Correlations stay^t leave (1 - stay) / (1 + stay) of the draws."""
    samples = markov_chains(stay, 400, 40, columns=10)
    wanted = 16000 * (1 - stay) / (1 + stay)
    size = effective_sample_size(samples)
    assert size.shape == (1, 10)
    assert float(size.mean()) == pytest.approx(wanted, rel=0.1)
    assert bool((size <= 16000).all())


def test_effective_size_by_its_formula() -> None:
    """The value is that of Gelman et al., computed here without the package."""
    samples = markov_chains(0.7, 31, 3)
    chains = samples[:30, :, 0, 0].double().T.tolist()
    halves = [chain[:15] for chain in chains] + [chain[15:] for chain in chains]
    within = statistics.fmean(statistics.variance(half) for half in halves)
    between = statistics.variance([statistics.fmean(half) for half in halves])
    variance = 14 / 15 * within + between

    def correlation(lag: int) -> float:
        apart = [(half[t] - half[t - lag]) ** 2 for half in halves for t in range(lag, 15)]
        return 1 - statistics.fmean(apart) / (2 * variance)

    total, lag = -1.0, 0
    while lag < 14 and correlation(lag) + correlation(lag + 1) >= 0:
        total += 2 * (correlation(lag) + correlation(lag + 1))
        lag += 2
    assert float(effective_sample_size(samples)) == pytest.approx(90 / total)


def test_effective_size_of_stuck_and_of_constant_chains() -> None:
    """Stuck chains count for about one draw each; a label that never varies for all draws."""
    samples = torch.zeros(20, 4, 1, 2, dtype=torch.uint8)
    samples[:, 2, 0, 1] = 1
    constant, stuck = effective_sample_size(samples)[0].tolist()
    assert constant == 80
    assert 2 < stuck < 6


def test_columns_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that are looked at a few at a time have the same sizes."""
    samples = markov_chains(0.5, 20, 4, columns=7)
    whole = effective_sample_size(samples)
    monkeypatch.setattr("mlcrf.inference.gibbs.diagnostics._AT_ONCE", 200)
    assert torch.equal(effective_sample_size(samples), whole)


@pytest.mark.parametrize("stay", [0.0, 0.5, 0.9])
def test_both_ways_to_count_agree(stay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label by label as on a CPU, and all labels at once as elsewhere."""
    samples = markov_chains(stay, 41, 6, columns=9)
    samples[..., 0] = 1
    fast = effective_sample_size(samples)
    monkeypatch.setattr(diagnostics, "_on_cpu", lambda draws: False)
    close(effective_sample_size(samples), fast, 1e-4)


def test_error_of_the_log_of_a_mean() -> None:
    """By its formula; 1 where one chain is the whole mean; unknown from a single chain."""
    generator = torch.Generator().manual_seed(0)
    log_values = 800 + torch.randn(7, 5, 3, generator=generator)
    log_values[:, 1:, 2] -= 900
    found = log_mean_error(log_values)
    for image in range(2):
        means = [
            statistics.fmean(math.exp(v - 800) for v in log_values[:, c, image].tolist())
            for c in range(5)
        ]
        share = statistics.variance(means) / (5 * statistics.fmean(means) ** 2)
        assert float(found[image]) == pytest.approx(math.sqrt(share + 1 / 35**2), rel=1e-4)
    assert float(found[2]) == pytest.approx(math.sqrt(1 + 1 / 35**2))
    assert bool((log_mean_error(torch.zeros(4, 2, 1)) == 1 / 8).all())
    assert bool(log_mean_error(log_values[:, :1]).isinf().all())
