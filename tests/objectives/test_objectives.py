"""Each loss against plain enumeration, its gradient against finite differences."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference import Exact, MeanField
from mlcrf.objectives import (
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood_loss,
    unrolled_mean_field_loss,
)
from tests.making import close, make_potentials
from tests.oracle import Oracle, oracles

Loss = Callable[[Potentials, Tensor], Tensor]
one_by_one = partial(unrolled_mean_field_loss, method=MeanField(max_sweeps=5))
in_parallel = partial(
    unrolled_mean_field_loss, method=MeanField(max_sweeps=5, parallel=True, damping=0.25)
)
UNROLLED = (one_by_one, in_parallel)
LOSSES: tuple[Loss, ...] = (
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood_loss,
    *UNROLLED,
)
NAMES = {one_by_one: "unrolled_one_by_one", in_parallel: "unrolled_in_parallel"}
NOTHING = torch.full((4, 5), -1)


def every_loss(*losses: Loss) -> pytest.MarkDecorator:
    def name(loss: Loss) -> str:
        return NAMES.get(loss) or loss.__name__

    return pytest.mark.parametrize("loss", losses or LOSSES, ids=name)


def make_targets(*, partial: bool = False) -> Tensor:
    """Make targets; if partial about half are unknown, of one image none and of one image all."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(0, 2, (4, 5), generator=generator)
    observed = torch.rand(4, 5, generator=generator) < 0.5
    observed[0], observed[1] = True, False
    assert 5 < int(observed.sum()) < 15
    return torch.where(observed, targets, -1) if partial else targets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cross_entropy(q: list[float], targets: list[int], observed: list[bool]) -> float:
    """Sum the cross-entropy over the known labels of an image."""
    return -math.fsum(
        math.log(p if y else 1 - p) for p, y, seen in zip(q, targets, observed, strict=True) if seen
    )


def mean_field(one: Oracle, q: list[float], free: list[bool], sweeps: int) -> list[float]:
    """Marginals after some sweeps from q, label after label, in plain Python."""
    q = list(q)
    for _ in range(sweeps):
        for i in range(len(q)):
            if free[i]:
                terms = [j * q[a + b - i] for (a, b), j in one.couplings.items() if i in (a, b)]
                q[i] = sigmoid(one.unary[i] + math.fsum(terms))
    return q


def parallel_mean_field(one: Oracle, known: list[int]) -> list[float]:
    """Log-odds after five damped parallel sweeps, in plain Python."""
    logits = list(one.unary)
    for _ in range(5):
        q = [sigmoid(x) if k == -1 else k for x, k in zip(logits, known, strict=True)]
        fields = [
            math.fsum(
                [u] + [j * q[a + b - i] for (a, b), j in one.couplings.items() if i in (a, b)]
            )
            for i, u in enumerate(one.unary)
        ]
        logits = [0.25 * x + 0.75 * field for x, field in zip(logits, fields, strict=True)]
    return logits


def without(one: Oracle, known: list[int], label: int) -> Oracle:
    """The same CRF with what is known of the other labels."""
    return replace(one, known=[-1 if i == label else y for i, y in enumerate(known)])


def shown_part(observed: Tensor) -> Tensor:
    """Return what unrolled mean field clamps: half of the known labels where others are unknown."""
    half = torch.rand(observed.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    return observed & half & ~observed.all(1, keepdim=True)


def unrolled_by_hand(loss: Loss, potentials: Potentials, targets: Tensor) -> list[float]:
    """Unrolled mean field of each image: what is not shown is scored, twice if any is hidden."""
    observed = targets >= 0
    shown = shown_part(observed)
    known = torch.where(shown, targets, -1).tolist()
    rows = zip(
        oracles(potentials), targets.tolist(), known, (observed & ~shown).tolist(), strict=True
    )
    values = []
    for at, (one, y, given, scored) in enumerate(rows):
        if loss is in_parallel:
            q = [sigmoid(x) for x in parallel_mean_field(one, given)]
        else:
            start = [sigmoid(u) if k == -1 else k for u, k in zip(one.unary, given, strict=True)]
            q = mean_field(one, start, [k == -1 for k in given], 5)
        weight = 1 if observed[at].all() else 2
        values.append(weight * cross_entropy(q, y, scored))
    return values


def by_enumeration(loss: Loss, potentials: Potentials, targets: Tensor) -> list[float]:
    """The loss of each image from the oracle alone."""
    if loss in UNROLLED:
        return unrolled_by_hand(loss, potentials, targets)
    rows = zip(oracles(potentials), oracles(potentials, targets), targets.tolist(), strict=True)
    values = []
    for one, agreeing, y in rows:
        seen = [label >= 0 for label in y]
        alone = [sigmoid(u) for u in one.unary]
        if loss is exact_likelihood_loss:
            agreement = math.fsum(one.probabilities[state] for state in agreeing.scores)
            values.append(-math.log(agreement))
        elif loss is independent_loss:
            values.append(cross_entropy(alone, y, seen))
        else:
            fields = [without(one, y, i).probability(i) for i in range(len(y))]
            values.append(cross_entropy(fields, y, seen))
    return values


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@every_loss()
def test_equals_enumeration(loss: Loss, hidden: bool, varies: bool) -> None:
    """A sum over known labels, a mean over images; unknown ones are summed out or masked."""
    potentials = make_potentials(4, 5, unary=2.0, pairwise=0.8, varies=varies)
    targets = make_targets(partial=hidden)
    wanted = math.fsum(by_enumeration(loss, potentials, targets)) / 4
    assert float(loss(potentials, targets)) == pytest.approx(wanted, abs=1e-10)


@every_loss(pseudo_likelihood_loss)
def test_pseudo_likelihood_is_the_product_of_conditionals(loss: Loss) -> None:
    """With all labels known it is the log of the product of P(label | all the others)."""
    potentials = make_potentials(4, 5, unary=2.0, pairwise=3.0)
    targets = make_targets()
    total = 0.0
    for one, y in zip(oracles(potentials), targets.tolist(), strict=True):
        each = [one.conditional(i, y) for i in range(5)]
        total += cross_entropy(each, y, [True] * 5)
    assert float(loss(potentials, targets)) == pytest.approx(total / 4, abs=1e-10)


@every_loss()
def test_nothing_known_is_no_loss(loss: Loss) -> None:
    """Images without a known label add nothing."""
    potentials = make_potentials(4, 5, pairwise=0.8)
    assert float(loss(potentials, NOTHING)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("hidden", [False, True])
@every_loss()
def test_equals_independent_at_zero_coupling(loss: Loss, hidden: bool) -> None:
    """Without couplings all losses are the same, and so are their gradients in unary.

    For what unrolled mean field scores: it counts that twice where something is hidden.
    """
    made = make_potentials(4, 5, unary=2.0)
    targets = make_targets(partial=hidden)
    unary = made.unary.requires_grad_()
    potentials = Potentials(unary, made.edges, torch.zeros_like(made.pairwise))
    ours = loss(potentials, targets)
    plain = independent_loss(potentials, targets)
    if loss in UNROLLED and hidden:
        observed = targets >= 0
        scored, whole = observed & ~shown_part(observed), observed.all(1, keepdim=True)
        plain = 2 * independent_loss(potentials, torch.where(scored & ~whole, targets, -1))
        plain = plain + independent_loss(potentials, torch.where(scored & whole, targets, -1))
    close(ours, plain, 1e-10)
    close(torch.autograd.grad(ours, unary)[0], torch.autograd.grad(plain, unary)[0], 1e-10)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@every_loss()
def test_gradient(loss: Loss, hidden: bool, varies: bool) -> None:
    """Finite differences agree with the gradient in both potentials."""
    made = make_potentials(4, 5, varies=varies)
    targets = make_targets(partial=hidden)

    def value(unary: Tensor, pairwise: Tensor) -> Tensor:
        return loss(Potentials(unary, made.edges, pairwise), targets)

    inputs = (made.unary.requires_grad_(), made.pairwise.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


@every_loss()
def test_finite_at_large_unaries(loss: Loss) -> None:
    """In float32, labels that are wrong by 50 give a finite loss and gradient."""
    made = make_potentials(4, 5, dtype=torch.float32)
    targets = make_targets()
    unary = (50 * (1 - 2 * targets)).float().requires_grad_()  # as wrong as can be
    value = loss(Potentials(unary, made.edges, made.pairwise), targets)
    (gradient,) = torch.autograd.grad(value, unary)
    assert float(value.detach()) > 50
    assert bool(gradient.isfinite().all())
    assert bool((gradient * (1 - 2 * targets) > 0.1).all()), "no way back for what is most wrong"


def test_sweeps_are_as_many_as_asked_for() -> None:
    """Unrolled mean field makes the number of sweeps that it is told."""
    potentials = make_potentials(4, 5, pairwise=2.0)
    targets = make_targets()
    truth = zip(oracles(potentials), targets.tolist(), strict=True)
    total = 0.0
    for one, y in truth:
        q = mean_field(one, [sigmoid(u) for u in one.unary], [True] * 5, 1)
        total += cross_entropy(q, y, [True] * 5)
    once = MeanField(max_sweeps=1)
    loss = unrolled_mean_field_loss(potentials, targets, method=once)
    assert float(loss) == pytest.approx(total / 4, abs=1e-10)


@pytest.mark.parametrize("hidden", [False, True])
def test_exact_likelihood_has_a_limit(hidden: bool) -> None:
    """The limit on labels is that of the method passed in."""
    targets = make_targets(partial=hidden)
    with pytest.raises(TooManyLabelsError, match=r"the limit is 2\*\*4"):
        exact_likelihood_loss(make_potentials(4, 5), targets, exact=Exact(max_labels=4))


def test_what_is_shown_is_about_half_and_changes_by_seed() -> None:
    """About half of the labels of a partly known image are clamped; the loss depends on which."""
    potentials = make_potentials(200, 5, pairwise=2.0)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (200, 5), generator=generator)
    targets[:, 4] = -1
    values = {float(in_parallel(potentials, targets, seed=seed)) for seed in range(3)}
    assert len(values) == 3
    shown = shown_part(targets >= 0)
    assert 0.4 < float(shown[:, :4].double().mean()) < 0.6


@pytest.mark.parametrize("settings", [(1, 0, 0, 0), (3, 0, 0, 0), (1, 1, 4, 0), (2, 0.5, 2, 0.1)])
def test_weighted_and_asymmetric_independent_loss(
    settings: tuple[float, float, float, float],
) -> None:
    """Each label's term is that of the formula, its gradient that of finite differences."""
    weight, positive, negative, margin = settings
    loss = partial(
        independent_loss,
        pos_weight=weight, focus_positive=positive, focus_negative=negative, margin=margin,
    )  # fmt: skip
    potentials = make_potentials(4, 5, unary=3.0)
    targets = make_targets(partial=True)
    total = []
    for u, y in zip(potentials.unary.tolist(), targets.tolist(), strict=True):
        for x, target in zip(u, y, strict=True):
            p = sigmoid(x)
            q = max(p - margin, 0)
            term = -weight * (1 - p) ** positive * math.log(p)
            if target >= 0:
                total += [term if target else -(q**negative) * math.log(1 - q)]
    wanted = math.fsum(total) / 4
    assert float(loss(potentials, targets)) == pytest.approx(wanted, abs=1e-12)

    def value(unary: Tensor) -> Tensor:
        return loss(Potentials(unary, potentials.edges, potentials.pairwise), targets)

    assert torch.autograd.gradcheck(value, (potentials.unary.requires_grad_(),))


def test_an_easy_absent_label_has_no_gradient() -> None:
    """Below the margin an absent label costs nothing and moves nothing, and nothing is NaN."""
    unary = torch.tensor([[-50.0, -3.0, 3.0]]).requires_grad_()
    potentials = Potentials(unary, torch.empty((0, 2), dtype=torch.int64), torch.empty(0))
    absent = torch.zeros(1, 3, dtype=torch.int64)
    loss = independent_loss(potentials, absent, margin=0.05, focus_negative=0.5)
    (gradient,) = torch.autograd.grad(loss, unary)
    assert gradient[0, :2].tolist() == [0.0, 0.0]
    assert float(gradient[0, 2]) > 0.4
