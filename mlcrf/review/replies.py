"""Replies of the review's page: tags, photos and reasons as values of JSON."""

from dataclasses import asdict
from math import isfinite, isnan
from typing import Any

from mlcrf.prediction.reasons import Reasons
from mlcrf.review.answers import Verdict
from mlcrf.review.records import PhotoState
from mlcrf.review.session import Review
from mlcrf.review.suspects import Suspect


class Replies:
    """Values of JSON that describe a review.

    Args:
        start: identifies this start of the review; an open page renews itself when it differs.
    """

    def __init__(self, review: Review, start: str) -> None:
        self._review, self._start = review, start

    def tags(self) -> list[dict[str, Any]]:
        """Return all tags, with their answers and how well they are known."""
        return [
            {
                "key": tag.key,
                "name": tag.name,
                "title": tag.title,
                "answers": tag.answers,
                "quality": tag.quality,
            }
            for tag in self._review.tags()
        ]

    def promise(self) -> dict[str, Any] | None:
        """Return what the page says of its promise; None without one."""
        promise = self._review.promise
        if promise is None:
            return None
        return promise.text._asdict() | {
            "covers_sure": promise.covers_sure,
            "left_out": promise.left_out,
            "labels": promise.labels,
        }

    def progress(self) -> dict[str, int | str]:
        """Return the counts of `Review.progress`, and an identifier of this start."""
        return {"start": self._start} | self._review.progress()

    def tiles(self, numbers: list[int], label: int | None = None) -> dict[str, Any]:
        """Return photos as the grid shows them.

        Args:
            label: tag that the list is about; its probability and answer are shown, too.
        """
        found = self._review.tags_of(numbers)
        tiles = [self._tile(number, tags) for number, tags in zip(numbers, found, strict=True)]
        if label is not None:
            for number, tile in zip(numbers, tiles, strict=True):
                tile.update(self._asked(number, label))
        return {"photos": tiles, "progress": self.progress()}

    def photo(self, look: PhotoState) -> dict[str, Any]:
        """Return the state of a photo."""
        labels = [
            _label(p, known, verdict, label in look.contradicts) | {"promised": promised}
            for label, (p, known, verdict, promised) in enumerate(
                zip(look.marginals, look.known, look.verdicts, look.promised, strict=True)
            )
        ]
        return self._tile(look.number, *self._review.tags_of([look.number])) | {
            "labels": labels,
            "question": look.question,
            "information": round(look.information, 4),
            "suspects": [_suspect(one) for one in self._review.suspects.of_photo(look.number)],
        }

    def _tile(self, number: int, tags: list[int]) -> dict[str, Any]:
        photo = self._review.photos[number]
        return {
            "id": photo.id,
            "name": photo.name,
            "version": photo.sha256[:12],
            "state": self._review.state(number),
            "tags": tags,
        }

    def _asked(self, number: int, label: int) -> dict[str, Any]:
        """Return what is believed about the tag that a list is about."""
        p, answer = self._review.belief(number, label)
        return {"p": _share(p), "answer": answer}


def describe_reasons(reasons: Reasons) -> dict[str, Any]:
    """Return the reasons for a tag's probability; without parts if a rule or answer settles it."""
    is_finite = isfinite(reasons.log_odds)  # JSON has no infinity
    places = reasons.map
    return {
        "p": reasons.probability,
        "log_odds": reasons.log_odds if is_finite else None,
        "parts": [asdict(part) for part in reasons.parts] if is_finite else [],
        "settled_by": reasons.settled_by,
        "map": None if places is None else {"rows": places.values.tolist(), "bias": places.bias},
        "no_map": reasons.no_map,
    }


def _label(p: float, known: int, verdict: Verdict, contradicts: bool) -> dict[str, Any]:
    votes = [
        {"person": who, "value": vote.value, "at": vote.at.isoformat(timespec="seconds")}
        for who, vote in verdict.votes.items()
    ]
    return {
        "p": _share(p),
        "known": known,
        "conflict": verdict.is_conflict or contradicts,
        "votes": votes,
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    row = suspect.row
    return {"label": suspect.tag, "given": row.given, "p": row.p, "because": row.because}


def _share(p: float) -> float | None:
    return None if isnan(p) else round(p, 4)
