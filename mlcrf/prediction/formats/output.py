"""The interface of an output format."""

from pathlib import Path
from typing import Protocol

from mlcrf.labels import LabelSpace
from mlcrf.prediction.record import Prediction


class Rows(Protocol):
    """An open file that predictions are written to."""

    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


class OutputFormat(Protocol):
    """A format of tables, or of files for another program."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The allowed suffixes of the file."""
        ...

    @property
    def holds_errors(self) -> bool:
        """Return whether the file also holds errors, so that no file of errors is needed."""
        ...

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> Rows:
        """Open a file for writing."""
        ...

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """Return the texts of accompanying files, by suffix."""
        ...
