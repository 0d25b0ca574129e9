"""Files beside photos: the interface of a writer, and a set of writers that counts its actions."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mlcrf.errors import MlcrfError, printable
from mlcrf.images import Image
from mlcrf.prediction.record import Prediction


class Action(StrEnum):
    """An action on a file."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    NONE = "none"  # no file exists, and none is needed


@dataclass(frozen=True)
class Change:
    """The action on the file of one photo, and the tags that are added and removed."""

    path: Path
    action: Action
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        tags = [*(f"+{name}" for name in self.added), *(f"-{name}" for name in self.removed)]
        return f"{printable(self.path)}: {self.action}{'; ' if tags else ''}{', '.join(tags)}"


class PhotoFileWriter(Protocol):
    """A writer of one kind of files; raises an MlcrfError if a file cannot be written."""

    kind: str

    def write(self, prediction: Prediction) -> Change:
        """Write the file of one photo."""

    def undo(self, photo: Image) -> list[Change]:
        """Remove what mlcrf wrote from the files of one photo."""

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Yield files with something of ours in a folder and below it, of whatever images."""

    def undo_file(self, path: Path) -> Change:
        """Remove what mlcrf wrote from one file."""

    def close(self) -> None:
        """Finish after the last photo."""


class PhotoFileSet:
    """All requested files beside photos.

    Args:
        kinds: one writer per kind of files.
        report: called with each change of a file.

    Attributes:
        counts: number of files per kind and action.
    """

    def __init__(
        self, kinds: Sequence[PhotoFileWriter] = (), report: Callable[[Change], None] | None = None
    ) -> None:
        self._kinds, self._report = kinds, report
        self.counts: dict[str, Counter[Action]] = {one.kind: Counter() for one in kinds}

    def write(self, prediction: Prediction) -> None:
        """Write the files of one photo; if one fails, the others are still written.

        Raises:
            MlcrfError: some files could not be written; names them and the reasons in one line.
        """
        self._each(lambda kind: [kind.write(prediction)])

    def undo(self, photo: Image) -> None:
        """Remove what mlcrf wrote from the files of one photo; raises as `write` does."""
        self._each(lambda kind: kind.undo(photo))

    def undo_below(self, folder: Path) -> Iterator[MlcrfError]:
        """Remove what mlcrf wrote in a folder and below it; yield an error per damaged file."""
        for kind in self._kinds:
            for path in kind.leftovers(folder):
                try:
                    self._count(kind, [kind.undo_file(path)])
                except MlcrfError as error:
                    yield error

    def close(self) -> None:
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
            except OSError as error:  # such as a name that is too long with its suffix
                faults.append(_describe_fault(error))
                continue
            self._count(kind, changes)
        if faults:
            raise MlcrfError("; ".join(faults))

    def _count(self, kind: PhotoFileWriter, changes: Sequence[Change]) -> None:
        for change in changes:
            self.counts[kind.kind][change.action] += 1
            if self._report is not None and change.action is not Action.NONE:
                self._report(change)


def _describe_fault(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        reason = "its name is too long; rename the image"
    return reason if error.filename is None else f"{printable(error.filename)}: {reason}"
