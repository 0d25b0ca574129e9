"""Predictions as tables: CSV, JSON lines and Parquet."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from mlcrf.data.cells import without_formula, write_csv_row
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.layouts import Layout, TidyLayout, WideLayout
from mlcrf.prediction.record import Prediction, Rows

_ROWS_AT_ONCE = 1024


class OutputFormat(StrEnum):
    """Formats by the ending of the file's name."""

    CSV = ".csv"
    JSONL = ".jsonl"
    PARQUET = ".parquet"


@dataclass(frozen=True)
class Table:
    """CSV, JSONL or Parquet; `tidy` has one row a picture and label, else one a picture.

    Attributes:
        tidy: columns are those of `TidyLayout`, else of `WideLayout`: lists of labels are joined by
            `;` in CSV, where present is 1 and absent 0.
        excel_safe: CSV that spreadsheets open rightly, by a mark at its beginning that says it is
            UTF-8, and safely, with an apostrophe before what would be a formula.
    """

    tidy: bool = False
    excel_safe: bool = False
    endings: tuple[str, ...] = tuple(OutputFormat)
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, ending: str, labels: LabelSpace) -> Rows:
        """Begin the file."""
        layout = TidyLayout(labels) if self.tidy else WideLayout(labels)
        match OutputFormat(ending):
            case OutputFormat.CSV:
                return _CsvRows(CsvFile(path, excel_safe=self.excel_safe), layout)
            case OutputFormat.JSONL:
                return _JsonRows(path, layout)
            case OutputFormat.PARQUET:
                return _ParquetRows(path, layout)

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """None."""
        return {}


class CsvFile:
    """CSV that keeps the bytes of names; see `Table.excel_safe`."""

    def __init__(self, path: Path, *, excel_safe: bool) -> None:
        self._excel_safe = excel_safe
        encoding = "utf-8-sig" if excel_safe else "utf-8"
        # names of files that are no UTF-8 keep their bytes
        self._stream = path.open("w", newline="", encoding=encoding, errors="surrogateescape")

    def write(self, row: Iterable[Any]) -> None:
        """Add a row."""
        write_csv_row(self._stream, map(_safe_cell if self._excel_safe else _cell, row))

    def close(self) -> None:
        """End the file."""
        self._stream.close()


class _CsvRows:
    def __init__(self, table: CsvFile, layout: Layout) -> None:
        self._table, self._layout = table, layout
        table.write(layout.columns)

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            self._table.write(row)

    def close(self) -> None:
        self._table.close()


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


class ParquetFile:
    """Parquet that is written row by row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[dict[str, Any]]()
        self._writer = parquet.ParquetWriter(path, schema)

    def write(self, row: dict[str, Any]) -> None:
        """Add a row, by column."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """End the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


class _ParquetRows:
    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._file = ParquetFile(path, pa.schema(list(layout.columns.items())))

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            record = dict(zip(self._layout.columns, row, strict=True))
            name = os.fsencode(str(prediction.image)).decode("utf-8", "backslashreplace")
            self._file.write(record | {"image": name})

    def close(self) -> None:
        self._file.close()


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


def _safe_cell(value: Any) -> Any:
    """Of a list also each item, since some spreadsheets begin a cell at every semicolon."""
    match value:
        case str():
            return without_formula(value)
        case list():
            return _cell([without_formula(one) for one in value])
        case _:
            return _cell(value)
