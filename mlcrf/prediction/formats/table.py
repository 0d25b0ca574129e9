"""Tables as CSV, JSON lines or Parquet; one row per image (wide), or per image and label (tidy)."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import parquet

from mlcrf.data.cells import without_formula, write_csv_row
from mlcrf.data.columns import ABSTAINED
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.output import Rows
from mlcrf.prediction.record import Family, Origin, Prediction

METADATA_KEY = b"mlcrf"  # metadata of a Parquet file
SURELY, OPEN_LABELS, SETS = "surely", "open", "sets"  # columns of a family of label sets
FAMILY, FAMILY_STATES = "family", ("present", "open", "absent")  # of a label, in a tidy table
NAMES_KEY = "mlcrf.names"  # names that are not UTF-8: row -> bytes as hexadecimal digits
OPEN = "?"  # in CSV, whether a label is present that is left open
_ROWS_AT_ONCE = 1024


class TableSuffix(StrEnum):
    """The formats of tables, by the suffix of the file's name."""

    CSV = ".csv"
    JSONL = ".jsonl"
    PARQUET = ".parquet"


@dataclass(frozen=True)
class Table:
    """A table as CSV, JSONL or Parquet.

    Attributes:
        tidy: use the columns of `TidyLayout` instead of `WideLayout`. In CSV, labels are joined by
            `;`, present is 1, absent 0 and open `?`.
        excel_safe: begin CSV with a UTF-8 byte-order mark, and put an apostrophe before every text
            that a spreadsheet would interpret as a formula.
        origin: written to the metadata of Parquet files.
        abstains: whether labels may be left open; a wide table then says which.
        families: whether predictions have families of label sets.
    """

    tidy: bool = False
    excel_safe: bool = False
    origin: Origin = Origin()
    suffixes: tuple[str, ...] = tuple(TableSuffix)
    abstains: bool = False
    families: bool = False
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> Rows:
        layout: Layout = WideLayout(labels, abstains=self.abstains, families=self.families)
        if self.tidy:
            layout = TidyLayout(labels, families=self.families)
        match TableSuffix(suffix):
            case TableSuffix.CSV:
                table = CsvFile(path, excel_safe=self.excel_safe)
                table.write(layout.columns)
                return _LayoutRows(layout, table)
            case TableSuffix.JSONL:
                return _LayoutRows(layout, _JsonFile(path, layout.columns))
            case TableSuffix.PARQUET:
                about = about_table(
                    labels, self.origin, abstains=self.abstains, families=self.families
                )
                return _LayoutRows(layout, ParquetFile(path, layout.columns, about))

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        return {}


class Layout(Protocol):
    """The columns of a table with their types, and the rows of an image."""

    columns: dict[str, pa.DataType]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """Yield the rows of one image, with one value per column."""
        ...


class WideLayout:
    """One row per image: `image`, `labels`, and `p:LABEL`, `independent:LABEL` for every label.

    Args:
        abstains: add `abstained` after `labels`, the labels that are left open.
        families: add `surely` and `open`, the labels that all label sets of the family have or some
            of them, and `sets`, their number, at the end.
    """

    def __init__(
        self, labels: LabelSpace, *, abstains: bool = False, families: bool = False
    ) -> None:
        self._families = families
        scores = [f"{kind}:{name}" for name in labels for kind in ("p", "independent")]
        self._abstains = abstains
        self.columns = {"image": pa.string(), "labels": pa.list_(pa.string())}
        if abstains:
            self.columns[ABSTAINED] = pa.list_(pa.string())
        self.columns |= dict.fromkeys(scores, pa.float32())
        if families:
            self.columns |= dict.fromkeys((SURELY, OPEN_LABELS), pa.list_(pa.string()))
            self.columns[SETS] = pa.int64()

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        both = zip(prediction.marginals, prediction.independent, strict=True)
        scores = [score for pair in both for score in pair]
        lists = [list(prediction.labels)]
        if self._abstains:
            lists.append(list(prediction.abstained))
        family: list[Any] = []
        if self._families:
            one = prediction.family
            family = [None] * 3 if one is None else [list(one.present), list(one.open), one.sets]
        yield [str(prediction.image), *lists, *scores, *family]


class TidyLayout:
    """One row per image and label: `image`, `label`, `present`, `p`, `independent`.

    `present` has no value, in CSV `?`, where the label is left open.

    Args:
        families: add `family`, whether the label is `present`, `absent` or `open` in the label sets
            of the image's family, and `sets`, their number.
    """

    def __init__(self, labels: LabelSpace, *, families: bool = False) -> None:
        self._labels, self._families = labels, families
        self.columns = {
            "image": pa.string(),
            "label": pa.string(),
            "present": pa.bool_(),
            "p": pa.float32(),
            "independent": pa.float32(),
        }
        if families:
            self.columns |= {FAMILY: pa.string(), SETS: pa.int64()}

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        present, is_open = frozenset(prediction.labels), frozenset(prediction.abstained)
        scores = zip(self._labels, prediction.marginals, prediction.independent, strict=True)
        for name, p, independent in scores:
            said = None if name in is_open else name in present
            row = [str(prediction.image), name, said, p, independent]
            yield [*row, *self._of_family(prediction.family, name)]

    def _of_family(self, family: Family | None, name: str) -> list[Any]:
        if not self._families:
            return []
        if family is None:
            return [None, None]
        present, is_open, absent = FAMILY_STATES
        state = is_open if name in family.open else absent
        return [present if name in family.present else state, family.sets]


class CsvFile:
    """A CSV file that keeps the bytes of names; see `Table.excel_safe`."""

    def __init__(self, path: Path, *, excel_safe: bool) -> None:
        self._excel_safe = excel_safe
        encoding = "utf-8-sig" if excel_safe else "utf-8"
        # names of files that are not UTF-8 keep their bytes
        self._stream = path.open("w", newline="", encoding=encoding, errors="surrogateescape")

    def write(self, row: Iterable[Any]) -> None:
        write_csv_row(self._stream, map(_safe_cell if self._excel_safe else _cell, row))

    def close(self) -> None:
        self._stream.close()


class ParquetFile:
    """A Parquet file that is written row by row.

    An image's name that is not UTF-8 is escaped with backslashes in its column; the metadata hold
    its bytes.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, pa.DataType], about: Mapping[str, object]
    ) -> None:
        metadata = {METADATA_KEY: json.dumps(about).encode()}
        self._schema = pa.schema(list(columns.items()), metadata)
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._columns = tuple(columns)
        self._rows: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}
        self._written = 0

    def write(self, values: Sequence[Any]) -> None:
        """Write a row, with one value per column."""
        row = dict(zip(self._columns, values, strict=True))
        name = os.fsencode(row["image"])
        text = name.decode("utf-8", "backslashreplace")
        if text != row["image"]:
            self._names[self._written] = name.hex()
        self._rows.append(row | {"image": text})
        self._written += 1
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._names:
            self._writer.add_key_value_metadata({NAMES_KEY: json.dumps(self._names)})
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


def about_table(
    labels: LabelSpace, origin: Origin, *, abstains: bool = False, families: bool = False
) -> dict[str, object]:
    """Return the metadata of a Parquet file; `abstains` and `families` as in `Table`."""
    rules = origin.rules
    record = {"model": origin.model, "digest": origin.digest}
    if origin.decision:
        record["decision"] = origin.decision
    return {
        "labels": list(labels),
        **({"abstains": True} if abstains else {}),
        **({"families": True} if families else {}),
        "origin": record | {"rules": None if rules is None else rules.pairs},
    }


class _JsonFile:
    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self._columns = tuple(columns)
        self._stream = path.open("w", encoding="utf-8", newline="\n")

    def write(self, row: Sequence[Any]) -> None:
        values = (float(f"{v:.6g}") if isinstance(v, float) else v for v in row)
        record = dict(zip(self._columns, values, strict=True))
        self._stream.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._stream.close()


class _LayoutRows:
    def __init__(self, layout: Layout, file: CsvFile | _JsonFile | ParquetFile) -> None:
        self._layout, self._file, self.close = layout, file, file.close

    def write(self, prediction: Prediction) -> None:
        for row in self._layout.rows(prediction):
            self._file.write(row)


def _cell(value: Any) -> Any:
    match value:
        case bool():
            return int(value)
        case float():
            return f"{value:.6g}"
        case list():
            return ";".join(value)
        case None:
            return OPEN
        case _:
            return value


def _safe_cell(value: Any) -> Any:
    """Escape a cell, and each item of a list, since some spreadsheets split at semicolons."""
    match value:
        case str():
            return without_formula(value)
        case list():
            return _cell([without_formula(one) for one in value])
        case _:
            return _cell(value)
