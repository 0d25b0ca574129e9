"""Predictions as files: one row a picture, and beside it one of the pictures that failed."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import parquet

from mlcrf.atomic import replacing
from mlcrf.errors import DataError, MlcrfError
from mlcrf.labels import LabelSpace
from mlcrf.prediction.beside import Beside
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


class PredictionWriter:
    """Writes predictions as they come; the table gets its name when all are written.

    Columns: `image`; `labels`, joined by `;` in CSV and a list elsewhere; for every label
    `p:LABEL`, its marginal under the CRF, and `independent:LABEL`, that of the baseline. Pictures
    that failed go to `NAME.errors.csv` (image, error), which is there only if there are any.

    Args:
        path: of the table; None for none.
        beside: what else is written, file by file. A file that cannot be written is an error of
            its picture, which has its row in the table all the same.

    Raises:
        DataError: the ending is none of `OutputFormat`'s, or the file exists already.
        MlcrfError: the disk is full, or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        labels: LabelSpace,
        *,
        overwrite: bool = False,
        beside: Beside | None = None,
    ) -> None:
        self.path, self.beside = path, beside or Beside()
        self.errors_path: Path | None = None
        self._labels = labels
        self._rows: _Rows | None = None
        self._errors: list[tuple[str, str]] = []
        self.written = 0
        if path is None:
            return
        try:
            self._format = OutputFormat(path.suffix.lower())
        except ValueError:
            endings = ", ".join(OutputFormat)
            raise DataError(
                f"{path}: unknown ending; name the file with one of {endings}"
            ) from None
        self.errors_path = path.with_name(f"{path.stem}.errors.csv")
        for existing in (path, self.errors_path):
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
            rows: type[_CsvRows] | type[_JsonRows] | type[_ParquetRows]
            match self._format:
                case OutputFormat.CSV:
                    rows = _CsvRows
                case OutputFormat.JSONL:
                    rows = _JsonRows
                case OutputFormat.PARQUET:
                    rows = _ParquetRows
            self._rows = rows(temporary, self._labels)
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
        if self.errors_path is None:
            return
        if not self._errors:
            self.errors_path.unlink(missing_ok=True)
            return
        with (
            replacing(self.errors_path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["image", "error"])
            table.writerows(self._errors)


class _CsvRows:
    def __init__(self, path: Path, labels: LabelSpace) -> None:
        # names of files that are no UTF-8 keep their bytes
        self._stream = path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._table = csv.writer(self._stream, lineterminator="\n")
        self._table.writerow(["image", "labels", *_score_columns(labels)])

    def write(self, prediction: Prediction) -> None:
        scores = (f"{value:.6g}" for value in _scores(prediction))
        self._table.writerow([str(prediction.image), ";".join(prediction.labels), *scores])

    def close(self) -> None:
        self._stream.close()


class _JsonRows:
    def __init__(self, path: Path, labels: LabelSpace) -> None:
        self._stream = path.open("w", encoding="utf-8", newline="\n")
        self._columns = _score_columns(labels)

    def write(self, prediction: Prediction) -> None:
        row: dict[str, Any] = {"image": str(prediction.image), "labels": list(prediction.labels)}
        values = (float(f"{value:.6g}") for value in _scores(prediction))
        row |= dict(zip(self._columns, values, strict=True))
        self._stream.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self._stream.close()


class _ParquetRows:
    def __init__(self, path: Path, labels: LabelSpace) -> None:
        self._columns = _score_columns(labels)
        fields = [("image", pa.string()), ("labels", pa.list_(pa.string()))]
        self._schema = pa.schema([*fields, *((name, pa.float32()) for name in self._columns)])
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, prediction: Prediction) -> None:
        name = os.fsencode(prediction.image).decode("utf-8", "backslashreplace")
        row: dict[str, Any] = {"image": name, "labels": list(prediction.labels)}
        self._rows.append(row | dict(zip(self._columns, _scores(prediction), strict=True)))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _score_columns(labels: LabelSpace) -> list[str]:
    return [f"{kind}:{name}" for name in labels for kind in ("p", "independent")]


def _scores(prediction: Prediction) -> Iterator[float]:
    for p, independent in zip(prediction.marginals, prediction.independent, strict=True):
        yield p
        yield independent
