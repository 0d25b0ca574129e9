"""Load tables and matrices as columns of plain values, with the line of each row.

To add a format: a suffix in `TABLE_SUFFIXES` and a case in `load_records`. CSV is read with the csv
module, not pandas, since it knows the line where a record starts, and distinguishes a row that is
too short from a row with empty cells.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlcrf.data.arff_files import load_arff
from mlcrf.data.files import load_text
from mlcrf.data.matrix_files import FEATURES, MatrixContent, load_matrices, load_svmlight
from mlcrf.data.problems import Problems
from mlcrf.errors import DataError, reason_of
from mlcrf.images.file_kinds import SUFFIXES
from mlcrf.labels import composed
from mlcrf.stores import Stored

IMAGE_COLUMNS = ("image", "file_name", "filename", "path")
UNNAMED = "Unnamed: "  # with its place from 0, a column without a name, as pandas has it
TABLE_SUFFIXES = frozenset(
    {".arff", ".csv", ".jsonl", ".parquet", ".tsv", ".safetensors"}
    | {".svm", ".libsvm", ".svmlight"}
)
_DELIMITERS = (",", ";", "\t", "|")
_DECLARED = re.compile(r"sep=(.)[ \t]*(?:\r\n|\n|\r)", re.IGNORECASE)


@dataclass(frozen=True)
class Records:
    """A table as stored in the file, not yet interpreted.

    Attributes:
        path: the file.
        columns: column name -> one cell per row (N,), None where it has no value; cells of CSV are
            text.
        lines: line where each row starts (N,); for Parquet the row, from 1.
        has_lines: False for Parquet.
        labels: columns that the file says are labels.
        all_features: whether every other column is a feature.
        nominal: column of features -> its declared values.
        item_names: column of lists of features -> names of their numbers.
        is_sparse: whether features that the file does not name are 0.
    """

    path: Path | Stored
    columns: dict[str, list[object]]
    lines: list[int]
    has_lines: bool = True
    labels: tuple[str, ...] = ()
    all_features: bool = False
    nominal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    item_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_sparse: bool = False

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Return a row's place as text, `line 2` or `row 2`."""
        return f"{'line' if self.has_lines else 'row'} {self.lines[row]}"

    def fault(self, problems: Problems, row: int, message: str) -> None:
        """Add an error about one row."""
        if self.has_lines:
            problems.add(self.path, message, line=self.lines[row])
        else:
            problems.add(self.path, f"{self.place(row)}: {message}")


def tables_in(folder: Path) -> list[str]:
    """Return the names of the tables in a folder."""
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in TABLE_SUFFIXES)


def load_records(path: Path | Stored, problems: Problems, *, keep_bytes: bool = False) -> Records:
    """Load a table by its suffix: .csv, .tsv, .jsonl, .parquet or .arff.

    The separator of CSV (comma, semicolon, tab or bar) is found from the header. Rows of the wrong
    length are reported to `problems` and left out; blank rows are skipped.

    Args:
        keep_bytes: see `load_text`.

    Raises:
        DataError: an unknown suffix, an unreadable or empty file, no row below the header, or a
            header with a missing or duplicate name.

    Cost: O(cells); the whole file is loaded into memory.
    """
    match path.suffix.lower():
        case ".parquet":
            records = _load_parquet(path)
        case ".jsonl":
            records = _load_json_lines(path, problems)
        case ".csv" | ".tsv":
            records = _load_csv(path, load_text(path, problems, keep_bytes=keep_bytes), problems)
        case ".arff":
            found = load_arff(path, problems)
            records = Records(
                path,
                found.columns,
                found.lines,
                labels=found.labels,
                all_features=True,
                nominal=found.nominal,
            )
        case ".safetensors":
            records = _of_matrices(path, load_matrices(path), has_lines=False)
        case ".svm" | ".libsvm" | ".svmlight":
            records = _of_matrices(path, load_svmlight(path), has_lines=True)
        case suffix:
            kinds = ", ".join(sorted(TABLE_SUFFIXES))
            raise DataError(f"unknown kind of table {suffix!r}; expected {kinds}", path)
    if not len(records):
        problems.raise_if_any()
        raise DataError("has no rows; expected one row per image", path)
    return records


def _of_matrices(path: Path | Stored, found: MatrixContent, *, has_lines: bool) -> Records:
    names = {FEATURES: found.names} if found.names else {}
    return Records(
        path,
        found.columns,
        found.lines,
        has_lines,
        labels=found.labels,
        item_names=names,
        is_sparse=has_lines,
    )


def _load_csv(path: Path | Stored, text: str, problems: Problems) -> Records:
    problems.raise_if_any()
    rows, lines = csv_rows(path, text) if text.strip() else ([], [])
    if not rows:
        raise DataError("is empty; expected a header line and one row per image", path)
    header = [composed(name) or f"{UNNAMED}{place}" for place, name in enumerate(rows[0])]
    named = any(name in IMAGE_COLUMNS for name in header)
    if not named and any(name.lower().endswith(tuple(SUFFIXES)) for name in header):
        what = "the first line looks like a row; expected a header, such as image,labels"
        raise DataError(what, path, lines[0])
    check_header(path, header)
    whole = [
        (row, line)
        for row, line in zip(rows[1:], lines[1:], strict=True)
        if len(row) == len(header)
    ]
    if not whole and len(rows) > 2:
        what = f"the header has {_cells(len(header))}, but no row has; expected names of columns"
        raise DataError(what, path, lines[0])
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            problems.add(path, f"{_cells(len(row))}, but the header has {len(header)}", line=line)
    columns: dict[str, list[object]] = {
        name: [row[place] for row, _ in whole] for place, name in enumerate(header)
    }
    return Records(path, columns, [line for _, line in whole])


def csv_rows(path: Path | Stored, text: str) -> tuple[list[list[str]], list[int]]:
    """Return the rows of CSV that are not blank, and the line where each starts.

    The separator is the one that a first line `sep=;` names, else found from the header.

    Raises:
        DataError: quotes that do not match.
    """
    rows, lines, start = [], [], 1
    if declared := _DECLARED.match(text):  # Excel's `sep=;`
        text, start = text[declared.end() :], 2
    first = start
    try:
        delimiter = declared[1] if declared else _sniff_delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(start)
            start = reader.line_num + first
    except csv.Error as error:
        raise DataError(
            f"cannot be read as CSV: {error}. Check the quotes.", path, start
        ) from error
    return rows, lines


def _sniff_delimiter(text: str) -> str:
    """Return the delimiter that gives an image column, else the most columns."""
    header = next(line for line in io.StringIO(text, newline=None) if line.strip())
    names = {delimiter: _header_names(header, delimiter) for delimiter in _DELIMITERS}
    return max(
        _DELIMITERS,
        key=lambda sign: (any(n in IMAGE_COLUMNS for n in names[sign]), len(names[sign])),
    )


def _header_names(header: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    except (
        csv.Error
    ):  # a cell over the module's limit: thousands of names, not split by this delimiter
        return []


def _load_json_lines(path: Path | Stored, problems: Problems) -> Records:
    text = load_text(path, problems)
    problems.raise_if_any()
    objects: list[dict[str, object]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=_without_repetition)
        except _RepeatedKeyError as error:
            problems.add(path, f"has the key {error} twice; keep one of them", line=number)
            continue
        except (ValueError, RecursionError) as error:
            reason = _json_fault(error)
            problems.add(
                path, f"is not JSON: {reason}; expected one JSON object per line", line=number
            )
            continue
        if not isinstance(entry, dict):
            problems.add(
                path, "is not a JSON object; expected one JSON object per line", line=number
            )
            continue
        objects.append(entry)
        lines.append(number)
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    return Records(path, {name: [entry.get(name) for entry in objects] for name in names}, lines)


class _RepeatedKeyError(ValueError):
    """A JSON object in which a key stands twice; the text is the key."""


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _RepeatedKeyError(repr(next(key for key, count in counts.items() if count > 1)))
    return found


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _load_parquet(path: Path | Stored) -> Records:
    source = io.BytesIO(path.read()) if isinstance(path, Stored) else path
    # `to_pylist` fails on text that is not UTF-8 and on values that Python cannot represent
    try:
        with pq.ParquetFile(source) as file:
            table = file.read()
        header = [str(name).strip() for name in table.column_names]
        check_header(path, header)
        columns = {name: _plain(table.column(place)) for place, name in enumerate(header)}
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise DataError(f"cannot be read as Parquet: {reason}", path) from error
    return Records(path, columns, list(range(1, table.num_rows + 1)), has_lines=False)


def _plain(column: pa.ChunkedArray) -> list[object]:
    """Return the cells of a column; lists of floats, which may be long, as arrays.

    Decimal numbers, as databases write them, become integers or floats.
    """
    kind = column.type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_so(kind) for is_so in lists) and pa.types.is_floating(kind.value_type):
        return [
            one.values.to_numpy(zero_copy_only=False) if one.is_valid else None for one in column
        ]
    cells: list[Any] = column.to_pylist()
    if pa.types.is_decimal(kind):
        return [
            one if one is None else int(one) if one == one.to_integral_value() else float(one)
            for one in cells
        ]
    return cells


def check_header(path: Path | Stored, header: list[str]) -> None:
    """Refuse duplicate and missing column names.

    Raises:
        DataError: a name is missing or occurs more than once.
    """
    double = [name for name, count in Counter(header).items() if count > 1 and name]
    if double:
        shown = ", ".join(repr(name) for name in double)
        raise DataError(f"column {shown} occurs more than once; rename or remove one", path, 1)
    if "" in header:
        raise DataError(f"column {header.index('') + 1} has no name; name or remove it", path, 1)


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"
