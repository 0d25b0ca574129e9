"""Learn the tags of a review from its answers, and judge how well they are known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.checkpoint import Run
from mlcrf.choices import InferenceName
from mlcrf.config import TrainSettings
from mlcrf.crf import UNKNOWN
from mlcrf.errors import DataError
from mlcrf.inference import InferenceMethod
from mlcrf.model import LabelCrf
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.quality import estimate_quality
from mlcrf.training.teaching import Taught, Teacher

TOO_FEW = "too few answers to say how well it is known"
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


class Course:
    """The lessons that a review has had, one after the other, from all answers each time.

    Lessons are taken in one thread; what they said may be read from others.

    Args:
        make_learner: called by the first lesson; None if the model does not learn from answers.

    Attributes:
        can_learn: whether there are lessons at all.
        count: number of times that beliefs, or estimates of quality, have changed.
    """

    def __init__(self, make_learner: Callable[[], Learner] | None) -> None:
        self._make_learner, self.can_learn = make_learner, make_learner is not None
        self._learner: Learner | None = None
        self._heard = 0, 0
        self._last: tuple[Lesson, Tensor] | None = None
        self._quality: dict[int, tuple[Tensor, str]] = {}
        self.count = 0

    def learn(self, heard: tuple[int, int], answers: Tensor) -> Lesson | None:
        """Return beliefs that follow from all answers; None if there is nothing new.

        Args:
            heard: numbers of the last answer and change of a tag.
            answers: see `Learner.learn`.
        """
        has_answers = bool((answers != UNKNOWN).any())
        if self._make_learner is None or heard == self._heard or not (has_answers or self.count):
            return None
        if self._learner is None:
            self._learner = self._make_learner()
        lesson = self._learner.learn(answers)
        self._heard = heard
        if lesson is not None:
            self._last = lesson, answers
        return lesson

    def judge(self) -> None:
        """Estimate how well tags are known whose answers have changed with the last lesson."""
        lesson, answers = self.last()
        judged = {}
        for at, label in enumerate(lesson.columns.tolist()):
            said = answers[:, label]
            before = self._quality.get(label)
            is_same = before is not None and torch.equal(before[0], said)
            if is_same or not bool((said != UNKNOWN).any()):
                continue
            tagged = lesson.marginals[:, at] > 0.5
            found = estimate_quality(lesson.taught.given_others[:, at], said, tagged)
            judged[label] = said.clone(), TOO_FEW if found is None else str(found)
        self._quality |= judged
        self.count += bool(judged)  # so that pages show it

    def quality(self, label: int) -> str | None:
        """Return a sentence on how well a tag is known; None if nothing can be said."""
        return self._quality[label][1] if label in self._quality else None

    def last(self) -> tuple[Lesson, Tensor]:
        """Return the last lesson, and the answers that it is from (N, L).

        Raises:
            DataError: there was none.
        """
        if self._make_learner is None:
            raise DataError("this model does not learn from answers")
        if self._last is None:
            raise DataError("nothing is learned yet: answer yes about a tag of some photos")
        return self._last
