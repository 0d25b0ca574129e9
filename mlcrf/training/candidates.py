"""Fitted models to choose from, and penalties beyond the ends of their lists."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from mlcrf.model import LabelCrf
from mlcrf.training.examples import Examples
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.weighing import HeldOut, Weighing

MOST_ADDED = 4  # penalties beyond either end of the settings' list


@dataclass(frozen=True)
class Fitted:
    """A fitted model for raw features, with its penalty and scores.

    Attributes:
        score: validation loss of the fit on training images only, of whole label sets.
        report: report of the last fit, as a dictionary.
        on_train: the model with this penalty fitted on training images only.
        resolved: settings that were AUTO in the plan, or had several candidates.
        held_out: with the setting `cross_validation`, models and images that these were not fitted
            on, for decisions.
    """

    model: LabelCrf
    penalty: Penalty
    score: float
    report: dict[str, float]
    on_train: LabelCrf
    resolved: dict[str, StrEnum] = field(default_factory=dict)
    held_out: tuple[tuple[LabelCrf, Examples], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A CRF that was fitted on the training images, and how it was.

    Attributes:
        resolved: see `Fitted`.
        weighing: the share of it that held-out images support; None if it is used as it is.
        held_out: images that chose the weighing, with the models that were not fitted on them.
        stacked: the same as a fit of log-odds; None for another schedule.
    """

    fitted: Fitted
    resolved: dict[str, StrEnum]
    weighing: Weighing | None
    held_out: tuple[HeldOut, ...] = ()
    stacked: Fitted | None = None

    @property
    def loss(self) -> float:
        """The loss that its weights minimise."""
        assert self.weighing is not None
        return self.weighing.loss

    def is_better(self, stacked: "Candidate") -> bool:
        """Return whether joint learning, which sets all weights anew, is to be preferred.

        It is if its loss is less, and single labels are not worse by more than a standard error and
        a trifle: than those of the baseline if whole sets are better, else than those of the other.
        """
        assert self.weighing is not None
        assert stacked.weighing is not None
        ours, theirs = self.weighing, stacked.weighing
        gains_sets = ours.after.joint < theirs.after.joint
        least = ours.before if gains_sets else theirs.after
        return self.loss < stacked.loss and not ours.after.spoils(least)


def extend(
    best: Fitted,
    kind: Literal["weights", "pairwise"],
    strengths: list[float],
    fit: Callable[[Penalty, LabelCrf], Fitted],
) -> Fitted:
    """Try penalties beyond the end of the list that the best one is at, while they are better.

    Args:
        strengths: sorted; gets the new ones. A list of one is what the user chose.
        fit: fits with a penalty, beginning from a model.
    """
    for _ in range(MOST_ADDED):
        value = getattr(best.penalty, kind)
        if len(strengths) < 2 or value not in (strengths[0], strengths[-1]):
            break
        inner = strengths[1] if value == strengths[0] else strengths[-2]
        strengths.append(value * (value / inner))
        fitted = fit(replace(best.penalty, **{kind: strengths[-1]}), best.model)
        strengths.sort()
        if fitted.score >= best.score:
            break
        best = fitted
    return best
