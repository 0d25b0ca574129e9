"""Collect what is wrong with a data set, so that a user hears of everything at once."""

from dataclasses import dataclass, field
from pathlib import Path

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.stores import Stored


@dataclass
class Problems:
    """Faults found while reading, each with the file and, where there is one, the line.

    Attributes:
        limit: how many are shown; the others are counted.
        found: file, line (0 for the file as a whole) and message, in the order of finding.
    """

    limit: int = 20
    found: list[tuple[Path | Stored | Image, int, str]] = field(default_factory=list)

    def add(self, file: Path | Stored | Image, message: str, *, line: int | None = None) -> None:
        """Note one fault. Lines count from 1 and the header is line 1."""
        self.found.append((file, line or 0, message))

    @property
    def count(self) -> int:
        """How many faults there are, shown or not."""
        return len(self.found)

    @property
    def shown(self) -> list[str]:
        """The first faults up to the limit, as `file:line: message`, by line within each file."""
        files = list(dict.fromkeys(file for file, _, _ in self.found))
        place = {file: position for position, file in enumerate(files)}
        ranked = sorted(self.found, key=lambda one: (place[one[0]], one[1]))
        return [
            f"{file}:{line}: {message}" if line else f"{file}: {message}"
            for file, line, message in ranked[: self.limit]
        ]

    def raise_if_any(self) -> None:
        """End the reading if anything was wrong.

        Raises:
            DataError: a line for each fault, up to the limit, and how many more there are.
        """
        if self.found:
            shown = self.shown
            more = self.count - len(shown)
            tail = [f"... and {more} more problem{'s' if more > 1 else ''}"] if more else []
            raise DataError("\n".join([*shown, *tail]))
