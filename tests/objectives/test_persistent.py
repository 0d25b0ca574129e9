"""Objectives with a memory: gradients of the likelihood, and of the bound that they are about."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import ConvexBeliefPropagation, Exact
from mlcrf.objectives import BlendedConvexBp, ContrastiveDivergence, exact_likelihood_loss
from mlcrf.rules import Rules
from tests.making import close, make_potentials

CHAINS = ContrastiveDivergence(chains=400, sweeps=25)
BLENDED = BlendedConvexBp()
N, L = 6, 5


def make_targets(*, hidden: bool) -> Tensor:
    """Make targets; if hidden about half are unknown, and all of one image."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, 2, (N, L), generator=generator)
    if hidden:
        observed = torch.rand(N, L, generator=generator) < 0.5
        observed[1] = False
        targets[~observed] = -1
    return targets


def gradients(loss: Tensor, potentials: Potentials) -> tuple[Tensor, Tensor]:
    """The gradient in unary and pairwise."""
    return torch.autograd.grad(loss, (potentials.unary, potentials.pairwise))


def problem(*, varies: bool = False, pairwise: float = 1.0) -> Potentials:
    made = make_potentials(N, L, unary=1.5, pairwise=pairwise, varies=varies)
    return Potentials(made.unary.requires_grad_(), made.edges, made.pairwise.requires_grad_())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_chains_give_the_gradient_of_the_likelihood(hidden: bool, varies: bool) -> None:
    """Step by step and called anew, within five standard errors of 10,000 draws or more."""
    potentials = problem(varies=varies)
    targets = make_targets(hidden=hidden)
    exact = exact_likelihood_loss(potentials, targets)
    wanted = gradients(exact, potentials)
    memory = CHAINS.start(potentials, targets)
    for _ in range(3):
        memory = CHAINS.advance(memory, potentials)
    got = gradients(CHAINS.loss(memory, potentials), potentials)
    anew = CHAINS(potentials, targets)
    for ours in (got, gradients(anew, potentials)):
        close(ours[0], wanted[0], 5 * 0.5 / 100 / N * 2)
        close(ours[1], wanted[1], 5 * 0.5 / 100 / (N if varies else 1) * 2)
    assert float(anew.detach()) == pytest.approx(float(exact.detach()), abs=0.02)


def test_chains_go_on() -> None:
    """A step carries states on with new draws; known labels keep their values in clamped chains."""
    potentials = problem()
    targets = make_targets(hidden=True)
    few = ContrastiveDivergence(chains=50, sweeps=1)
    memory = few.start(potentials, targets)
    first = few.advance(memory, potentials)
    second = few.advance(first, potentials)
    assert (first.sweeps, second.sweeps) == (1, 2)
    again = few.advance(replace(memory, sweeps=1), potentials)
    assert not torch.equal(again.free, first.free), "the same draws in two steps"
    assert second.clamped is not None
    assert bool(((second.clamped == targets) | (targets < 0)).all())
    assert not bool(((second.free == targets) | (targets < 0)).all())
    assert not torch.equal(second.free, second.clamped)


def test_a_step_with_nothing_known_goes_nowhere() -> None:
    """Free and clamped chains then sample the same: the gradient vanishes within its error."""
    potentials = problem()
    nothing = torch.full((N, L), -1)
    memory = CHAINS.start(potentials, nothing)
    memory = CHAINS.advance(memory, potentials)
    gradient, _ = gradients(CHAINS.loss(memory, potentials), potentials)
    close(gradient, torch.zeros_like(gradient), 5 * 0.5 / 100 / N * 2)
    value = CHAINS(potentials, nothing)
    assert float(value.detach()) == pytest.approx(0, abs=0.02)


def test_blended_loss_is_a_bound_that_falls_to_convex_bp() -> None:
    """Above the likelihood after every sweep, never rising, and at last the method's own bound."""
    potentials = problem()
    targets = make_targets(hidden=False)
    least = float(exact_likelihood_loss(potentials, targets).detach())
    memory = BLENDED.start(potentials, targets)
    values = []
    for _ in range(200):
        values.append(float(BLENDED.loss(memory, potentials).detach()))
        memory = BLENDED.advance(memory, potentials)
    assert min(values) > least
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[0] > values[-1] + 1e-3
    bound = ConvexBeliefPropagation(tolerance=1e-10, max_sweeps=1000)(potentials)
    settled = float((bound.log_partition - potentials.log_score(targets)).detach().mean())
    assert values[-1] == pytest.approx(settled, abs=1e-8)
    anew = BLENDED(potentials, targets)
    assert float(anew.detach()) == pytest.approx(settled, abs=1e-4)


@pytest.mark.parametrize("hidden", [False, True])
def test_blended_step_is_the_difference_of_beliefs(hidden: bool) -> None:
    """With settled messages the gradient is free minus clamped pseudo-marginals."""
    potentials = problem()
    targets = make_targets(hidden=hidden)
    memory = BLENDED.start(potentials, targets)
    for _ in range(300):
        memory = BLENDED.advance(memory, potentials)
    gradient, pair_gradient = gradients(BLENDED.loss(memory, potentials), potentials)
    method = ConvexBeliefPropagation(tolerance=1e-10, max_sweeps=1000)
    free, clamped = method(potentials), method(potentials, known=targets)
    assert free.pairwise_marginals is not None
    assert clamped.pairwise_marginals is not None
    close(gradient, (free.marginals - clamped.marginals).detach() / N, 1e-7)
    pairs = (free.pairwise_marginals - clamped.pairwise_marginals).detach()
    close(pair_gradient, pairs.mean(0), 1e-7)
    anew = gradients(BLENDED(potentials, targets), potentials)
    close(anew[0], gradient, 1e-4)
    close(anew[1], pair_gradient, 1e-4)


def test_implications_hold_in_the_chains() -> None:
    """A child without its parent is never drawn, and the gradient is that of the exact sum."""
    made = problem()
    rules = Rules(((0, 1), (3, 4)))
    potentials = Potentials(made.unary, made.edges, made.pairwise, rules)
    targets = make_targets(hidden=False)
    targets[:, 1] = torch.maximum(targets[:, 0], targets[:, 1])
    targets[:, 4] = torch.maximum(targets[:, 3], targets[:, 4])
    memory = CHAINS.start(potentials, targets)
    for _ in range(2):
        memory = CHAINS.advance(memory, potentials)
    assert not bool((memory.free[..., 0] > memory.free[..., 1]).any())
    assert not bool((memory.free[..., 3] > memory.free[..., 4]).any())
    got = gradients(CHAINS.loss(memory, potentials), potentials)
    posterior = Exact(pairwise_marginals=True)(potentials)
    close(got[0], (posterior.marginals - targets).detach() / N, 5 * 0.5 / 100 / N * 2)
