"""Files beside photos: the interface of a writer, and a set of writers that counts its actions."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mlcrf.errors import MlcrfError, printable
from mlcrf.images import Image
from mlcrf.prediction.record import Prediction

_THREADS = 8


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
    """A writer of one kind of files; raises an MlcrfError if a file cannot be written.

    Attributes:
        is_parallel: True if several threads may write files of different photos.
    """

    kind: str
    is_parallel: bool

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


@dataclass(frozen=True)
class Written:
    """The changes of one photo's files, with their kinds, and the errors of those that failed."""

    changes: tuple[tuple[str, Change], ...] = ()
    faults: tuple[str, ...] = ()


class PhotoFileSet:
    """All requested files beside photos.

    Files are written by several threads, since each file waits for the disk, and a disk completes
    several files at once. Photos that may share a file, whose names are equal up to the first dot,
    are written by one thread, in order.

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
        self._threads: list[ThreadPoolExecutor] = []
        self.counts: dict[str, Counter[Action]] = {one.kind: Counter() for one in kinds}
        self._undone: set[tuple[str, str]] = set()  # kinds and paths
        self._told: set[str] = set()  # faults of undo

    def write(self, prediction: Prediction) -> None:
        """Write the files of one photo; if one fails, the others are still written.

        Raises:
            MlcrfError: see `count`.
        """
        self.count(self.begin(prediction).result())

    def begin(self, prediction: Prediction) -> Future[Written]:
        """Begin to write the files of one photo, for `count`."""
        if not self._kinds:
            done: Future[Written] = Future()
            done.set_result(Written())
            return done
        if not self._threads:
            number = _THREADS if all(kind.is_parallel for kind in self._kinds) else 1
            self._threads = [ThreadPoolExecutor(1) for _ in range(number)]
        photo = prediction.image
        place = hash((photo.folder, photo.file_name.partition(".")[0].lower()))
        thread = self._threads[place % len(self._threads)]
        return thread.submit(self._each, lambda kind: [kind.write(prediction)])

    def undo(self, photo: Image) -> None:
        """Remove what mlcrf wrote from the files of one photo; raises as `write` does."""
        written = self._each(lambda kind: kind.undo(photo))
        self._undone.update((kind, str(change.path)) for kind, change in written.changes)
        self._told.update(written.faults)
        self.count(written)

    def count(self, written: Written) -> None:
        """Count and report the changes of one photo's files.

        Raises:
            MlcrfError: some files could not be written; names them and the reasons in one line.
        """
        for kind, change in written.changes:
            self.counts[kind][change.action] += 1
            if self._report is not None and change.action is not Action.NONE:
                self._report(change)
        if written.faults:
            raise MlcrfError("; ".join(written.faults))

    def undo_below(self, folder: Path) -> Iterator[MlcrfError]:
        """Remove what mlcrf wrote in a folder and below it, but for what `undo` has done or told.

        Yields:
            An error per damaged file.
        """
        for kind in self._kinds:
            for path in kind.leftovers(folder):
                if (kind.kind, str(path)) in self._undone:
                    continue
                try:
                    self.count(Written(((kind.kind, kind.undo_file(path)),)))
                except MlcrfError as error:
                    if str(error) not in self._told:
                        yield error

    def stop(self) -> None:
        """Complete the files that are being written, and begin no others."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            thread.shutdown(wait=True)
        self._threads = []

    def close(self) -> None:
        """Finish after the last photo."""
        for kind in self._kinds:
            kind.close()

    def _each(self, act: Callable[[PhotoFileWriter], list[Change]]) -> Written:
        changes: list[tuple[str, Change]] = []
        faults = []
        for kind in self._kinds:
            try:
                changes += [(kind.kind, change) for change in act(kind)]
            except MlcrfError as error:
                faults.append(str(error))
            except OSError as error:  # such as a name that is too long with its suffix
                faults.append(_describe_fault(error))
        return Written(tuple(changes), tuple(faults))


def _describe_fault(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        reason = "its name is too long; rename the image"
    return reason if error.filename is None else f"{printable(error.filename)}: {reason}"
