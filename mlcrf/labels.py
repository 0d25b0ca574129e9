"""Ordered label names, which name the columns of scores and targets."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlcrf import atomic
from mlcrf.errors import LabelsError
from mlcrf.hints import did_you_mean

UNKNOWN = -1  # in targets and known labels, beside 1 (present) and 0 (absent)
_LONGEST = 1000  # characters; tables cannot store names of 100,000


@dataclass(frozen=True)
class LabelSpace:
    """Ordered, distinct, non-empty label names; column i of every (N, L) array is `names[i]`.

    Accents are composed (NFC), so that a name is one text however it was typed.

    Raises:
        LabelsError: no names, or a name that is empty, duplicate, too long, not text, or has a line
            break or a semicolon (the separator in our outputs).
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise LabelsError("no labels: expected at least one label name")
        seen: set[str] = set()
        for name in self.names:
            if not name.strip() or name != name.strip():
                raise LabelsError(f"label {name!r} is empty or has space around it")
            if len(name) > _LONGEST:
                raise LabelsError(
                    f"label {name[:40]!r}... has {len(name)} characters; the limit is {_LONGEST}"
                )
            if ";" in name or len(name.splitlines()) > 1:
                raise LabelsError(f"label {name!r} has a line break or semicolon in it; rename it")
            if "\0" in name or "\ufeff" in name or not _is_unicode(name):
                raise LabelsError(
                    f"label {name!r} contains a character that is not text; rename it"
                )
            if composed(name) in seen:
                raise LabelsError(f"label {name!r} occurs twice")
            seen.add(composed(name))
        object.__setattr__(self, "names", tuple(map(composed, self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def digest(self) -> str:
        """The SHA-256 of the names in their order."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def index(self, name: str, where: str = "") -> int:
        """Return the column of a label.

        Args:
            where: what names the label, for the error.

        Raises:
            LabelsError: unknown label; suggests the closest.
        """
        try:
            return self.names.index(name)
        except ValueError:
            hint = did_you_mean(name, self.names)
            place = f"{where}: " if where else ""
            raise LabelsError(f"{place}unknown label {name!r}{hint}") from None

    def columns_in(self, others: Iterable[str]) -> list[int]:
        """Return the position of each of our labels among `others`, in our order.

        Raises:
            LabelsError: the labels differ.
        """
        names = list(others)
        position = {name: column for column, name in enumerate(names)}
        if len(position) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise LabelsError(f"label {double!r} occurs twice")
        missing = [name for name in self.names if name not in position]
        ours = set(self.names)
        extra = [name for name in position if name not in ours]
        if missing or extra:
            parts = []
            if missing:
                parts.append(f"missing {_some(missing)}")
            if extra:
                parts.append(f"not expected {_some(extra)}")
            raise LabelsError(f"labels do not match the {len(self)} expected: {'; '.join(parts)}")
        return [position[name] for name in self.names]


def fold(name: str) -> str:
    """Return a name in a form where case and composition of accents do not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def composed(name: str) -> str:
    """Return a name without space around it, accents composed: one text for one spelling."""
    return name.strip() if name.isascii() else unicodedata.normalize("NFC", name.strip())


def load_labels(path: Path) -> LabelSpace:
    """Load label names from a text file, one per line; blank lines are skipped.

    Raises:
        LabelsError: no such file, not UTF-8, or invalid names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LabelsError(f"{path}: cannot read label names: {reason}") from error
    try:
        return LabelSpace(tuple(composed(line) for line in lines if line.strip()))
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error


def save_labels(path: Path, labels: LabelSpace) -> None:
    """Save label names, one per line."""
    atomic.write_text(path, "".join(f"{name}\n" for name in labels))


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, from JSON or a file name
        return False
    return True


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
