"""Find the most interesting images of an evaluation, and make their cards for the template."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.evaluation import Answers
from mlcrf.images import Image
from mlcrf.images.pixels import load_thumbnail
from mlcrf.reports.names import file_name, readable, shared_folder

Rows = NDArray[np.int64]

_MOST_TAGS = 40  # tags per image and answer; unusual tags are shown first
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Gallery:
    """Number and size of the images in a report.

    Attributes:
        images: maximum number of images in each of three lists.
        thumbnail_px: longer side of a thumbnail.
    """

    images: int = 12
    thumbnail_px: int = 256


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


def changed_cards(answers: Answers, gallery: Gallery, names: Sequence[str]) -> dict[str, Any]:
    """Return counts of answers that differ from the baseline, and cards of the clearest cases."""
    changes = find_changes(answers)
    targets = answers.manifest.targets
    ours, theirs = chosen(answers)

    def cards(rows: Rows) -> list[dict[str, Any]]:
        shown = rows[: gallery.images].tolist()
        lists = (
            {
                "True": true_tags(targets[row]),
                "Independent": answer_tags(theirs[row], targets[row], ours[row]),
                "CRF": answer_tags(ours[row], targets[row], theirs[row]),
            }
            for row in shown
        )
        return _cards(answers, shown, lists, [""] * len(shown), gallery, names)

    return {
        "total": len(changes.better) + len(changes.worse) + changes.neither,
        "neither": changes.neither,
        "better": len(changes.better),
        "worse": len(changes.worse),
        "better_cards": cards(changes.better),
        "worse_cards": cards(changes.worse),
    }


def surprising_cards(answers: Answers, gallery: Gallery, names: Sequence[str]) -> dict[str, Any]:
    """Return the number of annotations that differ from the expected set, and the first cards."""
    assert answers.surprise is not None, "ask for with_surprise"
    rows = find_surprises(answers)
    shown = rows[: gallery.images].tolist()
    lists = (
        {
            "Annotated": annotated_tags(answers, row),
            "Expected": expected_tags(answers, row),
        }
        for row in shown
    )
    remarks = [times(float(answers.surprise[row])) for row in shown]
    return {"total": len(rows), "cards": _cards(answers, shown, lists, remarks, gallery, names)}


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


def times(nats: float) -> str:
    """Format a difference of log-probabilities in nats as a factor."""
    digits = math.floor(nats / math.log(10))
    if digits >= 5:
        return f"more than 10{str(digits).translate(_SUPERSCRIPT)}"
    factor = math.exp(nats)
    return f"{float(f'{factor:.2g}'):,.0f}" if factor >= 10 else f"{factor:.1f}"


def _cards(
    answers: Answers,
    rows: Sequence[int],
    lists: Iterable[Mapping[str, Sequence[Tag]]],
    remarks: Sequence[str],
    gallery: Gallery,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return name, thumbnail or problem, titled lists of labels, and remark of each image."""
    images = answers.manifest.images
    folder = shared_folder(images)
    return [
        {
            "name": file_name(images[row], folder),
            "lists": [(title, *_shown(some, names)) for title, some in tags.items()],
            "remark": remark,
        }
        | _thumbnail(images[row], gallery.thumbnail_px)
        for row, tags, remark in zip(rows, lists, remarks, strict=True)
    ]


def _thumbnail(image: Image, largest_px: int) -> dict[str, Any]:
    try:
        small = load_thumbnail(image, largest_px)
    except DataError as error:
        return {"thumbnail": "", "problem": readable(error.reason, 200)}
    uri = f"data:image/jpeg;base64,{base64.b64encode(small.jpeg).decode('ascii')}"
    return {"thumbnail": uri, "width": small.width, "height": small.height}


def _shown(tags: Sequence[Tag], names: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    kept, more = cut(tags)
    shown = [
        {
            "name": names[tag.label],
            "kind": tag.kind.value,
            "changed": tag.changed,
            "probability": "" if tag.probability is None else _percent(tag.probability),
        }
        for tag in kept
    ]
    return shown, more


def _percent(probability: float) -> str:
    if probability < 0.005:
        return "< 1 %"
    if probability > 0.995:
        return "> 99 %"
    return f"{100 * probability:.0f} %"


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
