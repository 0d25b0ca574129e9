"""Requests to a review and its replies."""

from dataclasses import dataclass
from enum import StrEnum

from mlcrf.review.answers import Verdict


class State(StrEnum):
    """The progress of the answers about a photo."""

    NEW = "new"  # nobody answered anything
    BEGUN = "begun"
    DONE = "done"  # every label is answered, or follows
    CONFLICT = "conflict"  # people, or answers, contradict each other


class Order(StrEnum):
    """The order of photos."""

    TEACHES = "teaches"  # whose best question tells most; see `mlcrf.review.questions`
    NAME = "name"


@dataclass(frozen=True)
class Filter:
    """A selection of photos.

    Attributes:
        label: those that have it, by an answer or more likely than not; None for all.
        state: None for all.
        name: a part of the path, whatever its case.
        order: of the result.
    """

    label: int | None = None
    state: State | None = None
    name: str = ""
    order: Order = Order.TEACHES


@dataclass(frozen=True)
class Look:
    """The current state of one photo.

    Attributes:
        number: its place in the folder.
        marginals: P(label present | answers), (L,).
        known: what the answers say, 1, 0, -1 (L,); where they contradict each other -1.
        verdicts: who answered what, of each label.
        contradicts: labels whose answers break an implication of the model.
        question: the label to ask next; None if there is nothing left to ask.
        information: what its answer tells, in nats.
        state: how far it has come.
    """

    number: int
    marginals: tuple[float, ...]
    known: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    contradicts: frozenset[int]
    question: int | None
    information: float
    state: State
