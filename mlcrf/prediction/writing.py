"""Write predictions to a file, and the errors of images to a second one."""

from collections import deque
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from mlcrf.errors import DataError, MlcrfError
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.output import OutputFormat, Rows
from mlcrf.prediction.formats.table import CsvFile, Table
from mlcrf.prediction.photo_files.photo_file_set import PhotoFileSet, Written
from mlcrf.prediction.record import Prediction
from mlcrf.stores import Stored, replacing, write_text

_MOST_PENDING = 256  # photos whose files are being written


class PredictionWriter:
    """A writer of predictions; the file gets its name once all are written.

    Images that failed are written to `NAME.errors.csv` (image, error), if there are any.

    Args:
        path: the file, which may be in an object store; None writes no file.
        output: the format of the file; a table with one row per image if None.
        photo_files: sidecars and tag files to write. If one cannot be written, its image has an
            error, but still its row in the table.

    Raises:
        DataError: the format does not have this suffix, or a file exists already.
        MlcrfError: the disk is full, or the folder is not writable.
    """

    def __init__(
        self,
        path: Path | Stored | None,
        labels: LabelSpace,
        *,
        overwrite: bool = False,
        output: OutputFormat | None = None,
        photo_files: PhotoFileSet | None = None,
    ) -> None:
        self.path, self.photo_files = path, photo_files or PhotoFileSet()
        self.errors_path: Path | Stored | None = None
        self._output, self._labels = output or Table(), labels
        self._excel_safe = isinstance(self._output, Table) and self._output.excel_safe
        self._companions: dict[Path | Stored, str] = {}
        self._rows: Rows | None = None
        self._errors: list[tuple[str, str]] = []
        self._pending: deque[tuple[Prediction, Future[Written] | None]] = deque()
        self.written = 0
        if path is None:
            return
        self._suffix = path.suffix.lower()
        if self._suffix not in self._output.suffixes:
            suffixes = ", ".join(self._output.suffixes)
            raise DataError(f"{path}: unknown ending; name the file with one of {suffixes}")
        if not self._output.holds_errors:
            self.errors_path = path.with_name(f"{path.stem}.errors.csv")
        self._companions = {
            path.with_name(f"{path.stem}.{ending}"): text
            for ending, text in self._output.companions(labels).items()
        }
        for existing in (path, self.errors_path, *self._companions):
            if existing is not None and existing.exists() and not overwrite:
                raise DataError(f"{existing}: exists already; choose another --out or --overwrite")

    @property
    def failed(self) -> int:
        """The number of images with an error."""
        return len(self._errors)

    def first_errors(self, limit: int = 10) -> list[str]:
        """Return the first errors, each with its image, and the number of further ones.

        Return all errors if no file holds them.
        """
        if self.path is None:
            return [error for _, error in self._errors]
        shown = [error for _, error in self._errors[:limit]]
        more = self.failed - len(shown)
        return (
            [*shown, f"... and {more} more, in {self.errors_path or self.path}"] if more else shown
        )

    def require_one(self, *more: str) -> None:
        """Raise a DataError with the first errors, and more lines, if no image could be tagged."""
        self._complete()
        if self._errors and not self.written:
            raise DataError("\n".join(["no image could be tagged", *self.first_errors(), *more]))

    def __enter__(self) -> "PredictionWriter":
        with ExitStack() as stack:
            if self.path is not None:
                temporary = stack.enter_context(replacing(self.path))
                self._rows = self._output.open(temporary, self._suffix, self._labels)
                stack.callback(self._rows.close)
            stack.push(self._end_files)
            self._stack = stack.pop_all()
        return self

    def write(self, prediction: Prediction) -> None:
        """Write an image's row and files, or its error; or both, if only the files failed.

        The row, or the error, follows once the files are on the disk.
        """
        is_tagged = bool(prediction.marginals) or not prediction.error
        files = self.photo_files.begin(prediction) if is_tagged else None
        self._pending.append((prediction, files))
        self._complete(_MOST_PENDING)

    def _complete(self, most: int = 0) -> None:
        """Complete images whose files are written; wait until at most so many are left."""
        while self._pending:
            prediction, files = self._pending[0]
            if files is not None and not files.done() and len(self._pending) <= most:
                return
            self._pending.popleft()
            self._complete_one(prediction, files)

    def _complete_one(self, prediction: Prediction, files: Future[Written] | None) -> None:
        error, is_tagged = prediction.error, files is not None
        if files is not None:
            try:
                self.photo_files.count(files.result())
            except MlcrfError as fault:
                error = str(fault)
        if error:
            self._errors.append((str(prediction.image), error))
        if self._rows is not None and (is_tagged or self._output.holds_errors):
            self._rows.write(replace(prediction, error=error))
        self.written += is_tagged and (self._rows is not None or not error)

    def _end_files(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._complete()
        finally:
            self.photo_files.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is not None:
            return
        self.photo_files.close()
        for path, text in self._companions.items():
            write_text(path, text)
        if self.errors_path is None:
            return
        if not self._errors:
            self.errors_path.unlink(missing_ok=True)
            return
        with (
            replacing(self.errors_path) as temporary,
            closing(CsvFile(temporary, excel_safe=self._excel_safe)) as table,
        ):
            for row in (("image", "error"), *self._errors):
                table.write(row)
