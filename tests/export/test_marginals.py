"""Marginals that can be exported are those of the methods that they repeat."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.export.marginals import BetheMarginals, MeanFieldMarginals, SplitMarginals
from mlcrf.inference import Bethe, Exact, MeanField
from mlcrf.rules import Limit, Rules
from tests.making import close, expected, make_potentials
from tests.oracle import oracles

RULES = Rules(((1, 0), (2, 0), (4, 3)))
EXACT = Exact(leave_out=0)


def split(potentials: Potentials) -> tuple[SplitMarginals, Tensor]:
    matrix = potentials.pairwise_matrix()
    varies = potentials.varies_by_image
    typical = matrix.abs().amax(0) if varies else matrix
    module = SplitMarginals(typical, potentials.rules, varies_by_image=varies)
    found: Tensor = module(potentials.unary, matrix)
    return module, found


@pytest.mark.parametrize(
    ("pairwise", "dtype"), [(0.5, torch.float32), (80, torch.float64), (800, None)]
)
@pytest.mark.parametrize("unary", [1.0, 60.0])
def test_split_equals_brute_force(pairwise: float, unary: float, dtype: torch.dtype | None) -> None:
    """At any strength, in the type that the couplings prove to be enough."""
    potentials = make_potentials(4, 7, unary=unary, pairwise=pairwise, dtype=torch.float32)
    module, found = split(potentials)
    assert module.dtype is dtype
    close(found, expected_marginals(potentials), 1e-4)


def test_the_type_is_enough_where_it_is_tight() -> None:
    """Couplings just within float32's reach, against unaries that favour what they forbid."""
    size, labels = 10.5, 6
    matrix = torch.zeros(labels, labels)
    matrix[:3, 3:] = -size
    matrix = matrix + matrix.T
    module = SplitMarginals(matrix, Rules())
    bound = 9 * size / 4
    assert module.dtype is torch.float32 and bound > 20
    edges = torch.tensor([[i, j] for i in range(3) for j in range(3, labels)])
    potentials = Potentials(torch.full((1, labels), 1.5 * size), edges, -size * torch.ones(9))
    close(module(potentials.unary, matrix), expected_marginals(potentials), 1e-5)


@pytest.mark.parametrize("varies", [False, True])
def test_split_leaves_out_what_implications_forbid(varies: bool) -> None:
    """With couplings shared by all images, and with each image's own."""
    plain = make_potentials(5, 6, unary=2, pairwise=2, varies=varies, dtype=torch.float32)
    potentials = replace(plain, rules=RULES)
    found = split(potentials)[1]
    close(found, EXACT(potentials).marginals, 1e-5)
    assert bool((found[:, RULES.array[:, 0]] <= found[:, RULES.array[:, 1]] + 1e-6).all())
    assert float((found - split(plain)[1]).abs().max()) > 0.01


@pytest.mark.parametrize("varies", [False, True])
def test_split_keeps_to_limits(varies: bool) -> None:
    """One inside a half, and those that lie across the halves, soft or of all labels."""
    limits = (Limit((0, 1, 2), 0, 1), Limit((3, 4), 0, 1, 2.0), Limit(tuple(range(14)), 1, 14))
    plain = make_potentials(3, 14, unary=2, pairwise=1, varies=varies, dtype=torch.float32)
    for some in (limits[:1], limits):
        potentials = replace(plain, rules=Rules((), some))
        module, found = split(potentials)
        assert (module.dtype is None) == (varies or len(some) > 1)
        close(found, EXACT(potentials).marginals, 1e-5)


def test_split_of_twenty_labels() -> None:
    """As many as the halves are made for, beside the package's own exact inference."""
    potentials = make_potentials(2, 20, unary=2, pairwise=1.5, dtype=torch.float32)
    module, found = split(potentials)
    assert module.dtype is torch.float32 and module.log2_states == pytest.approx(20)
    close(found, EXACT(potentials).marginals, 2e-5)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("sweeps", [1, 10])
def test_mean_field_makes_the_same_sweeps(varies: bool, sweeps: int) -> None:
    """As many as it is told, long before they have converged."""
    potentials = make_potentials(4, 6, pairwise=2, varies=varies)
    method = MeanField(max_sweeps=sweeps, tolerance=0, parallel=True)
    found = MeanFieldMarginals(sweeps)(potentials.unary, potentials.pairwise_matrix())
    close(found, method(potentials).marginals, 1e-12)


@pytest.mark.parametrize("varies", [False, True])
def test_bethe_ends_where_the_method_does(varies: bool) -> None:
    """At the fixed point of belief propagation, with pairs without a coupling among the labels."""
    potentials = make_potentials(4, 6, pairwise=1, varies=varies)
    some = torch.arange(0, len(potentials.edges), 2)
    fewer = Potentials(potentials.unary, potentials.edges[some], potentials.pairwise[..., some])
    wanted = Bethe(tolerance=1e-10, max_sweeps=1000)(fewer)
    assert bool(wanted.converged.all())
    found = BetheMarginals(200)(fewer.unary, fewer.pairwise_matrix())
    close(found, wanted.marginals, 1e-8)


def test_bethe_is_exact_on_a_tree() -> None:
    """A chain of labels, with couplings that forbid and demand."""
    edges = torch.tensor([[at, at + 1] for at in range(5)])
    pairwise = torch.tensor([8.0, -8, 100, -100, 1]).double()
    potentials = Potentials(make_potentials(4, 6).unary, edges, pairwise)
    found = BetheMarginals(100)(potentials.unary, potentials.pairwise_matrix())
    close(found, expected_marginals(potentials), 1e-10)


def expected_marginals(potentials: Potentials) -> Tensor:
    return expected(oracles(potentials), "marginals", potentials.unary)
