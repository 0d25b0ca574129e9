"""Newton steps with a sampled Hessian: its products, the same minimum, and where it is not used."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlcrf.choices import ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.objectives import ExactLikelihood, exact_likelihood_loss
from mlcrf.processes import ALONE
from mlcrf.rules import Rules
from mlcrf.training import newton as module
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import _PenalisedLoss, fit
from mlcrf.training.newton import Point, SampledHessian, Vector, newton_steps
from mlcrf.training.plan import make_minimiser, plan_training
from mlcrf.training.preconditioner import Penalty, Preconditioner, sampled_covariance
from mlcrf.training.stacking import CrfOfLogOdds, LogOddsSpace

_LABELS, _PENALTY = 6, Penalty(0.05, 0.01)


def make_space(count: int = 1000, *, unknown: float = 0.0) -> FeatureSpace:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 5)).astype(np.float32)
    common = rng.normal(size=(count, 1))
    noise = rng.normal(size=(count, _LABELS))
    targets = (features @ rng.normal(size=(5, _LABELS)) + common + noise > 0.5).astype(np.int8)
    targets[rng.random(targets.shape) < unknown] = -1
    return FeatureSpace(features, targets)


def run(space: FeatureSpace, *, newton: bool, penalty: Penalty = _PENALTY, **more: Any) -> Any:
    tolerance = more.pop("tolerance", 1e-4)
    start = more.pop("start", None) or LabelCrf(5, _LABELS)
    return fit(
        space, start, exact_likelihood_loss, penalty, newton=newton, tolerance=tolerance,
        curvature=sampled_covariance, **more,
    )  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("most_images", [None, 300])
def test_products_are_those_of_the_hessian(
    monkeypatch: pytest.MonkeyPatch, most_images: int | None, frozen: bool
) -> None:
    """Up to sampling error, differences of gradients; penalties count, frozen weights do not."""
    monkeypatch.setattr(module, "_RESIDUAL", 1e-3)
    if most_images is not None:
        monkeypatch.setattr(module, "_MOST_IMAGES", most_images)
    space, penalty = make_space(2000), Penalty(0.1, 0.05)
    model, _ = run(space, newton=False, penalty=penalty)
    preconditioner = Preconditioner(
        space, model, penalty, curvature=sampled_covariance, frozen=frozen
    )
    loss = _PenalisedLoss(space, model, ExactLikelihood(), preconditioner, 1e-9, lambda event: None)
    here = preconditioner.parameters()
    rng = np.random.default_rng(1)
    hessian = SampledHessian(space, model, preconditioner, frozen=frozen)
    for _ in range(3):
        direction = rng.normal(size=len(here))
        wanted = (loss(here + 0.02 * direction)[1] - loss(here - 0.02 * direction)[1]) / 0.04
        step = hessian.solve(here, wanted)
        off = np.linalg.norm(step - direction) / np.linalg.norm(direction)
        assert off < (0.15 if most_images else 0.04)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_same_minimum_in_fewer_gradients(frozen: bool) -> None:
    space = make_space()
    plain, by_gradients = run(space, newton=False, tolerance=1e-6, frozen=frozen)
    model, by_steps = run(space, newton=True, tolerance=1e-6, frozen=frozen)
    assert by_steps.converged
    assert by_steps.loss == pytest.approx(by_gradients.loss, abs=1e-5)
    assert float((model.pairwise - plain.pairwise).detach().abs().max()) < 0.02
    assert by_steps.gradients <= by_gradients.gradients


def test_log_odds_in_place_of_features() -> None:
    space = make_space()
    log_odds = LogOddsSpace(torch.randn(1000, _LABELS), space.targets, ALONE)
    start = CrfOfLogOdds(_LABELS, full_edges(_LABELS), Rules())
    reports = [
        run(log_odds, newton=newton, start=start, frozen=True, tolerance=1e-5)[1]
        for newton in (False, True)
    ]
    assert reports[0].loss == pytest.approx(reports[1].loss, abs=5e-5)
    assert reports[1].gradients < reports[0].gradients


def test_the_same_bits() -> None:
    weights = [run(make_space(), newton=True)[0].output.weight.detach() for _ in range(2)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["unknown", "hidden", "conditional", "l1"])
def test_other_models_and_data_do_without(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The Hessian of a mixture, a hidden layer, gates or unknown labels is another one."""
    space = make_space(300, unknown=0.2 if kind == "unknown" else 0.0)
    start = LabelCrf(
        5, _LABELS, hidden=3 if kind == "hidden" else 0, rank=2 if kind == "conditional" else 0
    )
    penalty = replace(_PENALTY, pairwise_l1=0.01) if kind == "l1" else _PENALTY
    plain, _ = run(space, newton=False, start=start, penalty=penalty, max_gradients=5)
    monkeypatch.setattr(SampledHessian, "solve", None)  # to be called would be an error
    model, _ = run(space, newton=True, start=start, penalty=penalty, max_gradients=5)
    assert torch.equal(model.pairwise, plain.pairwise)


class _Steps:
    """A Hessian whose steps are given."""

    def __init__(self, *steps: float) -> None:
        self.steps = list(steps)

    def solve(self, position: Vector, wanted: Vector) -> NDArray[np.float64]:
        return np.array([self.steps.pop(0)])


def _parabola(vector: Vector) -> tuple[float, Vector]:
    return float(vector[0] ** 2 / 2), vector.copy()


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ((-0.9, -0.09, -1.0), 0.01),  # what remains is less than 1e-4 after two
        ((-0.9, -0.3, -1.0), 0.1),  # the second would raise the loss
        ((-0.9, 0.0), 0.1),  # the second gains nothing
        ((-0.1, -0.9), 0.9),  # the first gains too little to go on
    ],
)
def test_steps_end_where_they_gain_little(steps: tuple[float, ...], end: float) -> None:
    hessian: Any = _Steps(*steps)
    start = Point(np.ones(1), *_parabola(np.ones(1)))
    found = newton_steps(
        start, _parabola, hessian, is_over=lambda point: point.remaining <= 1e-4, most_steps=20
    )
    assert found.vector[0] == pytest.approx(end)


def test_a_limit_on_gradients_holds() -> None:
    for most in (1, 2, 3):
        _, report = run(make_space(300), newton=True, tolerance=1e-12, max_gradients=most)
        assert report.gradients <= most + 1
        assert not report.converged


@pytest.mark.parametrize(
    ("labels", "structure", "expected"),
    [(20, Structure.FULL, True), (12, Structure.FULL, False), (20, Structure.TREE, False)],
)
def test_steps_are_for_costly_gradients(labels: int, structure: Structure, expected: bool) -> None:
    """Enumeration of many label sets, and neither few nor a junction tree."""
    targets = (np.random.default_rng(0).random((50, labels)) < 0.3).astype(np.int8)
    names = LabelSpace(tuple(f"label {number}" for number in range(labels)))
    plan = plan_training(TrainSettings(structure=structure), names, targets, Rules())
    minimiser = make_minimiser(plan, ObjectiveName.EXACT_LIKELIHOOD)
    assert minimiser.newton is expected
