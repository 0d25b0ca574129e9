"""The ordered label names that every column of a score or target refers to."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mlcrf import atomic
from mlcrf.errors import LabelsError

UNKNOWN = -1  # what is known of a label: 1 present, 0 absent, this
_LONGEST = 1000  # signs; tables could not hold names of 100,000


@dataclass(frozen=True)
class LabelSpace:
    """Ordered, distinct, non-empty label names; column i of every (N, L) array is `names[i]`.

    Raises:
        LabelsError: no name, an empty name, a double name, or one with a line break or a
            semicolon (which separates labels in our outputs), or that a text file cannot hold, or
            a very long one.
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
                    f"label {name[:40]!r}... has {len(name)} signs, at most {_LONGEST} are allowed"
                )
            if ";" in name or len(name.splitlines()) > 1:
                raise LabelsError(f"label {name!r} has a line break or semicolon in it; rename it")
            if "\0" in name or "\ufeff" in name or not _is_unicode(name):
                raise LabelsError(f"label {name!r} holds a sign that is no text; rename it")
            if name in seen:
                raise LabelsError(f"label {name!r} stands twice")
            seen.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def index(self, name: str) -> int:
        """Column of a label.

        Raises:
            LabelsError: there is no such label; suggests the closest.
        """
        try:
            return self.names.index(name)
        except ValueError:
            close = get_close_matches(name, self.names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise LabelsError(f"unknown label {name!r}{hint}") from None

    def columns_in(self, others: Iterable[str]) -> list[int]:
        """Return the position of each of our labels among `others`, in our order.

        Raises:
            LabelsError: labels differ; names the missing ones and the ones too many.
        """
        names = list(others)
        position = {name: column for column, name in enumerate(names)}
        if len(position) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise LabelsError(f"label {double!r} stands twice")
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
    """Fold a name so that case and the way accents are composed do not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def load_labels(path: Path) -> LabelSpace:
    """Load label names from a text file, one a line; blank lines are skipped.

    Raises:
        LabelsError: no such file, not UTF-8, or names that are no label space.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LabelsError(f"{path}: cannot read label names: {reason}") from error
    try:
        return LabelSpace(tuple(line.strip() for line in lines if line.strip()))
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error


def save_labels(path: Path, labels: LabelSpace) -> None:
    """Save label names, one a line."""
    atomic.write_text(path, "".join(f"{name}\n" for name in labels))


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON and names of files may hold
        return False
    return True


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
