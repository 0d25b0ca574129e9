"""Learners that a simulated person teaches: ours, and one logistic regression for each tag."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from mlcrf.checkpoint import Run
from mlcrf.inference import Tap
from mlcrf.labels import UNKNOWN
from mlcrf.review.typical import typical_photos
from mlcrf.training.teaching import Taught, Teacher

_INFERENCE = Tap(max_sweeps=30, tolerance=1e-3, damping=0.3, second_start=False)
_LEAST = 1e-6  # probability in the log-odds that a model starts from
_INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 3
_TYPICAL = 40  # photos
_GROWTH = 1.25  # of the answers until the penalty is chosen anew


@dataclass(frozen=True)
class World:
    """Photos to teach with, and others that only figures are made of.

    The first labels are those of the model, if there is one.

    Attributes:
        names: of the labels.
        archive, test: features, float32 (N, D) and (T, D).
        truth, test_truth: labels, int64 (N, L) and int8 (T, L).
        run: the model that is there first.
    """

    names: list[str]
    archive: NDArray[np.float32]
    truth: Tensor
    test: NDArray[np.float32]
    test_truth: NDArray[np.int8]
    run: Run | None

    @property
    def num_known(self) -> int:
        """Number of labels of the model that is there first."""
        return 0 if self.run is None else len(self.run.labels)

    @cached_property
    def typical(self) -> Tensor:
        """Photos of the archive to ask about a tag of which no photo is known."""
        return typical_photos(torch.from_numpy(self.archive), _TYPICAL)

    @cached_property
    def teacher(self) -> Teacher:
        """The package's learner, which keeps its fits."""
        if self.run is None:
            return Teacher(self.archive)
        crf, independent = self.run.crf, self.run.independent
        with torch.no_grad():
            potentials = crf(torch.from_numpy(self.archive))
            marginals = self.run.make_inference()(potentials).marginals.double()
        log_odds = marginals.clamp(_LEAST, 1 - _LEAST).logit()
        return Teacher(self.archive, crf, independent, log_odds)


class Learner(Protocol):
    """A learner of all labels of a world."""

    def learn(self, answers: Tensor) -> None:
        """Learn from all answers so far, 1, 0 or -1 for unknown (N, L)."""

    def marginals(self, answers: Tensor) -> Tensor:
        """Return the probabilities of the archive's labels, given the answers (N, L)."""

    def test_scores(self) -> NDArray[np.float64]:
        """Return the probabilities of the test photos' labels (T, L)."""


class OurLearner:
    """The learner of the package, with couplings or without."""

    def __init__(self, world: World, *, coupled: bool) -> None:
        self._archive, self._test = (torch.from_numpy(one) for one in (world.archive, world.test))
        self._coupled, self._num_labels = coupled, world.truth.shape[1]
        self._teacher = world.teacher
        self.taught: Taught | None = None

    def learn(self, answers: Tensor) -> None:
        """Learn from all answers so far."""
        self.taught = self._teacher.learn(answers)

    def marginals(self, answers: Tensor) -> Tensor:
        """Return the probabilities of the archive's labels, given the answers."""
        return self._infer(self._archive, answers)

    def test_scores(self) -> NDArray[np.float64]:
        """Return the probabilities of the test photos' labels; 0.5 for a label without answer."""
        return self._infer(self._test, None).numpy()

    @torch.no_grad()
    def _infer(self, features: Tensor, answers: Tensor | None) -> Tensor:
        found = torch.full((len(features), self._num_labels), 0.5, dtype=torch.float64)
        if self.taught is None:
            return found
        columns = self.taught.columns
        if self._coupled:
            known = None if answers is None else answers[:, columns]
            marginals = _INFERENCE(self.taught.crf(features), known=known).marginals
        else:
            marginals = self.taught.independent(features).unary.sigmoid()
        found[:, columns] = marginals.double()
        return found


class LogisticLearner:
    """scikit-learn's logistic regression of standardised features, for each label its own.

    The penalty is the same for all labels: the one of lowest cross-validated loss, summed over
    them, chosen anew whenever there are a quarter more answers. A label learns once it has a yes
    and a no. Labels of the model that is there first are its baseline's.
    """

    def __init__(self, world: World) -> None:
        self._first = None if world.run is None else world.run.independent
        self._raw = {"archive": world.archive, "test": world.test}
        mean, spread = world.archive.mean(0), world.archive.std(0)
        spread[spread == 0] = np.inf
        self._scaled = {
            name: ((features - mean) / spread).astype(np.float64)
            for name, features in self._raw.items()
        }
        self._num_labels = world.truth.shape[1]
        self._models: dict[int, tuple[NDArray[np.float64], float]] = {}
        self._c, self._chosen_at = 1e-2, 0

    def learn(self, answers: Tensor) -> None:
        """Learn from all answers so far."""
        given = answers.numpy()
        examples = {}
        for label in range(self._num_labels):
            rows = np.flatnonzero(given[:, label] != UNKNOWN)
            targets = given[rows, label]
            if len(set(targets.tolist())) == 2:
                # the fit lies in the span of its examples
                basis, triangle = np.linalg.qr(self._scaled["archive"][rows].T)
                examples[label] = basis, triangle.T, targets
        count = int((given != UNKNOWN).sum())
        if count > _GROWTH * self._chosen_at:
            parts = [(inputs, targets) for _, inputs, targets in examples.values()]
            self._c = min(_INVERSE_PENALTIES, key=lambda c: sum(_loss(c, *one) for one in parts))
            self._chosen_at = count
        self._models = {}
        for label, (basis, inputs, targets) in examples.items():
            fit = _logistic(self._c).fit(inputs, targets)
            self._models[label] = basis @ fit.coef_[0], float(fit.intercept_[0])

    def marginals(self, answers: Tensor) -> Tensor:
        """Return the probabilities of the archive's labels; an answer tells of its own alone."""
        return torch.from_numpy(self._predict("archive"))

    def test_scores(self) -> NDArray[np.float64]:
        """Return the probabilities of the test photos' labels."""
        return self._predict("test")

    @torch.no_grad()
    def _predict(self, name: str) -> NDArray[np.float64]:
        features = self._scaled[name]
        found = np.full((len(features), self._num_labels), 0.5)
        for label, (weights, bias) in self._models.items():
            found[:, label] = 1 / (1 + np.exp(-(features @ weights + bias).clip(-500, 500)))
        if self._first is not None:
            unary = self._first(torch.from_numpy(self._raw[name])).unary
            found[:, : unary.shape[1]] = unary.sigmoid().numpy()
        return found


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-3, max_iter=200)


def _loss(c: float, inputs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the cross-validated loss, summed over examples; 0 with less than two of a kind."""
    rarer = min(int(targets.sum()), int((1 - targets).sum()))
    if rarer < 2:
        return 0.0
    folds = StratifiedKFold(min(_FOLDS, rarer), shuffle=True, random_state=0)
    total = 0.0
    for seen, left_out in folds.split(inputs, targets):
        logits = _logistic(c).fit(inputs[seen], targets[seen]).decision_function(inputs[left_out])
        total += float((np.logaddexp(0, logits) - targets[left_out] * logits).sum())
    return total
