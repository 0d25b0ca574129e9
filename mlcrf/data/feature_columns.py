"""Find the columns of a table that hold features, and turn their cells into a matrix of numbers."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Oddity
from mlcrf.data.cells import INVALID, cell_codes, read_number, shown_cell
from mlcrf.data.columns import LIST_COLUMNS
from mlcrf.data.manifest import SPLIT_COLUMN
from mlcrf.data.matrix_files import FEATURES
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.table_files import IMAGE_COLUMNS, Records, load_records
from mlcrf.errors import DataError
from mlcrf.hints import counted
from mlcrf.images.file_kinds import SUFFIXES
from mlcrf.images.number_rows import NumberRow
from mlcrf.stores import Stored

ID_COLUMNS = (*IMAGE_COLUMNS, "id")
_ITEM = re.compile(r"(.*)\[(\d+)\]", re.DOTALL)
_FEW = 3
_SMALL = (np.dtype(np.float32), np.dtype(np.float16))
_TRUTHS = {"true": 1.0, "false": 0.0}
_EMBEDDINGS = frozenset({FEATURES, "feature", "embedding", "embeddings", "vector", "vectors"})
_NAMED_ID = re.compile(r"(.*[^a-z])?(id|index|number|nr|no|row)", re.IGNORECASE)
_LEAST_ROWS = 10  # of fewer, a feature may number the rows, or equal a label, by chance
_LEAST_COPIED = 5  # rows with, and rows without a label that a feature repeats
_TIGHT = 1e-5
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class FeatureTable:
    """The rows of a table of numbers.

    Attributes:
        records: the other columns: labels, splits and ids.
        id_column: the column that names rows, or None.
        names: names of the features (D,): those of columns, `embedding[0]` for a number of a list,
            `colour=red` for a value of a nominal attribute.
        values: float32 (N, D), 0 in rows without features.
        faults: row -> why its features cannot be used.
        facts: how the columns were understood.
        notes: remarks about doubtful features.
    """

    records: Records
    id_column: str | None
    names: tuple[str, ...]
    values: NDArray[np.float32]
    faults: Mapping[int, str]
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Block:
    """The features of one column: names, float32 or float64 (N, C), and the faults of rows."""

    names: tuple[str, ...]
    values: NDArray[Any]
    faults: dict[int, str]


def take_features(records: Records, options: ReadOptions = ReadOptions()) -> FeatureTable | None:
    """Return the rows of a table of numbers; None if the table is one of images.

    Features are the columns that `options.features` or `options.run_features` name, the only column
    of lists of numbers, or all columns but the labels of a format that says which these are.

    Raises:
        DataError: no such column, a column that is both a label and a feature, or a feature that
            the run learned from is missing.
    """
    labels = {*(options.labels or ()), *(options.label_columns or ()), *records.labels}
    id_column = _find_ids(records, labels | {*options.ignore_columns})
    chosen = _choose(records, options, labels, id_column)
    if chosen is None:
        return None
    if id_column in chosen:
        id_column = None
    blocks = {name: _read_block(records, name, options.run_features) for name in chosen}
    for name, block in blocks.items():
        _require_mostly_numbers(records, name, block, options)
    names = [one for block in blocks.values() for one in block.names]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DataError(f"two features are called {double[0]!r}; rename a column", records.path)
    matrices = [block.values for block in blocks.values()]
    if len(matrices) != 1:
        matrices = [np.concatenate([np.zeros((len(records), 0)), *matrices], axis=1)]
    values = matrices[0]
    notes: list[str] = []
    if not options.run_features:
        notes = _judge_ids(records, blocks, options)
    if options.run_features and names:
        values, notes = _as_learned(records, names, values, options.run_features)
        names = list(options.run_features)
    faults: dict[int, str] = {}
    for block in blocks.values():
        faults = block.faults | faults
    left = {name: cells for name, cells in records.columns.items() if name not in blocks}
    if options.features and not left.keys() - {id_column, SPLIT_COLUMN}:
        raise DataError("--features takes every column, and leaves no labels", records.path, 1)
    if records.all_features and options.run_features:
        left = {name: left[name] for name in left if name in labels or name == id_column}
    return FeatureTable(
        replace(records, columns=left),
        id_column,
        tuple(names),
        values.astype(np.float32, copy=False),
        faults,
        (_describe(names, list(blocks)),) if names else (),
        (*notes, *_doubts(names, values, faults)),
    )


def read_rows(path: Path | Stored, features: tuple[str, ...]) -> list[NumberRow]:
    """Read the rows of a table with the features that a run learned from, whatever its labels.

    A row whose features cannot be used has a fault instead.

    Raises:
        DataError: the table cannot be read, or lacks features.
    """
    problems = Problems()
    records = load_records(path, problems)
    problems.raise_if_any()
    table = take_features(records, ReadOptions(run_features=features))
    if table is None or not table.names:
        raise DataError(
            f"has none of the {len(features)} features that the run learned from: "
            f"{_some(features)}",
            path,
            1,
        )
    return list(number_rows(table))


def number_rows(table: FeatureTable, problems: Problems | None = None) -> Iterator[NumberRow]:
    """Yield the rows, named by their id column or their number.

    Args:
        problems: collects faulty features; None leaves them to the rows.
    """
    records = table.records
    cells = None if table.id_column is None else records.columns[table.id_column]
    path = records.path
    place = str(path.resolve()) if isinstance(path, Path) else str(path)
    first: dict[str, int] = {}
    for row in range(len(records)):
        name = f"row {row + 1}" if cells is None else str(cells[row] or "").strip()
        fault = table.faults.get(row, "")
        if not name:
            name, fault = f"row {row + 1}", f"column {table.id_column!r} is empty"
        identity = f"{place}/{name}" if cells is None else name
        before = first.setdefault(identity, row)
        if not np.array_equal(table.values[before], table.values[row]):
            other = f"is on {records.place(before)} too, with other features; keep one"
            fault = fault or f"duplicate row: {name!r} {other}"
        if fault and problems is not None:
            records.fault(problems, row, fault)
        if not table.names:
            yield NumberRow(name, identity)
        elif fault:
            yield NumberRow(name, identity, fault=f"{records.path}, {records.place(row)}: {fault}")
        else:
            yield NumberRow(name, identity, table.values[row])


def _find_ids(records: Records, others: set[str]) -> str | None:
    """Return the column that names rows: none of the others, and not of 0 and 1 as labels are."""
    for name in ID_COLUMNS:
        cells = records.columns.get(name)
        if cells is None or name in others or name in records.nominal:
            continue
        texts = [str(cell) for cell in cells]
        if len(set(texts)) == len(texts) or (cell_codes(texts) == INVALID).any():
            return name
    return None


def _choose(
    records: Records, options: ReadOptions, labels: set[str], id_column: str | None
) -> list[str] | None:
    """Return the columns of features; None if the table has none and need not."""
    others = labels | {*options.ignore_columns, options.split_column or ""}
    if options.features is not None:
        chosen = [
            name
            for name in _matching(records, options.features)
            if name not in options.ignore_columns
        ]
        if both := [name for name in chosen if name in others]:
            raise DataError(
                f"column {_some(both)} is a feature by --features, and a label or a split by "
                "another option; leave it out of one",
                records.path,
                1,
            )
        return chosen
    if options.run_features:
        return _of_run(records, options.run_features)
    if records.all_features:
        if not labels:
            raise DataError(
                "says nowhere which attributes are labels; put the XML file of Mulan beside it, or "
                "name them with --label-columns or --labels FILE",
                records.path,
            )
        return [name for name in records.columns if name not in others | {id_column}]
    lists = [
        name
        for name, cells in records.columns.items()
        if name not in others and name.lower() not in LIST_COLUMNS and _are_vectors(cells)
    ]
    if id_column is not None and _are_images(records.columns[id_column]):
        lists = [name for name in lists if name.lower() in _EMBEDDINGS]  # others may be boxes
    if len(lists) > 1:
        raise DataError(
            f"columns {_some(lists)} are lists of numbers; name that of the features with "
            "--features",
            records.path,
            1,
        )
    return lists or None


def judge_copies(
    table: FeatureTable, labels: Sequence[str], targets: NDArray[np.int8], options: ReadOptions
) -> list[str]:
    """Refuse features that repeat a label, or return notes on them.

    They are noted if they are accepted, or if they are features by the format, not by --features.
    """
    if len(targets) < _LEAST_ROWS or options.run_features:
        return []
    answers = {}
    for name, column in zip(labels, targets.T, strict=True):
        if (column >= 0).all() and min((column == 0).sum(), (column == 1).sum()) >= _LEAST_COPIED:
            for one in (column, 1 - column):
                answers[one.astype(np.float32).tobytes()] = name
    found = [
        (feature, label)
        for feature, column in zip(table.names, table.values.T, strict=True)
        if (label := answers.get(column.tobytes())) is not None
    ]
    if not found:
        return []
    what = f"feature {found[0][0]!r} is label {found[0][1]!r} in every row"
    remedy = ", as if the answer were known; leave it out of the features"
    return _note_or_refuse(what, remedy, table.records, options)


def _note_or_refuse(what: str, remedy: str, records: Records, options: ReadOptions) -> list[str]:
    """Return a note on an odd feature if it is accepted, or one by the format; else refuse it."""
    if options.features is None:  # the format says that it is a feature
        return [what]
    if Oddity.FEATURES not in options.accept:
        reason = f"{what}{remedy}, or use --accept {Oddity.FEATURES}"
        raise DataError(reason, records.path, 1)
    return [f"accepted ({Oddity.FEATURES}): {what}"]


def _matching(records: Records, patterns: Sequence[str]) -> list[str]:
    """Return the columns with these names or patterns, in the order of the table."""
    found: set[str] = set()
    for pattern in patterns:
        own = [pattern] if pattern in records.columns else []
        own = own or [name for name in records.columns if fnmatchcase(name, pattern)]
        if not own:
            names = _some(list(records.columns))
            raise DataError(f"--features: no column {pattern!r}; found {names}", records.path, 1)
        found |= set(own)
    return [name for name in records.columns if name in found]


def _of_run(records: Records, wanted: Sequence[str]) -> list[str]:
    """Return the columns of the features that a run learned from."""
    names = set(wanted)
    items = {found[1] for name in wanted if (found := _ITEM.fullmatch(name))}
    items |= {name for name, own in records.item_names.items() if names & set(own)}
    return [
        name
        for name in records.columns
        if (name in records.nominal and any(one.startswith(f"{name}=") for one in wanted))
        or (name not in records.nominal and (name in names or name in items))
    ]


def _are_images(cells: Sequence[object]) -> bool:
    return all(str(cell).lower().endswith(tuple(SUFFIXES)) for cell in cells)


def _are_vectors(cells: Sequence[object]) -> bool:
    """Return whether cells are lists of numbers of one length, not all of them whole."""
    first = next((cell for cell in cells if cell is not None), None)
    if not isinstance(first, list | np.ndarray) or len(first) < 2:
        return False
    if isinstance(first, np.ndarray):
        return True
    lists = [cell for cell in cells if isinstance(cell, list)]
    numbers = all(isinstance(one, int | float) for cell in lists for one in cell)
    return numbers and any(isinstance(one, float) for cell in lists for one in cell)


def _read_block(records: Records, name: str, learned: Sequence[str]) -> _Block:
    """Return the features of a column."""
    cells = [_parsed(cell) for cell in records.columns[name]]
    if name in records.nominal:
        return _read_nominal(records, name, learned)
    if any(isinstance(cell, list | np.ndarray) for cell in cells):
        return _read_lists(name, cells, records.item_names.get(name))
    values, faults = np.zeros(len(cells)), {}
    for row, cell in enumerate(cells):
        number = _number(cell)
        if isinstance(number, str):
            faults[row] = f"feature {name!r} is {number}"
        else:
            values[row] = number
    return _Block((name,), values[:, None], faults)


def _parsed(cell: object) -> object:
    """Return the list that a text such as `[0.1, 0.2]` holds, else the cell."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _read_nominal(records: Records, name: str, learned: Sequence[str]) -> _Block:
    """Return a column of 0 and 1 for each value but the first, or those that a run learned from."""
    declared, cells = records.nominal[name], records.columns[name]
    values = declared[1:]
    if learned:
        values = tuple(
            one.removeprefix(f"{name}=") for one in learned if one.startswith(f"{name}=")
        )
        if len(others := [one for one in declared if one not in values]) > 1:
            raise DataError(
                f"attribute {name!r} declares values {_some(others)} that the run has not learned",
                records.path,
            )
    faults = {
        row: f"feature {name!r} is missing; expected one of {_some(declared)}"
        for row, cell in enumerate(cells)
        if cell is None
    }
    columns = [[cell == value for cell in cells] for value in values]
    matrix = np.array(columns, dtype=np.float64).reshape(len(values), len(cells)).T
    return _Block(tuple(f"{name}={value}" for value in values), matrix, faults)


def _read_lists(name: str, cells: Sequence[object], item_names: tuple[str, ...] | None) -> _Block:
    """Return the numbers of a column of lists, of the most frequent length."""
    lengths = [len(cell) if isinstance(cell, list | np.ndarray) else -1 for cell in cells]
    width = Counter(one for one in lengths if one >= 0).most_common(1)[0][0]
    if not width:
        raise DataError(f"column {name!r} holds empty lists; expected the features of each row")
    names = item_names or tuple(f"{name}[{at}]" for at in range(width))
    is_small = all(getattr(cell, "dtype", None) in _SMALL for cell in cells if cell is not None)
    values: NDArray[Any] = np.zeros((len(cells), width), np.float32 if is_small else np.float64)
    faults: dict[int, str] = {}
    for row, (cell, length) in enumerate(zip(cells, lengths, strict=True)):
        if length < 0:
            faults[row] = f"feature {name!r} is {shown_cell(cell)}, expected {width} numbers"
        elif length != width:
            faults[row] = f"feature {name!r} has {length} numbers, other rows have {width}"
        elif isinstance(cell, np.ndarray):
            values[row] = cell
        else:
            numbers = list(map(_number, cell))  # type: ignore[call-overload]
            wrong = [at for at, number in enumerate(numbers) if isinstance(number, str)]
            if wrong:
                faults[row] = f"feature {names[wrong[0]]!r} is {numbers[wrong[0]]}"
            else:
                values[row] = numbers
    for row in np.flatnonzero(~(np.abs(values) <= _LARGEST).all(1)).tolist():
        at = int(np.flatnonzero(~(np.abs(values[row]) <= _LARGEST))[0])
        faults[row] = f"feature {names[at]!r} is {values[row, at]}, expected a finite number"
        values[row] = 0
    return _Block(names, values, faults)


def _number(cell: object) -> float | str:
    """Return the finite number in a cell, or in words what it is instead."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "empty, expected a number"
    try:
        number = read_number(cell)
    except (TypeError, ValueError, OverflowError):
        comma = isinstance(cell, str) and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell)
        hint = " (with a point, not a comma)" if comma else ""
        text = cell.strip().lower() if isinstance(cell, str) else ""
        if text in _TRUTHS:
            return _TRUTHS[text]
        return f"{shown_cell(cell)}, expected a number{hint}"
    return number if abs(number) <= _LARGEST else f"{number}, expected a finite number"


def _require_mostly_numbers(
    records: Records, name: str, block: _Block, options: ReadOptions
) -> None:
    """Refuse a column of another kind, in one line instead of one for each row."""
    if len(block.faults) > max(2, len(records) // 2):
        fault = next(iter(block.faults.values()))
        remedy = (
            "of --features" if options.features else f"with --ignore-columns {shlex.quote(name)}"
        )
        raise DataError(
            f"{fault} ({len(block.faults)} of "
            f"{counted(len(records), 'row')}); column {name!r} is no column "
            f"of features: leave it out {remedy}, or write numbers",
            records.path,
            1,
        )


def _judge_ids(records: Records, blocks: Mapping[str, _Block], options: ReadOptions) -> list[str]:
    """Refuse features that number the rows, or return notes on them; see `judge_copies`."""
    found = []
    for name, block in blocks.items():
        column = block.values[:, 0]
        if len(block.names) > 1 or len(column) < _LEAST_ROWS or block.faults:
            continue
        steps = np.diff(column)
        counts = bool((steps == 1).all())
        whole = bool((column == np.round(column)).all())
        own = whole and len(np.unique(column)) == len(column)
        if counts or (own and _NAMED_ID.fullmatch(name)):
            found.append(name)
    if not found:
        return []
    what = f"feature {_some(found)} numbers the rows, and says nothing of new ones"
    return _note_or_refuse(what, "; leave it out with --ignore-columns", records, options)


def _as_learned(
    records: Records, names: Sequence[str], values: NDArray[Any], wanted: Sequence[str]
) -> tuple[NDArray[Any], list[str]]:
    """Return the features that a run learned from, in its order, and notes on others."""
    position = {name: at for at, name in enumerate(names)}
    missing = [name for name in wanted if name not in position]
    if missing and records.is_sparse and len(missing) < len(wanted):
        position |= dict.fromkeys(missing, len(names))
        values = np.hstack([values, np.zeros((len(values), 1), values.dtype)])
        missing = []
    if missing:
        raise DataError(
            f"lacks {len(missing)} of the {len(wanted)} features that the run learned from: "
            f"{_some(missing)}",
            records.path,
            1,
        )
    notes = []
    if others := [name for name in names if name not in set(wanted)]:
        notes = [f"the run learned without the features {_some(others)}; they are left out"]
    return values[:, [position[name] for name in wanted]], notes


def _describe(names: Sequence[str], columns: Sequence[str]) -> str:
    """Return which columns hold features, in words."""
    if len(columns) == 1:
        many = "feature" if len(names) == 1 else "features"
        return f"{len(names)} {many} from column {columns[0]!r}"
    shown = ", ".join(columns[:_FEW]) + (f" to {columns[-1]}" if len(columns) > _FEW else "")
    return f"{counted(len(names), 'feature')} from {counted(len(columns), 'column')}: {shown}"


def _doubts(names: Sequence[str], values: NDArray[Any], faults: Mapping[int, str]) -> Iterator[str]:
    """Yield notes on features that say nothing."""
    whole = np.delete(values, list(faults), axis=0)
    if len(whole) > 1:
        constant = [names[at] for at in np.flatnonzero((whole == whole[0]).all(0)).tolist()]
        if constant:
            many = "s are" if len(constant) > 1 else " is"
            yield f"{len(constant)} feature{many} the same in every row: {_some(constant)}"
        spread, size = np.ptp(whole, axis=0), np.abs(whole).max(0)
        tight = [
            names[at] for at in np.flatnonzero((spread > 0) & (spread < _TIGHT * size)).tolist()
        ]
        if tight:
            yield (
                f"feature {_some(tight)} varies by less than {_TIGHT:g} of its size, which numbers "
                "of 32 bits hardly keep; subtract what all rows share, such as a first date"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:_FEW])
    return shown if len(names) <= _FEW else f"{shown} and {len(names) - _FEW} more"
