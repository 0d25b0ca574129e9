"""Files that stand beside photos: one kind a file, written, taken back, counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mlcrf.errors import MlcrfError, printable
from mlcrf.images import Image
from mlcrf.prediction.record import Prediction


class Action(StrEnum):
    """What becomes of a file."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    NONE = "none"  # there is none and none is needed


@dataclass(frozen=True)
class Change:
    """What becomes of the file of one photo, and which tags it gains and loses."""

    path: Path
    action: Action
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        tags = [*(f"+{name}" for name in self.added), *(f"-{name}" for name in self.removed)]
        return f"{printable(self.path)}: {self.action}{'; ' if tags else ''}{', '.join(tags)}"


class PhotoFileWriter(Protocol):
    """One kind of files. Both methods raise an MlcrfError where a file cannot be made."""

    kind: str

    def write(self, prediction: Prediction) -> Change:
        """Write the file of one photo."""

    def undo(self, photo: Image) -> list[Change]:
        """Take out of the files of one photo what we have put into them."""

    def close(self) -> None:
        """Do what is left to do after the last photo."""


class PhotoFileSet:
    """All files beside photos that were asked for.

    Args:
        kinds: the kinds of files.
        report: is told each change of a file.

    Attributes:
        counts: by kind, how many files had which fate.
    """

    def __init__(
        self, kinds: Sequence[PhotoFileWriter] = (), report: Callable[[Change], None] | None = None
    ) -> None:
        self._kinds, self._report = kinds, report
        self.counts: dict[str, Counter[Action]] = {one.kind: Counter() for one in kinds}

    def write(self, prediction: Prediction) -> None:
        """Write the files of one photo; a fault in one does not hinder the others.

        Raises:
            MlcrfError: some could not be written; says which and why, in one line.
        """
        self._each(lambda kind: [kind.write(prediction)])

    def undo(self, photo: Image) -> None:
        """Take what is ours out of the files of one photo.

        Raises:
            MlcrfError: as for `write`.
        """
        self._each(lambda kind: kind.undo(photo))

    def close(self) -> None:
        """Do what is left to do after the last photo."""
        for kind in self._kinds:
            kind.close()

    def _each(self, act: Callable[[PhotoFileWriter], list[Change]]) -> None:
        faults = []
        for kind in self._kinds:
            try:
                changes = act(kind)
            except MlcrfError as error:
                faults.append(str(error))
                continue
            for change in changes:
                self.counts[kind.kind][change.action] += 1
                if self._report is not None and change.action is not Action.NONE:
                    self._report(change)
        if faults:
            raise MlcrfError("; ".join(faults))
