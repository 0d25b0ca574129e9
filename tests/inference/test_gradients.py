"""Gradients: log Z has the marginals for its own, and finite differences agree."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from tests.inference.methods import ANY, BELIEFS, NONE, Row, make, rows
from tests.making import close, draw_known


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@rows(lambda row: row.gradient is not NONE)
def test_finite_differences_agree(row: Row, clamp: bool, varies: bool) -> None:
    """Gradients of log Z, and of marginals where the table says so, through every sweep."""
    made = make("cycle" if row.gradient is not BELIEFS else "three labels", 1, pairwise=0.6)
    if row.takes is not ANY:
        made = make("no edge", 1)
    known = draw_known(made, num_unknown=2 if clamp else made.num_labels)
    method = row.cut(12, 0.0)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise
    pairwise = (pairwise.expand(1, -1).clone() if varies else pairwise).requires_grad_()

    def beliefs(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, ...]:
        posterior = method(Potentials(unary, made.edges, pairwise), known=known)
        both = (posterior.log_partition, posterior.marginals)
        return both if row.gradient is BELIEFS else both[:1]

    inputs = (unary, pairwise) if len(made.edges) else (unary, pairwise.detach())
    assert torch.autograd.gradcheck(beliefs, inputs, fast_mode=True)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [5, 2])
@rows(lambda row: row.gradient is not NONE)
def test_marginals_are_the_gradient_of_log_partition(
    row: Row, num_unknown: int, varies: bool
) -> None:
    """At convergence the derivatives of log Z, or its bound, are the beliefs of labels and pairs.

    Of unaries and couplings together, and of either where the other needs none.
    """
    made = make("five labels" if row.takes is ANY else "no edge", 2, pairwise=0.5, varies=varies)
    known = draw_known(made, num_unknown=min(num_unknown, made.num_labels))
    weights = torch.tensor([1.0, -3.0], dtype=torch.float64)  # each image's gradient is its own
    for wanted in ((True, True), (True, False), (False, True)):
        leaves = [
            value.detach().clone().requires_grad_(needed)
            for value, needed in zip((made.unary, made.pairwise), wanted, strict=True)
        ]
        posterior = row.method(Potentials(leaves[0], made.edges, leaves[1]), known=known)
        assert bool(posterior.converged.all())
        if not posterior.log_partition.requires_grad:
            assert row.takes is not ANY  # no edge: nothing depends on couplings
            continue
        (posterior.log_partition * weights).sum().backward()
        if wanted[0]:
            close(leaves[0].grad, weights[:, None] * posterior.marginals.detach(), 1e-8)
        if wanted[1] and row.pairs:
            pairs = weights[:, None] * posterior.pairwise_marginals.detach()
            close(leaves[1].grad, pairs if varies else pairs.sum(0), 1e-8)


@rows()
def test_nothing_else_pretends_to_be_differentiable(row: Row) -> None:
    """Results that the table does not name carry no gradient, rather than a wrong one."""
    made = make("three labels" if row.takes is ANY else "no edge")
    potentials = Potentials(made.unary.requires_grad_(), made.edges, made.pairwise.requires_grad_())
    posterior = row.method(potentials)
    assert posterior.log_partition.requires_grad == (row.gradient is not NONE)
    assert posterior.marginals.requires_grad == (row.gradient is BELIEFS)
    assert not row.method.map_states(potentials).requires_grad
