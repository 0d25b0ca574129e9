"""What is asked of a review, and what it answers."""

from dataclasses import dataclass
from enum import StrEnum

from mlcrf.review.answers import Verdict


class State(StrEnum):
    """How far the answers about a photo have come."""

    NEW = "new"  # nobody answered anything
    BEGUN = "begun"
    DONE = "done"  # every label is answered, or follows
    CONFLICT = "conflict"  # people, or answers, contradict each other


class Order(StrEnum):
    """Which photos come first."""

    TEACHES = "teaches"  # whose best question tells most; see `mlcrf.review.questions`
    NAME = "name"


@dataclass(frozen=True)
class Filter:
    """Which photos are meant.

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
    """One photo as it stands.

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
