"""The interface of an output format."""

from pathlib import Path
from typing import Protocol

from mlcrf.labels import LabelSpace
from mlcrf.prediction.record import Prediction


class Rows(Protocol):
    """A file that takes predictions one by one."""

    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


class OutputFormat(Protocol):
    """A table, or a file that another program imports."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes that the file's name may have."""
        ...

    @property
    def holds_errors(self) -> bool:
        """Whether images that failed have rows too, so that no file of errors is needed."""
        ...

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> Rows:
        """Begin a file."""
        ...

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """Return the texts of other files that belong to it, by suffix."""
        ...
