"""Load costs of wrong decisions from a file."""

import math
from collections.abc import Sequence
from pathlib import Path

from mlcrf.choices import MOST_COST
from mlcrf.data.cells import read_number, shown_cell
from mlcrf.data.files import load_text
from mlcrf.data.problems import Problems
from mlcrf.data.table_files import csv_rows
from mlcrf.decoding.costs import ANY_LABEL, Costs, cost_fault, require_all
from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import counted, did_you_mean
from mlcrf.labels import LabelSpace, composed

_NEEDED = ("label", "false", "missed")
_HEADER = (*_NEEDED, "abstain")
_EXPECTED = "expected a header `label,false,missed` or `label,false,missed,abstain`"


def load_costs(path: Path, labels: LabelSpace, *, abstain: float | None = None) -> Costs:
    """Load a CSV file with the costs of each label: `label,false,missed` and perhaps `abstain`.

    The row of the label `*` stands for all labels that are not named. Columns may be in any order;
    spellings of CSV as in tables: a byte-order mark, semicolons or tabs between cells, decimal
    commas.

    Args:
        abstain: cost of leaving a label open where the file has none: no column, or an empty cell.

    Raises:
        DataError: no such file, not UTF-8, another header, and all rows with an error, such as an
            unknown label, or one that occurs twice, or no number from 0 to 1e12.
        LabelsError: a label has no costs.
    """
    problems = Problems()
    text = load_text(path, problems)
    problems.raise_if_any()
    rows, lines = csv_rows(path, text) if text.strip() else ([], [])
    if not rows:
        raise DataError(f"is empty; {_EXPECTED}, and a row for each label", path)
    place = _header(path, [composed(name).lower() for name in rows[0]], lines[0])
    line_of: dict[str, int] = {}
    given: dict[str, Sequence[float | None]] = {}
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(rows[0]):
            problems.add(
                path, f"{counted(len(row), 'cell')}, but the header has {len(rows[0])}", line=line
            )
            continue
        label = composed(row[place["label"]])
        if label not in labels.names and label != ANY_LABEL:
            hint = did_you_mean(label, labels)
            problems.add(path, f"unknown label {label!r}{hint}", line=line)
        elif label in line_of:
            problems.add(path, f"{label!r} is on line {line_of[label]} already", line=line)
        else:
            line_of[label] = line
            numbers: list[float | None] = []
            for kind in _HEADER[1:]:
                cell = row[place[kind]].strip() if kind in place else ""
                if not cell and kind not in _NEEDED:
                    numbers.append(None)
                    continue
                value = _number(cell)
                if cost_fault(value):
                    wanted = f"expected a number from 0 to {MOST_COST:g}"
                    problems.add(
                        path, f"column {kind!r} is {shown_cell(cell)}; {wanted}", line=line
                    )
                numbers.append(value)
            if numbers[0] == numbers[1] == 0:
                fault = "both costs are 0, which decides nothing; expected one above 0"
                problems.add(path, fault, line=line)
            given[label] = numbers
    problems.raise_if_any()
    try:
        require_all(given, labels)
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error
    return Costs.of(given, labels, abstain, path.name)


def _header(path: Path, names: list[str], line: int) -> dict[str, int]:
    """Return the place of each column."""
    for name in names:
        if name not in _HEADER:
            hint = did_you_mean(name, _HEADER)
            raise DataError(f"column {name!r} is unknown{hint or f'; {_EXPECTED}'}", path, line)
        if names.count(name) > 1:
            raise DataError(f"column {name!r} occurs twice; {_EXPECTED}", path, line)
    if missing := [name for name in _NEEDED if name not in names]:
        raise DataError(f"has no column {missing[0]!r}; {_EXPECTED}", path, line)
    return {name: at for at, name in enumerate(names)}


def _number(cell: str) -> float:
    """Return the number in a cell, NaN if there is none."""
    try:
        return read_number(cell.replace(",", "."))
    except ValueError:
        return math.nan
