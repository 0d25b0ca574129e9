"""Fits: the same solution as scikit-learn's, the couplings that data came from, honest reports."""

from itertools import combinations, count, product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mlcrf.crf import full_edges
from mlcrf.inference import Exact, Gibbs
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import (
    ContrastiveDivergence,
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood_loss,
)
from mlcrf.training import features as features_module
from mlcrf.training import fit as fit_module
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.persistent_fit import Steps, fit_persistent
from mlcrf.training.preconditioner import (
    Curvature,
    Penalty,
    Preconditioner,
    counted_variance,
    sampled_covariance,
)
from mlcrf.training.progress import FitProgress
from tests.making import close
from tests.oracle import Oracle

Features, Targets = NDArray[np.float32], NDArray[np.int8]


def make_data(num_images: int = 300, *, num_labels: int = 3) -> tuple[Features, Targets]:
    """Correlated features of different scales; targets that depend on them."""
    rng = np.random.default_rng(0)
    standard = rng.normal(size=(num_images, 4)) @ rng.normal(size=(4, 4))
    features = (standard * [1, 10, 0.1, 3] + [0, 5, 2, -30]).astype(np.float32)
    logits = standard @ rng.normal(size=(4, num_labels)) / 2 + rng.normal(size=num_labels)
    targets = rng.random((num_images, num_labels)) < 1 / (1 + np.exp(-logits))
    return features, targets.astype(np.int8)


def independent(num_features: int = 4, num_labels: int = 3, hidden: int = 0) -> LabelCrf:
    return LabelCrf(num_features, num_labels, edges=no_edges(), hidden=hidden)


def unaries(model: LabelCrf, features: Features) -> Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(features)).unary


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("penalty", [0.3, 0.01])
def test_independent_fit_is_that_of_scikit_learn(penalty: float, partial: bool) -> None:
    """On standardised features, with C = 1 / (N penalty) and the bias free; unknowns left out."""
    features, targets = make_data()
    if partial:
        targets[np.random.default_rng(1).random(targets.shape) < 0.4] = -1
    space = FeatureSpace(features, targets)
    model, report = fit(space, independent(), independent_loss, Penalty(penalty, 0), tolerance=3e-8)
    assert report.converged
    got = unaries(space.to_features(model), features)
    standard = (features - features.mean(0, dtype=float)) / features.std(0, dtype=float)
    for label, column in enumerate(targets.T):
        known = column >= 0
        theirs = LogisticRegression(C=1 / (300 * penalty), tol=1e-10, max_iter=1000)
        theirs.fit(standard[known], column[known])
        np.testing.assert_allclose(
            got[:, label], theirs.decision_function(standard), rtol=0, atol=5e-3
        )


def sample_crf(num_images: int) -> tuple[Features, Targets, Tensor]:
    """Features, label sets drawn by enumeration from a known CRF of 5 labels, its couplings."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(num_images, 2)).astype(np.float32)
    weights, biases = rng.normal(size=(2, 5)), rng.normal(size=5) - 0.5
    pairs = list(combinations(range(5), 2))
    couplings = dict(zip(pairs, rng.choice([-1.5, -0.7, 0.0, 1.0, 1.5], len(pairs)), strict=True))
    states = np.array(list(product((0, 1), repeat=5)))
    constant = np.array([Oracle([0.0] * 5, couplings).score(state) for state in states])
    scores = (features @ weights + biases) @ states.T + constant
    drawn = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return features, states[drawn].astype(np.int8), torch.tensor(list(couplings.values()))


@pytest.mark.parametrize("curvature", [counted_variance, sampled_covariance])
def test_couplings_are_recovered(curvature: Curvature) -> None:
    """Exact likelihood finds the couplings that label sets were drawn with, within their error."""
    features, targets, couplings = sample_crf(4000)
    space = FeatureSpace(features, targets)
    penalty = Penalty(1e-5, 1e-5)
    start, _ = fit(space, LabelCrf(2, 5), pseudo_likelihood_loss, penalty, tolerance=1e-7)
    assert float((start.pairwise.detach() - couplings).abs().max()) < 0.5
    model, report = fit(
        space, start, exact_likelihood_loss, penalty, tolerance=1e-7, curvature=curvature
    )
    assert report.converged
    pairwise = model.pairwise.detach().double()
    assert float((pairwise - couplings).abs().max()) < 0.4  # about four standard errors
    assert float((pairwise - couplings).square().mean().sqrt()) < 0.15


@pytest.mark.parametrize("strength", [1e-6, 0.05])
def test_exact_likelihood_matches_moments(strength: float) -> None:
    """At the optimum the counts of pairs are those expected, up to penalty times coupling."""
    features, targets, _ = sample_crf(400)
    space = FeatureSpace(features, targets)
    model, _ = fit(
        space, LabelCrf(2, 5), exact_likelihood_loss, Penalty(1e-3, strength), tolerance=1e-8
    )
    with torch.no_grad():
        posterior = Exact(pairwise_marginals=True)(model(space.rotated))
    assert posterior.pairwise_marginals is not None
    y = torch.from_numpy(targets).float()
    first, second = full_edges(5).T
    counted = (y[:, first] * y[:, second]).mean(0)
    excess = counted - posterior.pairwise_marginals.mean(0)
    close(excess, strength * model.pairwise.detach(), 2e-4)
    close(y.mean(0), posterior.marginals.mean(0), 2e-4)  # biases go free


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_the_report_says_how_much_is_left(tolerance: float) -> None:
    """A fit stops below its tolerance, and what is left to gain is about what it says."""
    space = FeatureSpace(*make_data())
    penalty = Penalty(0.01, 0)
    model, loose = fit(space, independent(), independent_loss, penalty, tolerance=tolerance)
    _, tight = fit(space, independent(), independent_loss, penalty, tolerance=1e-10)
    assert loose.converged
    assert 0 < loose.remaining <= tolerance
    assert 1 < loose.gradients < tight.gradients
    assert loose.remaining / 5 < loose.loss - tight.loss < loose.remaining * 5
    with torch.no_grad():
        plain = float(independent_loss(model(space.rotated), space.targets))
    squares = float(model.output.weight.detach().square().sum())
    assert loose.loss == pytest.approx(plain + 0.005 * squares, abs=1e-6)


def test_a_fit_that_is_cut_short_says_so() -> None:
    """Out of gradients it stops, not converged; progress is told of each gradient."""
    told: list[FitProgress] = []
    _, report = fit(
        FeatureSpace(*make_data()), independent(), independent_loss, Penalty(0.01, 0),
        tolerance=1e-10, max_gradients=3, progress=told.append,
    )  # fmt: skip
    assert not report.converged
    assert report.remaining > 1e-10
    assert len(told) == report.gradients <= 4
    assert str(told[0]).startswith("gradient 1: loss ")


def test_a_watched_fit_ends_at_the_best_on_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where held-out images get worse, the best model by them is returned, and looking stops."""
    monkeypatch.setattr(fit_module, "_PATIENCE", 3)
    features, targets = make_data(60)
    space = FeatureSpace(features[:30], targets[:30])  # few, and learned by heart
    others = FeatureSpace(features[30:], targets[30:])
    seen: list[float] = []

    def watch(model: LabelCrf) -> float:
        with torch.no_grad():
            potentials = space.to_features(model)(torch.from_numpy(features[30:]))
            loss = independent_loss(potentials, others.targets)
        seen.append(float(loss))
        return seen[-1]

    penalty = Penalty(1e-3, 0)
    model, report = fit(
        space, independent(), independent_loss, penalty, tolerance=1e-12, watch=watch
    )
    assert report.stopped_early
    assert not report.converged
    assert len(seen) == int(np.argmin(seen)) + 1 + 3
    assert seen[0] > min(seen) + 0.1
    best = min(seen)
    assert watch(model) == best
    steps = count()
    last, plain = fit(
        space,
        independent(),
        independent_loss,
        penalty,
        tolerance=1e-8,
        watch=lambda _: -float(next(steps)),
    )
    assert plain.converged
    assert not plain.stopped_early
    assert watch(last) > best


def test_start_is_not_changed_and_the_same_fit_has_the_same_bits() -> None:
    """A fit works on a copy; starting at the solution it has nothing left to do."""
    space = FeatureSpace(*make_data())
    start = independent()
    runs = [fit(space, start, independent_loss, Penalty(0.1, 0), tolerance=1e-8) for _ in range(2)]
    assert not bool(start.output.weight.any())
    (once, report), (again, _) = runs
    assert torch.equal(once.output.weight, again.output.weight)
    same, there = fit(space, once, independent_loss, Penalty(0.1, 0), tolerance=1e-6)
    assert there.converged
    assert there.gradients == 1 < report.gradients
    close(same.output.weight.detach(), once.output.weight.detach(), 1e-6)


def test_blocks_of_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient in blocks, the last one smaller, leads to the same solution."""
    space = FeatureSpace(*make_data())
    whole, _ = fit(space, LabelCrf(4, 3), pseudo_likelihood_loss, Penalty(0.1, 0.1), tolerance=1e-8)
    monkeypatch.setattr(features_module, "_BLOCK", 128)
    parts, _ = fit(space, LabelCrf(4, 3), pseudo_likelihood_loss, Penalty(0.1, 0.1), tolerance=1e-8)
    close(parts.output.weight.detach(), whole.output.weight.detach(), 1e-3)
    close(parts.pairwise.detach(), whole.pairwise.detach(), 1e-3)


def test_a_hidden_layer_fits_what_a_line_cannot() -> None:
    """Exclusive or: no linear head does better than chance, eight hidden units do."""
    rng = np.random.default_rng(3)
    features = rng.uniform(-1, 1, size=(400, 2)).astype(np.float32)
    targets = (features[:, :1] * features[:, 1:] > 0).astype(np.int8)
    space = FeatureSpace(features, targets)
    losses = [
        fit(space, independent(2, 1, hidden), independent_loss, Penalty(1e-4, 0), tolerance=1e-4)[1]
        for hidden in (0, 8)
    ]
    assert losses[0].loss > 0.65
    assert losses[1].loss < 0.3


@pytest.mark.parametrize("hidden", [0, 6])
def test_axes_and_features_are_inverses(hidden: int) -> None:
    """A model goes from raw features to axes and back, predicting the same everywhere."""
    features, targets = make_data()
    space = FeatureSpace(features, targets)
    generator = torch.Generator().manual_seed(0)
    model = LabelCrf(4, 3, hidden=hidden)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    raw = unaries(model, features)
    on_axes = space.to_axes(model)
    with torch.no_grad():
        close(on_axes(space.rotated).unary, raw, 1e-4)
    back = space.to_features(on_axes)
    for parameter, other in zip(model.parameters(), back.parameters(), strict=True):
        close(other.detach(), parameter.detach(), 1e-5)
    assert torch.equal(back.pairwise, model.pairwise)


def test_rotated_features_are_white_but_for_scale() -> None:
    """Axes are uncorrelated, centred, and have the variances that are kept for them."""
    space = FeatureSpace(*make_data())
    covariance = space.rotated.T @ space.rotated / len(space)
    close(covariance, torch.diag(space.variance), 1e-4)
    close(space.rotated.mean(0), torch.zeros(4), 1e-5)
    assert float(space.variance.sum()) == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize("num_labels", [100, 4200])  # a matrix, and a diagonal alone
def test_curvature_of_labels_that_samples_hardly_show(num_labels: int) -> None:
    """That of rare labels is near what the images say, that of others what the features leave."""
    count = 500
    targets = np.zeros((count, num_labels), np.int8)
    targets[:2] = 1  # rare: most are in no sample, or in one
    targets[::2, 0] = 1
    features = targets[:, :1].astype(np.float32)
    space = FeatureSpace(features, targets)
    model = LabelCrf(1, num_labels, edges=torch.tensor([[1, 2], [2, 3]]))
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(space.frequencies().logit())
        model.output.weight[0] = 4.0  # log-odds of 4 and -4, variance 0.018
        model.output.bias[0] = 0.0
        model.pairwise.zero_()
    found = sampled_covariance(space, model)
    diagonal = found.diagonal() if num_labels == 100 else found
    counted = counted_variance(space, model)
    rare = slice(1, num_labels)
    assert bool((diagonal[rare] > 0.4 * counted[rare]).all())
    assert bool((diagonal[rare] < 4 * counted[rare]).all())
    assert 0.01 < float(diagonal[0]) < 0.06 < 0.24 < float(counted[0])


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("curvature", [counted_variance, sampled_covariance])
def test_coordinates_are_invertible(curvature: Curvature, hidden: int) -> None:
    """Position and assign are inverses, and slope is the gradient along the coordinates."""
    features, targets = make_data()
    space = FeatureSpace(features, targets)
    model = LabelCrf(4, 3, hidden=hidden)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    preconditioner = Preconditioner(space, model, Penalty(0.1, 0.2), curvature=curvature)
    position, before = preconditioner.parameters(), model.clone()
    preconditioner.assign(np.zeros_like(position))
    assert not any(bool(parameter.any()) for parameter in model.parameters())
    preconditioner.assign(position)
    for parameter, other in zip(model.parameters(), before.parameters(), strict=True):
        close(parameter.detach(), other.detach(), 1e-6)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    step = np.random.default_rng(0).normal(size=position.shape)
    along = float(preconditioner.gradient() @ step)
    preconditioner.assign(position + step)
    total = 0.0
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        assert new.grad is not None
        total += float(((new - old).detach() * new.grad).sum())
    assert along == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3e4])
def test_constant_features_are_no_problem(value: float) -> None:
    """A column without variance changes nothing."""
    features, targets = make_data()
    constant = np.full((300, 1), value, dtype=np.float32)
    wider = np.concatenate([constant, features], axis=1)
    predictions = []
    for x in (features, wider):
        space = FeatureSpace(x, targets)
        start = independent(x.shape[1])
        model, report = fit(space, start, independent_loss, Penalty(0.1, 0), tolerance=1e-7)
        assert report.converged
        predictions.append(unaries(space.to_features(model), x))
    close(predictions[1], predictions[0], 1e-2)


@pytest.mark.parametrize("penalty", [0.1, 0.0])
def test_nothing_but_constant_features(penalty: float) -> None:
    """With nothing to go by each label has its frequency, also where no penalty holds a weight."""
    _, targets = make_data()
    constant = np.ones((300, 2), dtype=np.float32)
    space = FeatureSpace(constant, targets)
    model, _ = fit(space, independent(2), independent_loss, Penalty(penalty, 0), tolerance=1e-7)
    frequencies = torch.from_numpy(targets.mean(0)).float().expand(300, -1)
    close(unaries(space.to_features(model), constant).sigmoid(), frequencies, 1e-3)


def test_frequencies() -> None:
    """Shares among known targets, kept off 0 and 1 where all or none are present."""
    targets = np.array([[1, 0, 1, -1], [1, 0, -1, -1], [1, 0, 0, -1]], dtype=np.int8)
    space = FeatureSpace(np.zeros((3, 1), np.float32), targets)
    close(space.frequencies(), torch.tensor([3.5 / 4, 0.5 / 4, 1.5 / 3, 0.5]), 1e-6)


def test_a_label_that_is_never_known() -> None:
    """Its weights are left at zero and the other labels are fitted as without it."""
    features, targets = make_data()
    hidden = targets.copy()
    hidden[:, 1] = -1
    fits = []
    for y in (hidden, targets[:, [0, 2]]):
        space = FeatureSpace(features, y)
        start = independent(num_labels=y.shape[1])
        model, report = fit(space, start, independent_loss, Penalty(0.1, 0), tolerance=1e-7)
        assert report.converged
        fits.append(model.output.weight.detach())
    assert not bool(fits[0][1].any())
    close(fits[0][[0, 2]], fits[1], 3e-3)


def test_steps_with_chains_reach_the_likelihood() -> None:
    """Contrastive divergence ends within its noise of the exact fit, in loss and in couplings."""
    features, targets, _ = sample_crf(500)
    space = FeatureSpace(features, targets)
    penalty = Penalty(1e-3, 1e-3)
    start, _ = fit(space, LabelCrf(2, 5), pseudo_likelihood_loss, penalty, tolerance=1e-6)
    best, exact = fit(space, start, exact_likelihood_loss, penalty, tolerance=1e-8)
    model, report = fit_persistent(
        space, start, ContrastiveDivergence(10, 2), penalty,
        curvature=sampled_covariance, tolerance=5e-3, steps=Steps(60),
    )  # fmt: skip
    assert report.converged
    assert report.gradients == 60
    close(model.pairwise.detach(), best.pairwise.detach(), 0.15)
    assert float((start.pairwise.detach() - best.pairwise.detach()).abs().max()) > 0.05
    again = fit_persistent(
        space, start, ContrastiveDivergence(10, 2), penalty,
        curvature=sampled_covariance, tolerance=5e-3, steps=Steps(60),
    )[0]  # fmt: skip
    assert torch.equal(again.pairwise, model.pairwise)
    assert report.loss == pytest.approx(exact.loss, abs=0.02)  # log Z of the first is an estimate


def test_closing_loss_of_many_images() -> None:
    """It is that of some of them, from all over the set, and near that of all."""
    features, targets, _ = sample_crf(4000)
    order = np.argsort(targets.sum(1), kind="stable")  # the first thousand are not like the rest
    space = FeatureSpace(features[order], targets[order])
    penalty = Penalty(1e-9, 1e-9)
    model, report = fit_persistent(
        space, LabelCrf(2, 5), ContrastiveDivergence(10, 2), penalty,
        curvature=sampled_covariance, tolerance=1e-3, steps=Steps(10),
    )  # fmt: skip
    potentials = model(space.rotated)
    exact = exact_likelihood_loss(potentials, space.targets)
    assert report.loss == pytest.approx(float(exact.detach()), abs=0.05)
    first = exact_likelihood_loss(model(space.inputs(slice(0, 1000))), space.targets[:1000])
    assert float((first - exact).abs().detach()) > 0.2


def test_steps_that_are_too_few_have_not_converged() -> None:
    """The mean slope of the second half says so."""
    features, targets, _ = sample_crf(500)
    space = FeatureSpace(features, targets)
    _, report = fit_persistent(
        space, LabelCrf(2, 5), ContrastiveDivergence(5, 1), Penalty(1e-3, 1e-3),
        curvature=sampled_covariance, tolerance=1e-3, steps=Steps(6, rate=0.01),
    )  # fmt: skip
    assert not report.converged
    assert report.remaining > 1e-2


def test_partial_labels_by_chains_and_exactly() -> None:
    """With labels hidden at random clamped chains end where summing out does."""
    features, targets, _ = sample_crf(600)
    targets[np.random.default_rng(0).random(targets.shape) < 0.3] = -1
    space = FeatureSpace(features, targets)
    penalty = Penalty(1e-3, 1e-2)
    start, _ = fit(space, LabelCrf(2, 5), pseudo_likelihood_loss, penalty, tolerance=1e-5)
    exact, _ = fit(space, start, exact_likelihood_loss, penalty, tolerance=1e-6)
    sampled, _ = fit_persistent(
        space, start, ContrastiveDivergence(10, 2), penalty,
        curvature=sampled_covariance, tolerance=1e-3, steps=Steps(60),
    )  # fmt: skip
    close(sampled.pairwise.detach(), exact.pairwise.detach(), 0.2)
    moved = (start.pairwise.detach() - exact.pairwise.detach()).abs()
    assert float(moved.max()) > 0.2, "the start is no different: nothing is shown"


@pytest.mark.parametrize("strength", [0.02, 0.1])
def test_l1_sets_couplings_to_zero_by_its_own_condition(strength: float) -> None:
    """Where a coupling is 0 the slope is below the strength, elsewhere it is the strength."""
    features, targets, _ = sample_crf(800)
    space = FeatureSpace(features, targets)
    model, report = fit(
        space, LabelCrf(2, 5), pseudo_likelihood_loss, Penalty(1e-3, 0, strength), tolerance=1e-7
    )
    assert report.converged
    loss = pseudo_likelihood_loss(model(space.rotated), space.targets)
    (slope,) = torch.autograd.grad(loss, model.pairwise)
    pairwise = model.pairwise.detach()
    zero = pairwise == 0
    assert 0 < int(zero.sum()) < len(zero)
    assert bool((slope[zero].abs() <= strength + 1e-3).all())
    close(slope[~zero], -strength * pairwise[~zero].sign(), 1e-3)
    plain = float(loss.detach()) + float(5e-4 * model.output.weight.detach().square().sum())
    assert report.loss == pytest.approx(plain + strength * float(pairwise.abs().sum()), abs=1e-5)


@pytest.mark.parametrize("signed", [0.0, 0.05])
def test_frozen_weights_stay(signed: float) -> None:
    """Piecewise training moves biases and couplings, and counts no penalty for what it keeps."""
    features, targets, _ = sample_crf(300)
    space = FeatureSpace(features, targets)
    start = LabelCrf(2, 5)
    with torch.no_grad():
        start.output.weight.fill_(0.7)
    model, report = fit(
        space, start, pseudo_likelihood_loss, Penalty(10.0, 0.01, signed),
        tolerance=1e-6, frozen=True,
    )  # fmt: skip
    assert report.converged
    assert torch.equal(model.output.weight, start.output.weight)
    assert float(model.output.bias.detach().abs().min()) > 1e-3
    assert bool(model.pairwise.detach().any())
    assert report.loss < 10


def test_couplings_that_vary_by_image_are_found() -> None:
    """Two labels that attract on one side of a feature and repel on the other; J alone is blind."""
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], size=1500)
    features = np.stack([side, rng.normal(size=1500)], 1).astype(np.float32)
    first = rng.random(1500) < 0.5
    agree = rng.random(1500) < 1 / (1 + np.exp(-3 * side))
    targets = np.stack([first, first == agree], 1).astype(np.int8)
    space = FeatureSpace(features, targets)
    losses, penalty = [], Penalty(1e-4, 1e-4)
    for rank in (0, 2):
        start = space.to_axes(space.spread_gates(LabelCrf(2, 2, rank=rank)))
        model, report = fit(space, start, pseudo_likelihood_loss, penalty, tolerance=1e-6)
        losses.append(report.loss)
    assert losses[0] > 1.1
    assert losses[1] < 0.75
    with torch.no_grad():
        pairwise = space.to_features(model)(torch.from_numpy(features)).pairwise[:, 0]
    assert bool((pairwise[features[:, 0] > 0] > 2).all())
    assert bool((pairwise[features[:, 0] < 0] < -2).all())


def test_a_thousand_labels_take_no_matrix_of_couplings() -> None:
    """Sparse couplings of 1,000 labels are fitted in memory linear in edges."""
    rng = np.random.default_rng(0)
    num_labels = 1000
    features = rng.normal(size=(64, 3)).astype(np.float32)
    targets = (rng.random((64, num_labels)) < 0.05).astype(np.int8)
    ring = torch.stack([torch.arange(num_labels - 1), torch.arange(1, num_labels)], 1)
    space = FeatureSpace(features, targets)
    start = LabelCrf(3, num_labels, edges=ring)
    assert counted_variance(space, start).shape == (2 * num_labels - 1,)
    model, report = fit(space, start, pseudo_likelihood_loss, Penalty(0.1, 0.1), tolerance=1e-2)
    assert report.converged
    assert bool(model.pairwise.detach().isfinite().all())


def test_pairs_are_counted_alike_by_matrix_and_by_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many labels go edge by edge; unknown ones are never counted as met."""
    features, targets = make_data(50, num_labels=4)
    targets[3, 1] = -1
    space, edges = FeatureSpace(features, targets), full_edges(4)
    dense = space.pair_frequencies(edges)
    monkeypatch.setattr(features_module, "_DENSE_LABELS", 2)
    monkeypatch.setattr(features_module, "_AT_ONCE", 100)
    close(space.pair_frequencies(edges), dense, 1e-7)
    met = ((targets[:, 0] == 1) & (targets[:, 1] == 1)).mean()
    assert float(dense[0]) == pytest.approx(met, abs=1e-6)


def test_the_sampled_curvature_is_that_of_gibbs_samples() -> None:
    """Two chains an image, 30 sweeps left out: half the mean square of their difference.

    On the diagonal a twentieth of the variance over images more, or what that variance is as if it
    were told by four samples more.
    """
    space = FeatureSpace(*make_data(40))
    model = LabelCrf(4, 3)
    with torch.no_grad():
        model.pairwise.copy_(torch.tensor([1.0, -1.0, 0.5]))
    samples = Gibbs(chains=2, burn_in=30, sweeps=1)(model(space.rotated)).samples
    assert samples is not None
    y = samples.double()
    first, second = model.edges.T
    phi = torch.cat([y, y[..., first] * y[..., second]], -1)
    wanted = (phi[0] - phi[1]).T @ (phi[0] - phi[1]) / (2 * len(space))
    counted, variance = counted_variance(space, model), wanted.diagonal().clone()
    more = (len(space) * variance + 4) / (len(space) + 4 / counted)
    wanted.diagonal().copy_(torch.maximum(variance + 0.05 * counted, more))
    close(sampled_covariance(space, model), wanted, 1e-12)
