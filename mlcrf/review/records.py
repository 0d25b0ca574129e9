"""Records of what a review shows: its tags, and the state of a photo."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlcrf.review.answers import Verdict
from mlcrf.review.finding import State


@dataclass(frozen=True)
class Tag:
    """One tag of a review.

    Attributes:
        key: the label under which its answers are stored; the model's label if it knows the tag.
        name: its name; None if it is retired, or part of another tag.
        title: its name as people see it; the key if it has none.
        answers: number of photos that were answered yes, and no.
        quality: a sentence on how well it is known; None if nothing can be said.
    """

    key: str
    name: str | None
    title: str
    answers: Mapping[str, int]
    quality: str | None = None


@dataclass(frozen=True)
class PhotoState:
    """The current state of one photo.

    Attributes:
        number: position in the folder.
        marginals: P(tag present | answers); NaN if the model does not know the tag (L,).
        known: answered tags, 1 or 0; -1 if unknown or contradictory (L,).
        verdicts: the answers about each tag (L,).
        contradicts: labels whose answers break a rule of the model.
        promised: tags without an answer that the review's promise covers (L,).
        question: the label to ask next; None if nothing is left to ask.
        information: expected information of its answer, in nats.
        state: progress of the photo.
    """

    number: int
    marginals: tuple[float, ...]
    known: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    contradicts: frozenset[int]
    promised: tuple[bool, ...]
    question: int | None
    information: float
    state: State
