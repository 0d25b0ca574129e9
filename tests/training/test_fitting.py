"""Label sets of held-out images are ranked after a fit, where this takes little time."""

import numpy as np
import pytest
import torch

from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.inference import Exact
from mlcrf.inference.ranking import EnumeratingRanker
from mlcrf.model import LabelCrf
from mlcrf.training import fitting
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.preconditioner import Penalty


def fitted(labels: int) -> Fitted:
    model = LabelCrf(3, labels, edges=full_edges(labels), seed=0)
    with torch.no_grad():
        model.pairwise.copy_(torch.randn(model.pairwise.shape, generator=torch.manual_seed(0)))
    return Fitted(model, Penalty(1.0, 1.0), 0.0, {}, model)


def examples(labels: int, images: int = 40) -> Examples:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((images, 3)).astype(np.float32)
    return Examples(features, draw.integers(0, 2, (images, labels)).astype(np.int8))


def test_places_are_those_of_the_models_that_did_not_see_the_images() -> None:
    """Of the model fitted on the training images, or of each fold's own."""
    validation, one, other = examples(5), fitted(5), fitted(5)
    with torch.no_grad():
        other.model.pairwise.neg_()
    standing = fitting.rank_held_out(one, validation, TrainSettings())
    assert standing is not None
    targets = torch.from_numpy(validation.targets).long()
    potentials = validation.potentials(one.on_train, slice(40))
    expected = EnumeratingRanker(potentials).standing(potentials, targets)
    assert torch.allclose(standing.ahead, expected.ahead) and standing.ahead.max() <= 1
    states = Exact().map_states(potentials)
    assert torch.equal(expected.ahead == 0, (states == targets).all(1))
    parts = ((one.model, validation), (other.model, validation))
    folds = Fitted(one.model, one.penalty, 0.0, {}, one.model, held_out=parts)
    both = fitting.rank_held_out(folds, examples(5, 7), TrainSettings())
    assert both is not None and torch.equal(both.ahead[:40], standing.ahead)
    assert not torch.equal(both.ahead[40:], standing.ahead)


def test_some_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images with unknown labels, those beyond a number, and models of too many labels."""
    monkeypatch.setattr(fitting, "_MOST_RANKED", 25)
    validation = examples(4)
    before = validation.targets.copy()
    standing = fitting.rank_held_out(fitted(4), validation, TrainSettings())
    assert standing is not None and int(standing.ahead.isfinite().sum()) == 25
    assert np.array_equal(before, validation.targets)
    validation.targets[:, 0] = -2
    standing = fitting.rank_held_out(fitted(4), validation, TrainSettings())
    assert standing is not None and standing.ahead.isnan().all()
    assert fitting.rank_held_out(fitted(25), examples(25), TrainSettings()) is None
