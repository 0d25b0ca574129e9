"""Find the most interesting images of an evaluation, and classify their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mlcrf.evaluation import Answers

Rows = NDArray[np.int64]

_MOST_TAGS = 40  # tags per image and answer; unusual tags are shown first


class Kind(StrEnum):
    """The kind of a label in a list."""

    PLAIN = "plain"
    FALSE = "false"  # chosen but absent
    MISSED = "missed"  # present but not chosen
    OPEN = "open"  # chosen, truth unknown
    DOUBTED = "doubted"  # annotated but not expected
    EXPECTED = "expected"  # expected but not annotated


@dataclass(frozen=True)
class Tag:
    """A label of an image, with its probability under the CRF if shown."""

    label: int
    kind: Kind = Kind.PLAIN
    changed: bool = False
    probability: float | None = None


@dataclass(frozen=True)
class Changes:
    """Images for which the CRF and the independent baseline decide on different label sets.

    Attributes:
        better: rows where the CRF has fewer wrong labels, largest improvement first; ties are
            ordered by the increase in log-probability of the true set.
        worse: rows where the CRF has more wrong labels, in the same way.
        neither: number of images with different labels but equally many wrong.
    """

    better: Rows
    worse: Rows
    neither: int


def find_changes(answers: Answers) -> Changes:
    """Return all images whose label set differs between the CRF and the baseline."""
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
    """Return images whose annotation differs from the expected set, most surprising first."""
    assert answers.surprise is not None, "ask for with_surprise"
    targets = answers.manifest.targets
    differ = ((targets >= 0) & (targets != answers.crf.map_states)).any(1)
    rows = np.flatnonzero(differ & (answers.surprise > 0))
    return rows[np.argsort(-answers.surprise[rows], kind="stable")]


def chosen(answers: Answers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the label sets chosen by the CRF and by the baseline, (N, L) each."""
    ours, theirs = answers.crf.chosen, answers.independent.chosen
    assert ours is not None and theirs is not None
    return ours == 1, theirs == 1


def true_tags(targets: NDArray[np.int8]) -> list[Tag]:
    """Return the labels that are present in the targets (L,) of an image."""
    return [Tag(label) for label in np.flatnonzero(targets == 1).tolist()]


def answer_tags(
    said: NDArray[np.bool_], targets: NDArray[np.int8], other: NDArray[np.bool_]
) -> list[Tag]:
    """Return chosen and missed labels; `changed` where `other` differs."""
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
    """Return the annotated labels of an image, with the probability of unexpected labels."""
    expected = answers.crf.map_states[row] == 1
    return _with_doubts(answers, row, answers.manifest.targets[row] == 1, expected, Kind.DOUBTED)


def expected_tags(answers: Answers, row: int) -> list[Tag]:
    """Return the most probable label set, with the probability of labels not annotated."""
    expected = answers.crf.map_states[row] == 1
    annotated = answers.manifest.targets[row] != 0  # a label that is unknown is not a surprise
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
