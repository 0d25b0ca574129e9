"""Couplings from 1e-30 to 1e30: every exact method returns, finite, and equals brute force."""

import pytest
import torch

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, JunctionTree
from mlcrf.inference.exact.partition import split_labels
from mlcrf.rules import Rules
from tests.making import close, expected
from tests.oracle import oracles

SIZES = (1e-30, 1e-9, 1e-3, 1e3, 1e7, 1e9, 1e16, 1e30)
METHODS = (Exact(pairwise_marginals=True), JunctionTree(pairwise_marginals=True))


def groups_of(num_labels: int, num_groups: int, size: float) -> Potentials:
    """Labels with couplings of one size inside groups and none between them."""
    edges = full_edges(num_labels)
    group = torch.arange(num_labels) % num_groups
    inside = group[edges[:, 0]] == group[edges[:, 1]]
    generator = torch.Generator().manual_seed(3)
    unary = torch.randn(3, num_labels, generator=generator, dtype=torch.float64)
    return Potentials(unary, edges, torch.where(inside, size, 0.0).double())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_labels_that_exclude_each_other(
    method: Exact | JunctionTree, size: float, varies: bool
) -> None:
    """Twelve labels, at most one of each four: however large, the couplings cost no precision."""
    potentials = groups_of(12, 3, -size)
    truth = oracles(potentials)
    if varies:
        pairwise = potentials.pairwise.repeat(3, 1)
        potentials = Potentials(potentials.unary, potentials.edges, pairwise)
    posterior = method(potentials)
    close(posterior.log_partition, expected(truth, "log_partition", potentials.unary), 1e-9)
    close(posterior.marginals, expected(truth, "marginals", potentials.unary), 1e-7)
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, torch.tensor(pairs, dtype=torch.float64), 1e-7)
    best = method.map_states(potentials)
    close(potentials.log_score(best), expected(truth, "best_score", potentials.unary), 1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_labels_that_attract_or_repel(method: Exact | JunctionTree, size: float) -> None:
    """Couplings of either sign; above 1e9 nothing but the couplings is left of a score."""
    potentials = groups_of(8, 1, size)
    signs = 2 * (torch.arange(28) % 3 > 0) - 1
    scale = torch.linspace(0.5, 1, 28, dtype=torch.float64)
    potentials = Potentials(potentials.unary, potentials.edges, potentials.pairwise * signs * scale)
    truth, posterior = oracles(potentials), method(potentials)
    rounding = 1e-9 * max(1, 1e-5 * size)
    log_partition = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_partition, rounding)
    best = method.map_states(potentials)
    close(potentials.log_score(best), expected(truth, "best_score", potentials.unary), rounding)
    assert bool(posterior.marginals.isfinite().all())
    if size <= 1e9:
        close(posterior.marginals, expected(truth, "marginals", potentials.unary), 1e-6)


@pytest.mark.parametrize("size", [1e7, 1e30])
def test_twenty_labels_that_exclude_each_other(size: float) -> None:
    """At most one of each four of twenty labels: Z is a product of sums over groups."""
    potentials = groups_of(20, 5, -size)
    sums = potentials.unary.exp().unflatten(1, (4, 5)).sum(1)
    posterior = Exact()(potentials)
    close(posterior.log_partition, sums.log1p().sum(1), 1e-9)
    wanted = potentials.unary.exp() / (1 + sums).repeat(1, 4)
    close(posterior.marginals, wanted, 1e-7)
    drawn = Exact().sample(potentials, 50, torch.Generator().manual_seed(0))
    assert int(drawn.unflatten(2, (4, 5)).sum(2).max()) == 1
    close(drawn.double().mean((0, 1)), wanted.mean(0), 0.2)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_the_split_does_not_depend_on_the_unit_of_couplings(size: float) -> None:
    """The exchange ends at the same halves whatever the couplings are multiplied by."""
    matrix = torch.rand(14, 14, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    strength = matrix + matrix.T
    assert split_labels(size * strength, Rules()) == split_labels(strength, Rules())
