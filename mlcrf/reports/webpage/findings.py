"""Find the images of an evaluation that are worth looking at, and classify their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mlcrf.evaluation import Answers

Rows = NDArray[np.int64]

_MOST_TAGS = 40  # of one image and answer; those with something to say come first


class Kind(StrEnum):
    """The kind of a label in a list."""

    PLAIN = "plain"
    FALSE = "false"  # chosen, and not there
    MISSED = "missed"  # there, and not chosen
    OPEN = "open"  # chosen, and nobody knows
    DOUBTED = "doubted"  # annotated, and not expected
    EXPECTED = "expected"  # expected, and not annotated


@dataclass(frozen=True)
class Tag:
    """One label of one image, with the probability by the CRF where it is shown."""

    label: int
    kind: Kind = Kind.PLAIN
    changed: bool = False
    probability: float | None = None


@dataclass(frozen=True)
class Changes:
    """Images for which the CRF and the independent baseline decide on different label sets.

    Attributes:
        better: rows where the CRF has fewer wrong labels, those with the most put right first;
            of equals, those where the true set has become likelier by more.
        worse: the same for more wrong labels, the most done wrong first.
        neither: how many have other labels, and equally many wrong.
    """

    better: Rows
    worse: Rows
    neither: int


def find_changes(answers: Answers) -> Changes:
    """Return every image whose answer the CRF changed."""
    targets = answers.manifest.targets
    ours, theirs = chosen(answers)
    gain = _wrong(theirs, targets) - _wrong(ours, targets)
    likelier = answers.independent.nll - answers.crf.nll
    changed = (ours != theirs).any(1)

    def sorted_by(sign: int) -> Rows:
        rows = np.flatnonzero(sign * gain > 0)
        return rows[np.lexsort((-sign * likelier[rows], -sign * gain[rows]))]

    return Changes(sorted_by(1), sorted_by(-1), int((changed & (gain == 0)).sum()))


def find_surprises(answers: Answers) -> Rows:
    """Return images whose annotation differs from the expected set, the most surprising first."""
    assert answers.surprise is not None, "ask for with_surprise"
    targets = answers.manifest.targets
    differ = ((targets >= 0) & (targets != answers.crf.map_states)).any(1)
    rows = np.flatnonzero(differ & (answers.surprise > 0))
    return rows[np.argsort(-answers.surprise[rows], kind="stable")]


def chosen(answers: Answers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the label sets decided on by the CRF and by the baseline, (N, L) each."""
    ours, theirs = answers.crf.chosen, answers.independent.chosen
    assert ours is not None and theirs is not None
    return ours == 1, theirs == 1


def true_tags(targets: NDArray[np.int8]) -> list[Tag]:
    """Return the labels that an image is known to have, from its targets (L,)."""
    return [Tag(label) for label in np.flatnonzero(targets == 1).tolist()]


def answer_tags(
    said: NDArray[np.bool_], targets: NDArray[np.int8], other: NDArray[np.bool_]
) -> list[Tag]:
    """Return the labels of an answer and those that it misses; `changed` where `other` differs."""
    tags = []
    for label in np.flatnonzero(said | (targets == 1)).tolist():
        if not said[label]:
            kind = Kind.MISSED
        elif targets[label] == 1:
            kind = Kind.PLAIN
        else:
            kind = Kind.FALSE if targets[label] == 0 else Kind.OPEN
        tags.append(Tag(label, kind, changed=bool(said[label] != other[label])))
    return tags


def annotated_tags(answers: Answers, row: int) -> list[Tag]:
    """Return the annotated labels of an image, with the probability of those that surprise."""
    expected = answers.crf.map_states[row] == 1
    return _with_doubts(answers, row, answers.manifest.targets[row] == 1, expected, Kind.DOUBTED)


def expected_tags(answers: Answers, row: int) -> list[Tag]:
    """Return the most probable label set, with probabilities of those not annotated."""
    expected = answers.crf.map_states[row] == 1
    annotated = answers.manifest.targets[row] != 0  # to lack what nobody knows is no surprise
    return _with_doubts(answers, row, expected, annotated, Kind.EXPECTED)


def cut(tags: Sequence[Tag]) -> tuple[list[Tag], int]:
    """Return the tags to show, and the number of others."""
    if len(tags) > _MOST_TAGS:
        tags = sorted(tags, key=lambda tag: tag.kind is Kind.PLAIN and not tag.changed)
    return list(tags[:_MOST_TAGS]), max(0, len(tags) - _MOST_TAGS)


def _with_doubts(
    answers: Answers, row: int, shown: NDArray[np.bool_], other: NDArray[np.bool_], kind: Kind
) -> list[Tag]:
    return [
        Tag(label)
        if other[label]
        else Tag(label, kind, probability=float(answers.crf.marginals[row, label]))
        for label in np.flatnonzero(shown).tolist()
    ]


def _wrong(said: NDArray[np.bool_], targets: NDArray[np.int8]) -> NDArray[np.int64]:
    wrong: NDArray[np.int64] = ((said != (targets == 1)) & (targets >= 0)).sum(1)
    return wrong
