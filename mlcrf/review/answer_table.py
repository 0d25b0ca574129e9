"""A table of the answers about all photos and tags, which follows the database."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it

from mlcrf.crf import UNKNOWN
from mlcrf.errors import DataError
from mlcrf.review.answers import Answer, Board, Verdict
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import Photo
from mlcrf.rules import Rules


class AnswerTable:
    """The answers of all people about each tag of each photo.

    Tags have numbers: the model's labels first, then those that people added or answered about, as
    they came. A tag keeps its number when it is renamed, merged or retired.

    Attributes:
        number_of: a photo's number in the database -> its position.
        keys: the label under which a tag's answers are stored, by the tag's number.
        board: the answers of each person, and the tags' names.
        known: 1 or 0; -1 if unknown or contradictory (N, L).
        answered: whether anybody has answered (N, L).
        in_conflict: whether people disagree, or their answers break a rule of the model (N, L).
        shown: which tags are neither merged nor retired (L,).
        contradicts: labels whose answers break a rule of the model, by photo.
    """

    def __init__(
        self, photos: Sequence[Photo], labels: Sequence[str], database: ReviewDatabase
    ) -> None:
        self._photos, self._database = photos, database
        self.number_of = {photo.id: number for number, photo in enumerate(photos)}
        self.keys, self.board = list(labels), Board()
        shape = len(photos), len(labels)
        self.known = torch.full(shape, UNKNOWN, dtype=torch.int64)
        self.answered = torch.zeros(shape, dtype=torch.bool)
        self.in_conflict = torch.zeros(shape, dtype=torch.bool)
        self.shown = torch.ones(len(labels), dtype=torch.bool)
        self.contradicts: dict[int, frozenset[int]] = {}

    def read(self, rules: Rules) -> tuple[list[int], bool]:
        """Read what was written since the last call.

        Args:
            rules: of the model.

        Returns:
            The photos whose answers or tags may have changed, and whether the tags have changed.

        Raises:
            DatabaseError: the database cannot be read.
        """
        tags = self.board.tags
        changed = self.board.tell(self._database.since(self.board.last_id))
        have_tags_changed = tags.tell(self._database.tags_since(tags.last_id))
        if have_tags_changed:
            self._extend(tags.named(()))
            self._show()
            changed |= set(self.board.photos())
        return self._update(changed, rules), have_tags_changed

    def take(self, written: Iterable[Answer], rules: Rules) -> list[int]:
        """Take answers that were just written into account; return the photos that have changed."""
        return self._update(self.board.tell(written), rules)

    def numbers(self, photos: Iterable[int]) -> list[int]:
        """Return the positions of photos from their numbers in the database, if they are here."""
        return [self.number_of[photo] for photo in photos if photo in self.number_of]

    def begun(self) -> list[int]:
        """Return the photos with a current answer."""
        return self.numbers(self.board.photos())

    def verdicts(self, number: int) -> dict[str, Verdict]:
        """Return the verdict of each answered tag of a photo, by its key."""
        return self.board.verdicts(self._photos[number].id)

    def has_tag(self, key: str) -> bool:
        """Return whether there is a tag, neither merged nor retired, as far as was read."""
        return key in self.keys and self.board.tags.name(key) is not None

    def names(self, count: int) -> tuple[list[str], list[str]]:
        """Return the names of the first tags, and those made up for retired and merged ones."""
        named = self.board.tags.named(self.keys)
        names, gone = [], []
        for key in self.keys[:count]:
            name = named.get(key)
            if name is None:
                name = f"{key} (retired)"
                while name in named.values() or name in gone:
                    name += "'"
                gone.append(name)
            names.append(name)
        return names, gone

    def check_change(
        self, key: str | None, name: str | None, into: str | None
    ) -> tuple[str, str | None]:
        """Return the key of a tag that is to be changed, and its name as it is stored.

        Args:
            key, name, into: see `Review.change_tag`.

        Raises:
            LabelsError: the name is not one, or another tag has it.
            DataError: no such tag.
        """
        tags = self.board.tags
        names = tags.named(self.keys)
        for wanted in (key, into):
            if wanted is not None and wanted not in names:
                raise DataError(f"there is no tag {wanted!r} any more")
        if key is not None and key != into:
            return key, None if name is None else tags.check_name(name, names, key)
        if key is None and name is not None:
            text = tags.check_name(name, names)
            return tags.free_key(text, self.keys), text
        raise DataError("a tag needs a name, and is merged into another one")

    def _show(self) -> None:
        names = [self.board.tags.name(key) for key in self.keys]
        self.shown = torch.tensor([name is not None for name in names])

    def _extend(self, keys: Iterable[str]) -> None:
        """Give numbers to tags that have none."""
        new = [key for key in dict.fromkeys(keys) if key not in self.keys]
        if not new:
            return
        self.keys += new
        pad = (0, len(new))
        self.known = F.pad(self.known, pad, value=UNKNOWN)
        self.answered = F.pad(self.answered, pad, value=False)
        self.in_conflict = F.pad(self.in_conflict, pad, value=False)
        self._show()

    def _update(self, photos: Iterable[int], rules: Rules) -> list[int]:
        changed = sorted(self.numbers(photos))
        for number in changed:
            verdicts = self.verdicts(number)
            self._extend(verdicts)
            found = [verdicts.get(key) for key in self.keys]
            self.answered[number] = torch.tensor([one is not None for one in found])
            conflicts = [one is not None and one.is_conflict for one in found]
            self.in_conflict[number] = torch.tensor(conflicts)
            values = [UNKNOWN if one is None else one.value for one in found]
            self.known[number] = torch.tensor(values)
            self.contradicts[number] = self._settle(number, rules)
            self.in_conflict[number, sorted(self.contradicts[number])] = True
        return changed

    def _settle(self, number: int, rules: Rules) -> frozenset[int]:
        """Ignore answers that together break a rule, and return their labels."""
        row = self.known[number]
        broken = rules.disagreement(row.numpy())
        row[sorted(broken)] = UNKNOWN
        return broken
