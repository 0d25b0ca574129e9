"""Write the decided tags of a review to sidecars as `mlcrf tag` does, in the background."""

import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from threading import Event, Lock

from mlcrf.decoding import Decoder
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import Image
from mlcrf.keywords.retagging import keyword_fault
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace
from mlcrf.prediction import (
    Origin,
    PhotoFileOptions,
    Prediction,
    PredictionWriter,
)
from mlcrf.reports.tagging_tables import photo_files_record
from mlcrf.review.session import Review
from mlcrf.rules import Rules

_AUTHOR = "mlcrf review"


@dataclass(frozen=True)
class Decided:
    """The tags to write.

    Attributes:
        labels: their names, as people see them; empty if no tag is decided.
        rules: rules of the model between them.
        predictions: one for each photo of the review.
    """

    labels: tuple[str, ...]
    rules: Rules
    predictions: tuple[Prediction, ...]

    @classmethod
    def of_review(
        cls,
        review: Review,
        least: float | None,
        *,
        promised: bool = False,
        at_least_cost: bool = False,
    ) -> "Decided":
        """Collect the tags of a review that are decided; see `Review.decided`."""
        decided = review.decided(least, promised=promised, at_least_cost=at_least_cost)
        tags = review.tags()
        columns: list[int] = decided.any(0).nonzero().squeeze(1).tolist()
        names = [tags[label].title for label in columns]
        rows = [
            tuple(name for name, has in zip(names, row, strict=True) if has)
            for row in decided[:, columns].tolist()
        ]
        predictions = tuple(
            Prediction(photo.image, labels)
            for photo, labels in zip(review.photos, rows, strict=True)
        )
        rules = review.rules.without_others(columns)  # some labels may be retired
        return cls(tuple(names), rules, predictions)

    def counts(self) -> dict[str, int]:
        """Count the photos with a tag, and their tags."""
        numbers = [len(one.labels) for one in self.predictions]
        return {"photos": sum(map(bool, numbers)), "tags": sum(numbers)}


@dataclass
class _Progress:
    """The number of photos that are done, of all."""

    total: int
    done: int = 0


@dataclass(frozen=True)
class _UntilStopped:
    """Images whose keywords are read, which takes long for many, until an event is set."""

    images: Sequence[Image]
    stop: Event

    def __iter__(self) -> Iterator[Image]:
        return takewhile(lambda _: not self.stop.is_set(), self.images)


class TagWriting:
    """A writer of the tags of a review; one request is carried out at a time."""

    def __init__(self, review: Review) -> None:
        self._review = review
        self._threads = ThreadPoolExecutor(1, "tags")
        self._lock, self._stop = Lock(), Event()
        self._request = ""
        self._progress = _Progress(0)
        self._result: Future[PredictionWriter] | None = None

    def start(
        self,
        least: float | None,
        request: str,
        *,
        promised: bool = False,
        at_least_cost: bool = False,
    ) -> None:
        """Begin to write the decided tags of all photos.

        Args:
            least, promised, at_least_cost: see `Review.decided`.
            request: identifier of the act; the same one again does nothing.

        Raises:
            DataError: no tag is decided, or tags are being written.
            LabelsError: a tag's name cannot be a keyword.
            SettingsError: see `Review.decided`.
        """
        with self._lock:
            if request == self._request:
                return
            if self._result is not None and not self._result.done():
                raise DataError("tags are being written already; wait until they are")
            decided = Decided.of_review(
                self._review, least, promised=promised, at_least_cost=at_least_cost
            )
            if not decided.labels:
                raise DataError("no tag is decided: answer yes about a tag of some photo")
            for name in decided.labels:
                if fault := keyword_fault(name):
                    raise LabelsError(f"tag {name!r}: {fault}; give it another name")
            self._request, self._progress = request, _Progress(len(decided.predictions))
            promise, costs = self._review.promise, self._review.costs
            decision = promise.decoder.signature if promise is not None and promised else ""
            if costs is not None and at_least_cost:
                decision = Decoder(costs=costs).signature
            self._result = self._threads.submit(self._write, decided, decision, self._progress)

    def status(self) -> dict[str, object]:
        """Return how far the last request is, and what came of it.

        Raises:
            MlcrfError: it failed as a whole.
        """
        with self._lock:
            result, progress = self._result, self._progress
        record: dict[str, object] = {
            "is_running": result is not None and not result.done(),
            "done": progress.done,
            "total": progress.total,
        }
        if result is None or not result.done():
            return record
        writer = result.result()
        files = photo_files_record(writer.photo_files)["sidecars"]
        written = sum(files.get(action, 0) for action in ("new", "changed", "deleted"))
        return record | {
            "files": files,
            "left_alone": progress.total - written - writer.failed,
            "failed": writer.failed,
            "error": "".join(writer.first_errors()[:1]),
            "undo": f"mlcrf tag {shlex.quote(self._folder())} --undo",
        }

    def close(self) -> None:
        """Complete the sidecars that are being written, and begin no others."""
        self._stop.set()
        self._threads.shutdown(wait=True)

    def _write(self, decided: Decided, decision: str, progress: _Progress) -> PredictionWriter:
        labels = LabelSpace(decided.labels)
        images = _UntilStopped([one.image for one in decided.predictions], self._stop)
        files = PhotoFileOptions(xmp=True).make(
            PhotoPlaces(), labels, Origin(_AUTHOR, "", decided.rules, decision), images
        )
        with PredictionWriter(None, labels, photo_files=files) as writer:
            for prediction in decided.predictions:
                if self._stop.is_set():
                    break
                writer.write(prediction)
                progress.done += 1
        return writer

    def _folder(self) -> str:
        return os.path.commonpath([photo.image.folder for photo in self._review.photos])
