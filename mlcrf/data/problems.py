"""Collect the errors of a data set, to report all of them at once."""

from dataclasses import dataclass, field
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.hints import are, counted
from mlcrf.images import Image
from mlcrf.stores import Stored


@dataclass
class Problems:
    """Errors found while reading.

    Attributes:
        limit: number of errors shown; the others are counted.
        found: errors in the order found.
    """

    limit: int = 20
    found: list[DataError] = field(default_factory=list)

    def add(self, file: Path | Stored | Image, reason: str, *, line: int | None = None) -> None:
        """Add an error. Lines count from 1; the header is line 1."""
        self.found.append(DataError(reason, file, line))

    @property
    def shown(self) -> list[str]:
        """The first errors, up to the limit, by line within each file."""
        rank = {path: at for at, path in enumerate(dict.fromkeys(one.path for one in self.found))}
        ranked = sorted(self.found, key=lambda one: (rank[one.path], one.line or 0))
        return [str(one) for one in ranked[: self.limit]]

    def note(self, subject: str) -> str:
        """Return a note that what had these errors, such as `image`, is left out; names a few."""
        some = "; ".join(" ".join(one.split()) for one in self.shown[:3])
        count = len(self.found)
        more = "; ..." if count > 3 else ""
        return f"{counted(count, subject)} that cannot be read {are(count)} left out: {some}{more}"

    def raise_if_any(self) -> None:
        """Raise one error if there were any.

        Raises:
            DataError: one line per error up to the limit, and the number of others.
        """
        if self.found:
            shown = self.shown
            more = len(self.found) - len(shown)
            tail = [f"... and {more} more problem{'s' if more > 1 else ''}"] if more else []
            raise DataError("\n".join([*shown, *tail]))
