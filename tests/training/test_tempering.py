"""Factors of potentials in training: by validation images, if these are enough and gain by it."""

import numpy as np
import pytest
import torch

from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact
from mlcrf.labels import LabelSpace
from mlcrf.training.examples import Examples
from mlcrf.training.fitting import FittedModels, fit_features

LABELS = LabelSpace(("a", "b", "c"))


def fit(penalty: float, *, validation: int, seed: int = 0, **settings: object) -> FittedModels:
    """Fit on labels that attract each other, with this penalty of weights."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(600 + validation, 4, generator=generator)
    unary = features @ torch.randn(4, 3, generator=generator) - 1
    true = Potentials(unary, full_edges(3), torch.ones(3))
    targets = Exact().sample(true, 1, generator)[0].numpy().astype(np.int8)
    train, held_out = (
        Examples(features[rows].numpy(), targets[rows]) for rows in (slice(600), slice(600, None))
    )
    given = {"penalties": (penalty,), "pairwise_penalties": (0.01,), "schedule": "joint"}
    return fit_features(train, held_out, LABELS, TrainSettings(**(given | settings)))  # type: ignore[arg-type]


def test_weights_that_a_penalty_has_shrunk_are_made_larger() -> None:
    """Of both models, in the fit that is kept and in the one that decisions are tuned on."""
    few, enough = (fit(1.0, validation=count) for count in (399, 400))
    for model in ("crf", "independent"):
        before, after = getattr(few, model), getattr(enough, model)
        assert "unary_factor" not in before.report
        factor = after.report["unary_factor"]
        assert factor > 1.2
        for one in (after.model, after.on_train):
            grown = one.output.weight.norm() / before.on_train.output.weight.norm()
            assert float(grown.detach()) == pytest.approx(factor, rel=0.1)
    held_out, _ = enough.held_out["independent"]
    assert float(held_out.std()) > 1.1 * float(few.held_out["independent"][0].std())


def test_right_weights_are_left_alone() -> None:
    """With a small penalty factors seldom gain, and are near 1 if they do."""
    fitted = fit(0.01, validation=400)
    for one in (fitted.crf, fitted.independent):
        assert one.report.get("unary_factor", 1.0) == pytest.approx(1, abs=0.15)


def test_the_same_again() -> None:
    once, again = (fit(1.0, validation=400) for _ in range(2))
    assert once.crf.report["unary_factor"] == again.crf.report["unary_factor"]
    assert torch.equal(once.crf.model.pairwise, again.crf.model.pairwise)
