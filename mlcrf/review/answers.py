"""The log of answers, and the state of each label derived from it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlcrf.labels import UNKNOWN
from mlcrf.review.tags import Tags

YES, NO = 1, 0
VALUES = (YES, NO, UNKNOWN, None)  # None clears an earlier answer


@dataclass(frozen=True)
class Answer:
    """One event of the log; events never change.

    Attributes:
        id: increasing, except for events of other people written at the same moment.
        photo: the photo's number in the database.
        label: name of the label.
        value: 1 yes, 0 no, -1 cannot tell; None for no answer any more.
        person: name of the person.
        at: time in UTC.
        request: identifier shared by answers that were sent, and are undone, together.
        undoes: id of the event that this event undoes, or None.
        redoes: id of the undo that this event takes back, or None.
    """

    id: int
    photo: int
    label: str
    value: int | None
    person: str
    at: datetime
    request: str
    undoes: int | None = None
    redoes: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The combined answer of all people about one label of one photo.

    Attributes:
        votes: person -> their last answer that was not undone.
    """

    votes: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def value(self) -> int:
        """1 or 0 if all people who know agree; -1 if nobody knows or they disagree."""
        said = self._said
        return next(iter(said)) if len(said) == 1 else UNKNOWN

    @property
    def is_conflict(self) -> bool:
        """True if some people say yes and some say no."""
        return len(self._said) > 1

    @property
    def is_answered(self) -> bool:
        """True if anybody has answered, even with `cannot tell`."""
        return bool(self.votes)

    @property
    def _said(self) -> set[int]:
        return {one.value for one in self.votes.values() if one.value in (YES, NO)}


class Board:
    """The last answer of each person about each label of each photo.

    Events may be added repeatedly and in any order.

    Attributes:
        tags: the tags; answers about a merged one count for the tag that it is part of.
    """

    def __init__(self) -> None:
        self.tags = Tags()
        self._last: dict[int, dict[str, dict[str, Answer]]] = {}
        self.last_id = 0

    def tell(self, answers: Iterable[Answer]) -> set[int]:
        """Add events; return the photos for which something changed."""
        changed = set()
        for answer in answers:
            self.last_id = max(self.last_id, answer.id)
            people = self._last.setdefault(answer.photo, {}).setdefault(answer.label, {})
            before = people.get(answer.person)
            if before is None or before.id < answer.id:
                people[answer.person] = answer
                changed.add(answer.photo)
        return changed

    def verdicts(self, photo: int) -> dict[str, Verdict]:
        """Return the verdict of each answered label, by the key of its tag."""
        last: dict[str, dict[str, Answer]] = {}
        for label, people in self._last.get(photo, {}).items():
            ours = last.setdefault(self.tags.resolve(label), {})
            for who, one in people.items():
                if who not in ours or ours[who].id < one.id:
                    ours[who] = one
        found = {}
        for key, people in last.items():
            votes = {who: one for who, one in sorted(people.items()) if one.value is not None}
            if votes:
                found[key] = Verdict(votes)
        return found

    def labels(self) -> Iterator[str]:
        """Yield the keys of all tags that were ever answered about, each once."""
        labels = (label for answered in self._last.values() for label in answered)
        yield from dict.fromkeys(map(self.tags.resolve, labels))

    def photos(self) -> Iterator[int]:
        """Yield the photos with a current answer."""
        return (photo for photo in self._last if self.verdicts(photo))
