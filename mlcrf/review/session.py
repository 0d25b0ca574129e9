"""A review: photos, their marginals under a model, and the answers of people."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from threading import Lock

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.errors import DataError, MlcrfWarning
from mlcrf.inference import InferenceMethod
from mlcrf.inference.questions import label_entropy, next_questions
from mlcrf.labels import LabelSpace
from mlcrf.review.answers import Answer, Board, Verdict
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import Photo

_RANKED_AT_ONCE = 2  # photos; an answer waits for no more


class State(StrEnum):
    """The progress of a photo's answers."""

    NEW = "new"  # no answers
    BEGUN = "begun"
    DONE = "done"  # every label is answered or implied
    CONFLICT = "conflict"  # answers contradict each other


class Order(StrEnum):
    """The order of photos."""

    TEACHES = "teaches"  # by information of the best question
    NAME = "name"


@dataclass(frozen=True)
class Filter:
    """A selection of photos.

    Attributes:
        label: select photos with this label, answered or probable; None for all.
        state: select photos in this state; None for all.
        name: part of the path, in any case.
        folder: select photos in and below this folder; empty for all.
        order: order of the result.
    """

    label: int | None = None
    state: State | None = None
    name: str = ""
    folder: str = ""
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


class Review:
    """The state and actions of a review; safe to use from several threads.

    Args:
        photos: distinct photos, in the order of the folder.
        potentials: potentials of the photos (N, L).
        method: inference method of the run.

    Warns:
        MlcrfWarning: inference did not converge for some photos; once per review.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        labels: LabelSpace,
        potentials: Potentials,
        method: InferenceMethod,
        database: ReviewDatabase,
    ) -> None:
        self.photos, self.labels, self.database = tuple(photos), labels, database
        self._potentials = potentials
        self._beliefs = Beliefs(method, potentials)
        self._number = {photo.id: number for number, photo in enumerate(photos)}
        self._board = Board()
        shape = len(photos), len(labels)
        self._known = torch.full(shape, UNKNOWN, dtype=torch.int64)
        self._answered = torch.zeros(shape, dtype=torch.bool)
        self._contradicts: dict[int, frozenset[int]] = {}
        self._marginals = torch.zeros(shape, dtype=torch.float64)
        self._states = [State.NEW] * len(photos)
        self._worth = torch.zeros(len(photos), dtype=torch.float64)
        self._ranked = torch.zeros(len(photos), dtype=torch.bool)
        self._has_warned = False
        self._lock = Lock()
        with self._lock:
            self._believe(list(range(len(photos))))
            self._refresh()

    def number(self, photo: int) -> int:
        """Return the position of a photo from its number in the database.

        Raises:
            DataError: it is not among the photos.
        """
        if photo not in self._number:
            raise DataError(f"there is no photo {photo} in this folder any more")
        return self._number[photo]

    def folders(self) -> list[str]:
        """Return the subfolders with photos in or below them, in the order of their names."""
        found = {str(one) for photo in self.photos for one in PurePosixPath(photo.name).parents}
        return sorted(found - {"."})

    def look(self, number: int) -> Look:
        """Return a photo's state, including new answers of other people.

        Raises:
            DataError: no such photo.
            DatabaseError: the database cannot be read.
        """
        self._check(number)
        with self._lock:
            self._refresh()
            return self._look(number)

    def answer(
        self, number: int, values: Mapping[int, int | None], person: str, request: str
    ) -> Look:
        """Store a person's answers about a photo; return its new state.

        Args:
            values: label -> 1 yes, 0 no, -1 cannot tell, None no answer any more.
            request: see `ReviewDatabase.add`.

        Raises:
            DataError: no such photo or label.
            DatabaseError: the answer could not be stored.
        """
        self.answer_many([number], values, person, request)
        return self.look(number)

    def answer_many(
        self,
        numbers: Sequence[int],
        values: Mapping[int, int | None],
        person: str,
        request: str,
    ) -> list[int]:
        """Store the same answers about many photos, which one undo takes back.

        Args:
            values, request: as in `answer`.

        Returns:
            The photos concerned.

        Raises:
            DataError, DatabaseError: as `answer`.
        """
        for number in numbers:
            self._check(number)
        if not values or any(not 0 <= label < len(self.labels) for label in values):
            raise DataError("no such label")
        named = {self.labels.names[label]: value for label, value in values.items()}
        photos = [self.photos[number].id for number in numbers]
        return self._take(self.database.add_to_all(photos, named, person, request))

    def accept(self, number: int, person: str, request: str) -> Look:
        """Answer all open labels of a photo as shown, for a person."""
        look = self.look(number)
        rest = {
            label: int(p > 0.5)
            for label, (p, verdict) in enumerate(zip(look.marginals, look.verdicts, strict=True))
            if not verdict.is_answered
        }
        return self.answer(number, rest, person, request) if rest else look

    def undo(self, person: str, request: str) -> list[int]:
        """Undo a person's last act; return the photos concerned, none if there is none."""
        return self._take(self.database.undo(person, request, self._number.keys()))

    def redo(self, person: str, request: str) -> list[int]:
        """Redo what a person undid last; return the photos concerned, none if there is none."""
        return self._take(self.database.redo(person, request, self._number.keys()))

    def find(self, wanted: Filter) -> list[int]:
        """Return the numbers of the selected photos, in order."""
        with self._lock:
            self._refresh()
            text, below = wanted.name.casefold(), f"{wanted.folder}/" if wanted.folder else ""
            has = None if wanted.label is None else self._present()[:, wanted.label].tolist()
            found = [
                number
                for number, photo in enumerate(self.photos)
                if (wanted.state is None or self._states[number] is wanted.state)
                and (has is None or has[number])
                and text in photo.name.casefold()
                and photo.name.startswith(below)
            ]
            if wanted.order is Order.TEACHES:
                worth = self._worth.tolist()
                found.sort(key=lambda number: -worth[number])
            return found

    def tags(self, number: int, limit: int = 3) -> list[int]:
        """Return the labels of a photo, likeliest first."""
        present = self._present(slice(number, number + 1))[0]
        labels: list[int] = self._marginals[number].argsort(descending=True).tolist()
        return [label for label in labels if present[label]][:limit]

    def state(self, number: int) -> State:
        return self._states[number]

    def progress(self) -> dict[str, int]:
        """Count photos by state, answered labels, and photos that are ranked."""
        with self._lock:
            counts = {state.value: self._states.count(state) for state in State}
            return {
                "photos": len(self.photos),
                "answers": int(self._answered.sum()),
                "labels": self._answered.numel(),
                "ranked": int(self._ranked.sum()),
            } | counts

    def rank(self) -> bool:
        """Rank the most promising photos that are not ranked yet; return whether any are left.

        Unranked photos count with the entropy of their least certain label, a lower bound.
        """
        with self._lock:
            waiting = (~self._ranked).nonzero().squeeze(1)
            best = self._worth[waiting].argsort(descending=True, stable=True)
            some = waiting[best[:_RANKED_AT_ONCE]]
            known = self._known[some]
        if len(some):
            information = self._beliefs.information(some, known)  # answers do not wait for it
            with self._lock:
                same = (self._known[some] == known).all(1)
                self._value(some[same], information[same])
        return len(waiting) > len(some)

    def _check(self, number: int) -> None:
        if not 0 <= number < len(self.photos):
            raise DataError(f"there is no photo {number}; there are {len(self.photos)}")

    def _present(self, rows: slice = slice(None)) -> Tensor:
        """Return the labels that are answered yes or more likely than not, (n, L)."""
        known = self._known[rows]
        return (known == 1) | ((known == UNKNOWN) & (self._marginals[rows] > 0.5))

    def _take(self, written: list[Answer]) -> list[int]:
        """Take answers that were just written into account; return their photos."""
        with self._lock:
            self._update(self._board.tell(written))
        photos = dict.fromkeys(answer.photo for answer in written)
        return [self._number[photo] for photo in photos if photo in self._number]

    def _refresh(self) -> None:
        """Read the answers that were written since the last call."""
        self._update(self._board.tell(self.database.since(self._board.last_id)))

    def _update(self, photos: set[int]) -> None:
        changed = sorted(self._number[photo] for photo in photos if photo in self._number)
        for number in changed:
            verdicts = self._board.verdicts(self.photos[number].id)
            found = [verdicts.get(name) for name in self.labels]
            self._answered[number] = torch.tensor([one is not None for one in found])
            values = [UNKNOWN if one is None else one.value for one in found]
            self._known[number] = torch.tensor(values)
            self._contradicts[number] = self._settle(number)
        if changed:
            self._believe(changed)

    def _settle(self, number: int) -> frozenset[int]:
        """Ignore answers that together break an implication, and return their labels."""
        row = self._known[number]
        broken = {
            label
            for child, parent in self._potentials.implications.closure
            if row[child] == 1 and row[parent] == 0
            for label in (child, parent)
        }
        row[sorted(broken)] = UNKNOWN
        return frozenset(broken)

    def _believe(self, numbers: list[int]) -> None:
        rows = torch.tensor(numbers, dtype=torch.int64)
        self._marginals[rows], advice = self._beliefs.marginals(rows, self._known[rows])
        if advice and not self._has_warned:
            self._has_warned = True
            warnings.warn(advice, MlcrfWarning, stacklevel=2)
        least = label_entropy(self._marginals[rows]).masked_fill(~self._askable(rows), 0)
        self._worth[rows] = least.amax(1)
        self._ranked[rows] = False
        for number in numbers:
            self._states[number] = self._state(number)

    def _value(self, rows: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
        """Return each photo's best question, -1 for none, and its information; cache it."""
        askable = self._askable(rows)
        information = information.masked_fill(~askable, 0)
        self._worth[rows] = information.amax(1)
        self._ranked[rows] = True
        return next_questions(information, askable), self._worth[rows]

    def _askable(self, rows: Tensor) -> Tensor:
        """Return the labels that are not answered and not implied by answers, (n, L)."""
        p = self._marginals[rows]
        return ~self._answered[rows] & (p > 0) & (p < 1)

    def _look(self, number: int) -> Look:
        rows = torch.tensor([number])
        found = self._beliefs.information(rows, self._known[rows])
        question, information = (value.item() for value in self._value(rows, found))
        verdicts = self._board.verdicts(self.photos[number].id)
        return Look(
            number=number,
            marginals=tuple(self._marginals[number].tolist()),
            known=tuple(self._known[number].tolist()),
            verdicts=tuple(verdicts.get(name, Verdict()) for name in self.labels),
            contradicts=self._contradicts.get(number, frozenset()),
            question=None if question < 0 else int(question),
            information=float(information),
            state=self._states[number],
        )

    def _state(self, number: int) -> State:
        verdicts = self._board.verdicts(self.photos[number].id)
        ours = [verdicts[name] for name in self.labels if name in verdicts]
        if any(one.is_conflict for one in ours) or self._contradicts.get(number):
            return State.CONFLICT
        if not ours:
            return State.NEW
        return State.BEGUN if bool(self._askable(torch.tensor([number])).any()) else State.DONE
