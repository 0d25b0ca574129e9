"""Requests to a review and its replies."""

from dataclasses import dataclass
from enum import StrEnum

from mlcrf.review.answers import Verdict


class State(StrEnum):
    """The progress of a photo's answers."""

    NEW = "new"  # no answers
    BEGUN = "begun"
    DONE = "done"  # every label is answered or implied
    CONFLICT = "conflict"  # answers contradict each other


class Order(StrEnum):
    """The order of photos."""

    TEACHES = "teaches"  # by information of the best question; see `mlcrf.review.questions`
    NAME = "name"


@dataclass(frozen=True)
class Filter:
    """A selection of photos.

    Attributes:
        label: select photos with this label, answered or probable; None for all.
        state: select photos in this state; None for all.
        name: part of the path, in any case.
        order: order of the result.
    """

    label: int | None = None
    state: State | None = None
    name: str = ""
    order: Order = Order.TEACHES


@dataclass(frozen=True)
class Look:
    """The current state of one photo.

    Attributes:
        number: position in the folder.
        marginals: P(label present | answers), (L,).
        known: answered labels, 1 or 0; -1 if unknown or contradictory (L,).
        verdicts: the answers about each label (L,).
        contradicts: labels whose answers break an implication of the model.
        question: the label to ask next; None if nothing is left to ask.
        information: expected information of its answer, in nats.
        state: progress of the photo.
    """

    number: int
    marginals: tuple[float, ...]
    known: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    contradicts: frozenset[int]
    question: int | None
    information: float
    state: State
