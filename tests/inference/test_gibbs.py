"""The sampler by its kernel: one sweep leaves the distribution as it is, and reaches all of it."""

import math
import statistics
from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Gibbs, LogPartitionKind
from mlcrf.inference.gibbs import split_r_hat, sweep
from tests.making import close, expected, make_potentials
from tests.oracle import oracles

BELOW_ONE = 1 - 2**-53


def sweep_matrix(potentials: Potentials, known: Tensor) -> tuple[Tensor, Tensor]:
    """Probability that one shipped sweep takes each state to each other, by bisection.

    A label is drawn present where its uniform is below a threshold. Uniforms of 0 and of almost
    1 steer the labels before it to the state wanted; between them the threshold is looked for.

    Returns:
        The (2^L, 2^L) matrix, and by how much at most a threshold differs from the probability
        that the sweep says it drew from.
    """
    num_labels = potentials.num_labels
    states = list(product((0, 1), repeat=num_labels))
    pairs = list(product(states, repeat=2))
    start = torch.tensor([one for one, _ in pairs], dtype=torch.float64)[:, None]
    end = torch.tensor([other for _, other in pairs], dtype=torch.float64)[:, None]
    matrix = potentials.pairwise_matrix()

    def swept(uniforms: Tensor) -> tuple[Tensor, Tensor]:
        y = start.clone()
        return y, sweep(potentials.unary, matrix, y, known, uniforms)

    steer = torch.where(end == 1, 0.0, BELOW_ONE).double()
    total = torch.ones(len(pairs), dtype=torch.float64)
    worst = torch.zeros(())
    for label in range(num_labels):
        low, high = torch.zeros_like(total), torch.ones_like(total)
        for _ in range(53):
            middle = (low + high) / 2
            uniforms = steer.clone()
            uniforms[:, 0, label] = middle
            present = swept(uniforms)[0][:, 0, label] == 1
            low, high = torch.where(present, middle, low), torch.where(present, high, middle)
        total *= torch.where(end[:, 0, label] == 1, low, 1 - low)
        worst = torch.maximum(worst, (swept(steer)[1][:, 0, label] - low).abs().max())
    return total.reshape(len(states), len(states)), worst


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_one_sweep_leaves_the_distribution(num_labels: int, varies: bool) -> None:
    """With P the matrix of one sweep pi P = pi, and many sweeps lead from any state to pi."""
    potentials = make_potentials(1, num_labels, unary=1.5, pairwise=2.0, varies=varies)
    matrix, worst = sweep_matrix(potentials, torch.full((1, num_labels), -1))
    pi = torch.tensor(list(oracles(potentials)[0].probabilities.values()), dtype=torch.float64)
    close(pi @ matrix, pi, 1e-12)
    close(torch.linalg.matrix_power(matrix, 200), pi.expand(len(pi), -1), 1e-9)
    assert worst < 1e-12


@pytest.mark.parametrize("value", [0, 1])
def test_one_sweep_leaves_the_clamped_distribution(value: int) -> None:
    """With a label known the same holds among the states that agree, and no other is reached."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0)
    known = torch.tensor([[-1, value, -1]])
    probabilities = oracles(potentials, known)[0].probabilities
    states = list(product((0, 1), repeat=3))
    agree = torch.tensor([state in probabilities for state in states])
    matrix, _ = sweep_matrix(potentials, known)
    inside = matrix[agree][:, agree]
    pi = torch.tensor(list(probabilities.values()), dtype=torch.float64)
    close(pi @ inside, pi, 1e-12)
    assert float(matrix[agree][:, ~agree].max()) < 1e-15
    close(torch.linalg.matrix_power(inside, 200), pi.expand(4, -1), 1e-9)


def test_sweep_uses_each_images_own_potentials() -> None:
    """In a batch, the first label is drawn from its conditional in each image and chain."""
    potentials = make_potentials(4, 3, pairwise=3.0, varies=True)
    y = torch.tensor([[[1.0, 0, 1]] * 4, [[0.0, 1, 1]] * 4], dtype=torch.float64)
    wanted = potentials.conditional_logits(y)[..., 0].sigmoid()
    drawn = sweep(
        potentials.unary,
        potentials.pairwise_matrix(),
        y,
        torch.full((4, 3), -1),
        torch.full((2, 4, 3), 0.5, dtype=torch.float64),
    )
    close(drawn[..., 0], wanted, 1e-12)
    assert torch.equal(y, (drawn > 0.5).double())


def test_a_run_from_end_to_end() -> None:
    """Marginals are within five standard errors of brute force and log Z within its own."""
    method = Gibbs(chains=40, burn_in=20, sweeps=50, seed=4)
    potentials = make_potentials(3, 6, unary=1.5, pairwise=1.5)
    truth, posterior = oracles(potentials), method(potentials)
    assert posterior.log_partition_kind is LogPartitionKind.ESTIMATE
    assert bool(posterior.converged.all())
    assert posterior.sweeps == 70
    samples = posterior.samples
    assert samples is not None
    assert samples.shape == (2000, 3, 6)
    assert samples.dtype == torch.uint8
    p = expected(truth, "marginals", potentials.unary)
    chains = samples.unflatten(0, (50, 40)).double().mean(0)
    effective = p * (1 - p) / (chains.var(0) / 40)
    close(posterior.marginals, p, 5 * (p * (1 - p) / effective).sqrt())
    close(samples.double().mean(0), p, 5 * (p * (1 - p) / effective).sqrt())
    # averaging probabilities instead of draws must gain
    assert float((posterior.marginals - p).abs().mean()) < float((chains.mean(0) - p).abs().mean())
    close(posterior.log_partition, expected(truth, "log_partition", p), 0.1)


def test_stuck_chains_are_reported() -> None:
    """Chains that end in one of two modes have not converged, and the advice says what to do."""
    edges = full_edges(8)
    pairwise = torch.where((edges[:, 0] - edges[:, 1]) % 2 == 0, 4.0, -4.0)  # even or odd labels
    potentials = Potentials(torch.tensor([[0.0] * 8, [-40.0] * 8]), edges, pairwise)
    posterior = Gibbs(chains=30)(potentials)
    assert posterior.converged.tolist() == [False, True]
    assert "1 of 2 images; raise sweeps and burn_in, or use exact" in posterior.advice


@pytest.mark.parametrize(
    ("num_labels", "unary", "coupling"),
    [
        (2, 10.0, -20.0),  # one of two labels, but never both
        (4, -30.0, 20.0),  # all of four labels, or none
    ],
)
def test_a_mode_that_is_missed_is_not_called_converged(
    num_labels: int, unary: float, coupling: float
) -> None:
    """With two equal modes, chains are right on average or say that they have not converged."""
    edges = full_edges(num_labels)
    start = torch.full((1, num_labels), unary)
    posterior = Gibbs()(Potentials(start, edges, torch.full((len(edges),), coupling)))
    right = (posterior.marginals - 0.5).abs().max() < 0.2
    assert bool(right) or not bool(posterior.converged)


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


def test_r_hat_of_too_few_sweeps() -> None:
    """Three sweeps say nothing of convergence."""
    assert split_r_hat(torch.zeros(3, 5, 2, 1, dtype=torch.uint8)).tolist() == [[math.inf]] * 2
