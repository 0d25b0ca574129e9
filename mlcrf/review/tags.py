"""The log of what people did with tags, and the tags that follow from it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlcrf.errors import LabelsError
from mlcrf.labels import LabelSpace, composed, fold


@dataclass(frozen=True)
class TagEvent:
    """One event of the log; events never change.

    Attributes:
        id: increasing.
        key: the label under which answers about the tag are stored.
        name: its name from now on; None for a tag that is merged or retired.
        into: key of the tag that it is part of from now on, or None.
        person: name of the person.
        at: time in UTC.
        request: identifier of the act.
    """

    id: int
    key: str
    name: str | None
    into: str | None
    person: str
    at: datetime
    request: str


def titles_of(names: Mapping[str, str]) -> dict[str, str]:
    """Return tags' names as people see them: spaces for underscores, where none look the same."""
    readable = {key: name.replace("_", " ").strip() or name for key, name in names.items()}
    counts = Counter(map(fold, readable.values()))
    return {
        key: names[key] if counts[fold(title)] > 1 else title for key, title in readable.items()
    }


class Tags:
    """The tags by key; a tag without events is named like its key."""

    def __init__(self) -> None:
        self._last: dict[str, TagEvent] = {}
        self.last_id = 0

    def tell(self, events: Iterable[TagEvent]) -> bool:
        """Add events in any order; return whether something changed."""
        has_changed = False
        for event in events:
            self.last_id = max(self.last_id, event.id)
            before = self._last.get(event.key)
            if before is None or before.id < event.id:
                self._last[event.key] = event
                has_changed = True
        return has_changed

    def has(self, request: str) -> bool:
        """Return whether an act is the last that was done with a tag."""
        return any(event.request == request for event in self._last.values())

    def resolve(self, key: str) -> str:
        """Return the key of the tag that a key counts for: its own, or what it was merged into."""
        seen = {key}
        while (event := self._last.get(key)) is not None and event.into is not None:
            if event.into in seen:  # two people merged two tags into each other
                return min(seen)
            key = event.into
            seen.add(key)
        return key

    def name(self, key: str) -> str | None:
        """Return the name of a tag; None if it is retired or merged."""
        event = self._last.get(key)
        if self.resolve(key) != key:
            return None
        return key if event is None or event.into is not None else event.name

    def named(self, keys: Iterable[str]) -> dict[str, str]:
        """Return key -> name of these and all added tags that are neither retired nor merged."""
        every = dict.fromkeys([*keys, *self._last])
        names = {key: self.name(key) for key in every}
        return {key: name for key, name in names.items() if name is not None}

    def check_name(self, name: str, names: dict[str, str], key: str | None = None) -> str:
        """Return a name as it is stored.

        Args:
            names: key -> name of the present tags.
            key: the tag that is to have the name; None for a new one.

        Raises:
            LabelsError: it is not a label's name, or another tag has it.
        """
        (text,) = LabelSpace((composed(name),)).names
        for other, taken in names.items():
            if fold(taken) == fold(text) and other != key:
                raise LabelsError(f"there is a tag {taken!r} already")
        return text

    def free_key(self, name: str, keys: Iterable[str]) -> str:
        """Return the key of a new tag: of a retired one of this name, or one that nobody used."""
        for key, event in self._last.items():
            if event.name is None and event.into is None and key == name:
                return key
        used, number, key = {*keys, *self._last}, 1, name
        while key in used:
            number += 1
            key = f"{name} ({number})"
        return key
