"""Cards of images with their labels, for the report's template."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlcrf.errors import DataError
from mlcrf.evaluation import Answers
from mlcrf.images import Image
from mlcrf.images.pixels import load_thumbnail
from mlcrf.reports.names import file_name, readable, shared_folder
from mlcrf.reports.webpage import findings
from mlcrf.reports.webpage.findings import Rows, Tag

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


@dataclass(frozen=True)
class ShownTag:
    """A label in a list, with its kind and its probability as text."""

    name: str
    kind: str
    changed: bool
    probability: str


@dataclass(frozen=True)
class Card:
    """One image: a data URI, or an error message, and titled lists of labels."""

    name: str
    thumbnail: str
    width: int
    height: int
    problem: str
    lists: tuple[tuple[str, list[ShownTag], int], ...]
    remark: str


def changed_cards(answers: Answers, gallery: Gallery, names: Sequence[str]) -> dict[str, Any]:
    """Return counts of answers that differ from the baseline, and cards of the clearest cases."""
    changes = findings.find_changes(answers)
    targets = answers.manifest.targets
    ours, theirs = findings.chosen(answers)

    def cards(rows: Rows) -> list[Card]:
        shown = rows[: gallery.images].tolist()
        lists = (
            {
                "True": findings.true_tags(targets[row]),
                "Independent": findings.answer_tags(theirs[row], targets[row], ours[row]),
                "CRF": findings.answer_tags(ours[row], targets[row], theirs[row]),
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
    rows = findings.find_surprises(answers)
    shown = rows[: gallery.images].tolist()
    lists = (
        {
            "Annotated": findings.annotated_tags(answers, row),
            "Expected": findings.expected_tags(answers, row),
        }
        for row in shown
    )
    remarks = [times(float(answers.surprise[row])) for row in shown]
    return {"total": len(rows), "cards": _cards(answers, shown, lists, remarks, gallery, names)}


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
    lists: Any,
    remarks: Sequence[str],
    gallery: Gallery,
    names: Sequence[str],
) -> list[Card]:
    images = answers.manifest.images
    folder = shared_folder(images)
    cards = []
    for row, tags, remark in zip(rows, lists, remarks, strict=True):
        thumbnail, width, height, problem = _thumbnail(images[row], gallery.thumbnail_px)
        shown = tuple((title, *_shown(some, names)) for title, some in tags.items())
        cards.append(
            Card(file_name(images[row], folder), thumbnail, width, height, problem, shown, remark)
        )
    return cards


def _thumbnail(image: Image, largest_px: int) -> tuple[str, int, int, str]:
    try:
        small = load_thumbnail(image, largest_px)
    except DataError as error:
        return "", 0, 0, readable(error.reason, 200)
    encoded = base64.b64encode(small.jpeg).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}", small.width, small.height, ""


def _shown(tags: Sequence[Tag], names: Sequence[str]) -> tuple[list[ShownTag], int]:
    kept, more = findings.cut(tags)
    shown = [
        ShownTag(
            names[tag.label],
            tag.kind.value,
            tag.changed,
            "" if tag.probability is None else _percent(tag.probability),
        )
        for tag in kept
    ]
    return shown, more


def _percent(probability: float) -> str:
    if probability < 0.005:
        return "< 1 %"
    if probability > 0.995:
        return "> 99 %"
    return f"{100 * probability:.0f} %"
