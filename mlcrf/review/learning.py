"""Learn the tags of a review from its answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.checkpoint import Run
from mlcrf.choices import InferenceName
from mlcrf.config import TrainSettings
from mlcrf.crf import UNKNOWN
from mlcrf.inference import InferenceMethod
from mlcrf.model import LabelCrf
from mlcrf.review.beliefs import Beliefs
from mlcrf.training.teaching import Taught, Teacher

_LEAST = 1e-6  # probability in the log-odds that a model starts from


@dataclass(frozen=True)
class Lesson:
    """Beliefs after some answers.

    Attributes:
        columns: numbers of the tags that the beliefs are about (K,).
        marginals: P(tag present | answers) of all photos, float64 (N, K).
        is_rough: whether they are approximate although single photos are inferred better.
        before: log-odds of the model where nothing is known (N, L0); None without a model.
    """

    taught: Taught
    beliefs: Beliefs
    columns: Tensor
    marginals: Tensor
    is_rough: bool
    before: Tensor | None = None


class Learner:
    """A model and the tags of an archive, which it learns from answers.

    Args:
        features: of all photos, float32 (N, D).
        run: the model; None starts without labels.

    Raises:
        RunError: labels cannot be added to the model.
    """

    def __init__(self, features: Tensor, run: Run | None) -> None:
        self._features, self._run = features, run
        if run is None:
            self._before: Tensor | None = None
            self._teacher = Teacher(features.numpy())
            return
        nothing = torch.full((len(features), len(run.labels)), UNKNOWN)
        marginals, _ = self._believe(run.crf).survey(nothing)
        self._before = marginals.clamp(_LEAST, 1 - _LEAST).logit()
        self._teacher = Teacher(features.numpy(), run.crf, run.independent, self._before)

    def learn(self, answers: Tensor) -> Lesson | None:
        """Return beliefs that follow from all answers; None if there is nothing to learn yet.

        Args:
            answers: 1, 0 or -1 for unknown, of all tags, the model's labels first (N, L).
        """
        taught = self._teacher.learn(answers)
        if taught is None:
            return None
        beliefs = self._believe(taught.crf)
        marginals, is_rough = beliefs.survey(answers[:, taught.columns])
        return Lesson(taught, beliefs, taught.columns, marginals, is_rough, self._before)

    def _believe(self, crf: LabelCrf) -> Beliefs:
        with torch.no_grad():
            potentials = crf(self._features)
        return Beliefs(self._make_inference(crf), potentials, crf)

    def _make_inference(self, crf: LabelCrf) -> InferenceMethod:
        if self._run is not None and crf.num_labels == self._run.crf.num_labels:
            return self._run.make_inference()
        settings = TrainSettings() if self._run is None else self._run.settings
        return crf.make_inference(InferenceName.AUTO, settings)
