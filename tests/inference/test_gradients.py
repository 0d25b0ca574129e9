"""Gradients: log Z has the marginals for its own, and finite differences agree."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import GradientError
from mlcrf.inference import Exact, JunctionTree, junction_tree
from mlcrf.inference.exact import all_states
from tests.inference.methods import ANY, BELIEFS, NONE, Row, make, rows
from tests.making import close, draw_known, make_potentials


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@rows(lambda row: row.gradient is BELIEFS)
def test_finite_differences_agree(row: Row, clamp: bool, varies: bool) -> None:
    """Gradients of log Z and of marginals, through every sweep."""
    made = make("three labels" if row.takes is ANY else "no edge", 1, pairwise=0.6)
    known = draw_known(made, num_unknown=2 if clamp else made.num_labels)
    method = row.cut(12, 0.0)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise
    pairwise = (pairwise.expand(1, -1).clone() if varies else pairwise).requires_grad_()

    def beliefs(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, ...]:
        posterior = method(Potentials(unary, made.edges, pairwise), known=known)
        return posterior.log_partition, posterior.marginals

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


EXACTLY = (Exact(pairwise_marginals=True), JunctionTree(pairwise_marginals=True))
EACH = pytest.mark.parametrize("method", EXACTLY, ids=lambda method: method.name)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("rules", [(), [(1, 0), (3, 2)]])
@EACH
def test_second_derivatives(
    method: Exact | JunctionTree, clamp: bool, varies: bool, rules: list[tuple[int, int]]
) -> None:
    """Log Z twice, marginals of labels and of pairs once, several images at a time."""
    made = make("five labels", 3, pairwise=0.8, varies=varies, rules=rules)
    known = None
    if clamp:
        known = torch.full((3, 5), -1)
        known[:2, 0], known[1, 4] = 1, 0

    def beliefs(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, ...]:
        potentials = Potentials(unary, made.edges, pairwise, made.rules)
        posterior = method(potentials, known=known)
        assert posterior.pairwise_marginals is not None
        return posterior.log_partition, posterior.marginals, posterior.pairwise_marginals

    inputs = made.unary.requires_grad_(), made.pairwise.requires_grad_()
    assert torch.autograd.gradcheck(beliefs, inputs)
    assert torch.autograd.gradgradcheck(lambda *given: beliefs(*given)[0], inputs, fast_mode=True)


@EACH
def test_second_derivatives_in_parts(
    method: Exact | JunctionTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In single precision, and an image at a time, gradients of marginals are the same."""
    made = make("six labels", 4, pairwise=0.8)
    weights = torch.linspace(-1, 2, 24).view(4, 6)

    def gradient(dtype: torch.dtype) -> list[Tensor]:
        leaves = [one.to(dtype).requires_grad_() for one in (made.unary, made.pairwise)]
        marginals = method(Potentials(leaves[0], made.edges, leaves[1])).marginals
        assert marginals.dtype == dtype
        return [x.double() for x in torch.autograd.grad(marginals, leaves, weights.to(dtype))]

    whole = gradient(torch.float64)
    monkeypatch.setattr(all_states, "_AT_ONCE", 1)
    monkeypatch.setattr(junction_tree, "_CHUNK_ENTRIES", 1)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for ours, theirs in zip(gradient(dtype), whole, strict=True):
            close(ours, theirs, tolerance)


def test_above_sixteen_labels_marginals_carry_none() -> None:
    """And a second derivative of log Z is refused, not wrong."""
    made = make_potentials(1, 17)
    unary = made.unary.requires_grad_()
    posterior = Exact()(Potentials(unary, made.edges, made.pairwise))
    assert not posterior.marginals.requires_grad
    (gradient,) = torch.autograd.grad(posterior.log_partition, unary, create_graph=True)
    close(gradient.detach(), posterior.marginals, 1e-12)
    with pytest.raises(GradientError, match="second derivative up to 16 labels; use mean-field"):
        gradient.sum().backward()
