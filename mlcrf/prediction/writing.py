"""Predictions as files, and beside them one of the pictures that failed."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import parquet

from mlcrf.atomic import replacing, write_text
from mlcrf.datasets.cells import write_csv_row
from mlcrf.errors import DataError, MlcrfError
from mlcrf.labels import LabelSpace
from mlcrf.prediction.beside import Beside
from mlcrf.prediction.layouts import Layout, TidyLayout, WideLayout
from mlcrf.prediction.record import Prediction

_ROWS_AT_ONCE = 1024


class OutputFormat(StrEnum):
    """Formats by the ending of the file's name."""

    CSV = ".csv"
    JSONL = ".jsonl"
    PARQUET = ".parquet"


class _Rows(Protocol):
    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


class OutputForm(Protocol):
    """What is written, and how: a table or what another program imports."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Those that a file's name may have."""
        ...

    def open(self, path: Path, ending: str, labels: LabelSpace) -> _Rows:
        """Begin a file; pictures follow one by one."""
        ...

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """Other files that belong to it, by ending."""
        ...


@dataclass(frozen=True)
class Table:
    """CSV, JSONL or Parquet; `tidy` has one row a picture and label, else one a picture.

    Attributes:
        tidy: columns are those of `TidyLayout`, else of `WideLayout`: lists of labels are joined by
            `;` in CSV, where present is 1 and absent 0.
    """

    tidy: bool = False
    endings: tuple[str, ...] = tuple(OutputFormat)

    def open(self, path: Path, ending: str, labels: LabelSpace) -> _Rows:
        """Begin the file."""
        layout = TidyLayout(labels) if self.tidy else WideLayout(labels)
        match OutputFormat(ending):
            case OutputFormat.CSV:
                return _CsvRows(path, layout)
            case OutputFormat.JSONL:
                return _JsonRows(path, layout)
            case OutputFormat.PARQUET:
                return _ParquetRows(path, layout)

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """None."""
        return {}


class PredictionWriter:
    """Writes predictions as they come; the table gets its name when all are written.

    Pictures that failed go to `NAME.errors.csv` (image, error), which is there only if there are
    any.

    Args:
        path: of the table; None for none.
        form: what is written there; a table with one row a picture if None.
        beside: what else is written, file by file. A file that cannot be written is an error of
            its picture, which has its row in the table all the same.

    Raises:
        DataError: the ending is none of the form's, or a file exists already.
        MlcrfError: the disk is full, or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        labels: LabelSpace,
        *,
        overwrite: bool = False,
        form: OutputForm | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.path, self.beside = path, beside or Beside()
        self.errors_path: Path | None = None
        self._form, self._labels = form or Table(), labels
        self._companions: dict[Path, str] = {}
        self._rows: _Rows | None = None
        self._errors: list[tuple[str, str]] = []
        self.written = 0
        if path is None:
            return
        self._ending = path.suffix.lower()
        if self._ending not in self._form.endings:
            endings = ", ".join(self._form.endings)
            raise DataError(f"{path}: unknown ending; name the file with one of {endings}")
        self.errors_path = path.with_name(f"{path.stem}.errors.csv")
        self._companions = {
            path.with_name(f"{path.stem}.{ending}"): text
            for ending, text in self._form.companions(labels).items()
        }
        for existing in (path, self.errors_path, *self._companions):
            if existing.exists() and not overwrite:
                raise DataError(f"{existing}: exists already; choose another --out or --overwrite")

    @property
    def failed(self) -> int:
        """How many pictures had an error."""
        return len(self._errors)

    def first_errors(self, limit: int = 10) -> list[str]:
        """The first few errors, each naming its picture, and how many more there are.

        All of them, where there is no file for them.
        """
        if self.errors_path is None:
            return [error for _, error in self._errors]
        shown = [error for _, error in self._errors[:limit]]
        more = self.failed - len(shown)
        return [*shown, f"... and {more} more, in {self.errors_path}"] if more else shown

    def require_one(self) -> None:
        """Refuse an empty result.

        Raises:
            DataError: no picture could be read; says why for the first few.
        """
        if self._errors and not self.written:
            raise DataError("\n".join(["no picture could be tagged", *self.first_errors()]))

    def __enter__(self) -> "PredictionWriter":
        self._stack = ExitStack()
        if self.path is None:
            return self
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._rows = self._form.open(temporary, self._ending, self._labels)
            stack.callback(self._rows.close)
            self._stack = stack.pop_all()
        return self

    def write(self, prediction: Prediction) -> None:
        """Add one picture's row and files, or its error."""
        if prediction.error:
            self._errors.append((str(prediction.image), prediction.error))
            return
        if self._rows is not None:
            self._rows.write(prediction)
        try:
            self.beside.write(prediction)
        except MlcrfError as error:
            self._errors.append((str(prediction.image), str(error)))
            if self._rows is None:
                return
        self.written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is not None:
            return
        self.beside.close()
        for path, text in self._companions.items():
            write_text(path, text)
        if self.errors_path is None:
            return
        if not self._errors:
            self.errors_path.unlink(missing_ok=True)
            return
        with (
            replacing(self.errors_path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            for row in (("image", "error"), *self._errors):
                write_csv_row(stream, row)


class _CsvRows:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        # names of files that are no UTF-8 keep their bytes
        self._stream = path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        write_csv_row(self._stream, layout.columns)

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            write_csv_row(self._stream, map(_cell, row))

    def close(self) -> None:
        self._stream.close()


class _JsonRows:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._stream = path.open("w", encoding="utf-8", newline="\n")

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            values = (float(f"{v:.6g}") if isinstance(v, float) else v for v in row)
            record = dict(zip(self._layout.columns, values, strict=True))
            self._stream.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._stream.close()


class _ParquetRows:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._schema = pa.schema(list(layout.columns.items()))
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            record = dict(zip(self._layout.columns, row, strict=True))
            name = os.fsencode(prediction.image).decode("utf-8", "backslashreplace")
            self._rows.append(record | {"image": name})
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _cell(value: Any) -> Any:
    match value:
        case bool():
            return int(value)
        case float():
            return f"{value:.6g}"
        case list():
            return ";".join(value)
        case _:
            return value
