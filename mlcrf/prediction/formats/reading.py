"""Read tables of predictions: files by mlcrf, also after a person has edited them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlcrf.data.cells import INVALID, cell_code, read_number, shown_cell, without_formula
from mlcrf.data.columns import ABSTAINED
from mlcrf.data.problems import Problems
from mlcrf.data.table_files import Records, load_records
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import as_image
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.prediction.formats.parquet_table import ParquetTable, load_about
from mlcrf.prediction.formats.parts import Parts
from mlcrf.prediction.formats.table import (
    FAMILY,
    FAMILY_STATES,
    OPEN_LABELS,
    SETS,
    SURELY,
    TableSuffix,
)
from mlcrf.prediction.record import Family, Origin, Prediction
from mlcrf.stores import Stored


class PredictionTable(Protocol):
    """Predictions, their labels, and the model that made them.

    `abstains` says whether labels may be left open.
    """

    @property
    def labels(self) -> LabelSpace: ...

    @property
    def origin(self) -> Origin: ...

    @property
    def abstains(self) -> bool: ...

    @property
    def families(self) -> bool:
        """Return whether the table has families of label sets."""
        ...

    def __iter__(self) -> Iterator[Prediction]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class LoadedTable:
    """Predictions in memory."""

    labels: LabelSpace
    predictions: Sequence[Prediction]
    origin: Origin = Origin()
    abstains: bool = False
    families: bool = False

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)


def read_predictions(
    place: Path | Stored, *, labels: LabelSpace | None = None, probabilities: bool = True
) -> PredictionTable:
    """Read a table of predictions: .csv, .jsonl or .parquet, wide or tidy, or a folder of parts.

    The column `labels`, or `present` of a tidy table, holds the decisions; what `abstained` lists,
    or has no value in `present`, is left open. The columns `surely`, `open` and `sets`, or `family`
    and `sets`, are families of label sets; no table says whether they are exact. CSV as saved by
    spreadsheets is accepted: a byte-order mark, semicolons or tabs between cells, decimal commas
    and the apostrophes of `--excel-safe`.

    Args:
        labels: labels of the table, if it has no columns of probabilities that name them.
        probabilities: whether columns of probabilities are required; else they may be missing or
            damaged.

    Raises:
        DataError: all errors of the table with their lines, such as unknown labels.

    Cost: parts and Parquet tables by mlcrf are read row by row; other tables are held in memory.
    """
    suffix = place.suffix.lower()
    is_folder = isinstance(place, Path) and place.is_dir()
    if is_folder or (isinstance(place, Stored) and suffix not in tuple(TableSuffix)):
        return Parts(place)
    if suffix not in tuple(TableSuffix):
        kinds = ", ".join(TableSuffix)
        raise DataError(f"{place}: expected a table ({kinds}) or a folder of parts")
    if isinstance(place, Path) and not place.exists():
        raise DataError(f"{place}: no such file or folder")
    if suffix == TableSuffix.PARQUET and (about := load_about(place)) is not None:
        return ParquetTable(place, about)
    problems = Problems()
    records = load_records(place, problems, keep_bytes=True)
    if "image" not in records.columns:
        raise DataError(f"{place}:1: has no column `image`; expected a table of `mlcrf predict`")
    read = _read_tidy if {"label", "present"} <= records.columns.keys() else _read_wide
    table = read(_Cells(records, problems), labels, probabilities)
    problems.raise_if_any()
    return table


@dataclass(frozen=True)
class _Cells:
    """The cells of a table; errors are collected."""

    records: Records
    problems: Problems

    def fault(self, row: int, message: str) -> None:
        self.records.fault(self.problems, row, message)

    def image(self, row: int) -> str:
        cell = self.records.columns["image"][row]
        if not isinstance(cell, str) or not cell.strip():
            self.fault(row, f"column 'image' is {shown_cell(cell)}; expected a path")
            return ""
        return _without_apostrophe(cell)

    def probability(self, row: int, column: str) -> float:
        cell = self.records.columns[column][row]
        try:
            value = read_number(cell.replace(",", ".") if isinstance(cell, str) else cell)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:
            self.fault(row, f"column {column!r} is {shown_cell(cell)}; expected a probability")
        return value

    def count(self, row: int) -> int:
        """Return the number of sets of a family."""
        cell = self.records.columns[SETS][row]
        try:
            value = read_number(cell)
            # a float has not all digits of a large number
            number = (
                int(cell) if isinstance(cell, int | str) else int(value) * (value == int(value))
            )
        except (TypeError, ValueError, OverflowError):
            number = 0
        if number < 1:
            self.fault(
                row, f"column {SETS!r} is {shown_cell(cell)}; expected a whole number from 1"
            )
        return number

    def label(self, row: int, name: str, labels: LabelSpace) -> str:
        """Return the label that a text names."""
        plain = name if name in labels.names else _without_apostrophe(name)
        try:
            labels.index(plain)
        except LabelsError as error:
            self.fault(row, str(error))
        return plain


def _read_wide(cells: _Cells, labels: LabelSpace | None, probabilities: bool) -> LoadedTable:
    columns, path = cells.records.columns, cells.records.path
    named = [name.removeprefix("p:") for name in columns if name.startswith("p:")]
    space = _space(path, named) if named else labels
    if "labels" not in columns:
        raise DataError(f"{path}:1: has no column `labels`; expected a table of `mlcrf predict`")
    if space is None:
        raise DataError(f"{path}:1: has no columns p:LABEL that name the labels; give --model")
    scores = [[f"{kind}:{name}" for name in space] for kind in ("p", "independent")]
    missing = [name for kind in scores for name in kind if name not in columns]
    if probabilities and missing:
        raise DataError(f"{path}:1: has no column {missing[0]!r}, which is needed here")
    names, abstains = frozenset(space.names), ABSTAINED in columns
    families = {SURELY, OPEN_LABELS, SETS} <= columns.keys()
    predictions = []
    for row in range(len(columns["labels"])):
        chosen = _listed(cells, row, "labels", space)
        is_open = _listed(cells, row, ABSTAINED, space) if abstains else set()
        marginals, independent = (
            tuple(cells.probability(row, name) for name in kind) if probabilities else ()
            for kind in scores
        )
        present = tuple(name for name in space if name in chosen & names)
        left_open = tuple(name for name in space if name in (is_open & names) - chosen)
        prediction = Prediction(
            as_image(cells.image(row)),
            present,
            marginals,
            independent,
            abstained=left_open,
            listed=row,
            family=_family(cells, row, space) if families else None,
        )
        predictions.append(prediction)
    return LoadedTable(space, predictions, abstains=abstains, families=families)


def _family(cells: _Cells, row: int, labels: LabelSpace) -> Family | None:
    """Return the family of an image in a wide table; None if it has none."""
    columns = cells.records.columns
    if cell_code(columns[SETS][row]) == UNKNOWN:
        return None
    surely, is_open = (_listed(cells, row, column, labels) for column in (SURELY, OPEN_LABELS))
    if both := surely & is_open:
        cells.fault(row, f"label {min(both)!r} is in {SURELY!r} and in {OPEN_LABELS!r}")
    present, left = (
        tuple(name for name in labels if name in one) for one in (surely, is_open - surely)
    )
    return Family(present, left, cells.count(row))


def _listed(cells: _Cells, row: int, column: str, labels: LabelSpace) -> set[str]:
    cell = cells.records.columns[column][row]
    if isinstance(cell, str):
        parts = [part.strip() for part in cell.split(";")]
    elif isinstance(cell, list) and all(isinstance(one, str) for one in cell):
        parts = cell
    else:
        cells.fault(row, f"column {column!r} is {shown_cell(cell)}; expected a list of labels")
        return set()
    return {cells.label(row, part, labels) for part in parts if part}


def _read_tidy(cells: _Cells, labels: LabelSpace | None, probabilities: bool) -> LoadedTable:
    columns, path = cells.records.columns, cells.records.path
    missing = [name for name in ("p", "independent") if name not in columns]
    if probabilities and missing:
        raise DataError(f"{path}:1: has no column {missing[0]!r}, which is needed here")
    texts = [_without_apostrophe(str(cell)) for cell in columns["label"]]
    space = _space(path, list(dict.fromkeys(texts)))
    families = {FAMILY, SETS} <= columns.keys()
    rows: dict[str, dict[str, int]] = {}
    for row, label in enumerate(texts):
        own = rows.setdefault(cells.image(row), {})
        if label in own:
            cells.fault(row, f"label {label!r} occurs twice for one image")
        own[label] = row
    predictions = []
    for listed, (image, own) in enumerate(rows.items()):
        if lost := [name for name in space if name not in own]:
            cells.fault(min(own.values()), f"{image}: has no row for label {lost[0]!r}")
            continue
        present, is_open = [], []
        for name in space:
            code = cell_code(columns["present"][own[name]])
            if code == INVALID:
                cells.fault(own[name], "column 'present': expected 1, 0 or ?")
            elif code == UNKNOWN:
                is_open.append(name)
            elif code:
                present.append(name)
        marginals, independent = (
            tuple(cells.probability(own[name], kind) for name in space) if probabilities else ()
            for kind in ("p", "independent")
        )
        family = _tidy_family(cells, {name: own[name] for name in space}) if families else None
        predictions.append(
            Prediction(
                as_image(image),
                tuple(present),
                marginals,
                independent,
                abstained=tuple(is_open),
                listed=listed,
                family=family,
            )
        )
    abstains = any(one.abstained for one in predictions)
    return LoadedTable(space, predictions, abstains=abstains, families=families)


def _tidy_family(cells: _Cells, own: Mapping[str, int]) -> Family | None:
    """Return the family of an image by the row of each label; None if it has none."""
    columns = cells.records.columns
    if all(cell_code(columns[SETS][row]) == UNKNOWN for row in own.values()):
        return None
    said: dict[str, list[str]] = {state: [] for state in FAMILY_STATES}
    for name, row in own.items():
        state = columns[FAMILY][row]
        if state not in FAMILY_STATES:
            expected = ", ".join(FAMILY_STATES)
            cells.fault(row, f"column {FAMILY!r} is {shown_cell(state)}; expected {expected}")
            continue
        said[state].append(name)
    counts = {name: cells.count(row) for name, row in own.items()}
    least, most = (choose(counts, key=counts.__getitem__) for choose in (min, max))
    if counts[least] != counts[most]:
        cells.fault(own[most], f"column {SETS!r} differs from that of label {least!r}")
    return Family(tuple(said["present"]), tuple(said["open"]), counts[most])


def _space(path: Path | Stored, names: Sequence[str]) -> LabelSpace:
    try:
        return LabelSpace(tuple(names))
    except LabelsError as error:
        raise DataError(f"{path}:1: {error}") from error


def _without_apostrophe(text: str) -> str:
    """Undo `without_formula`."""
    is_escaped = text[:1] == "'" and without_formula(text[1:]) == text
    return text[1:] if is_escaped else text
