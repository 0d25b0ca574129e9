"""Load files of names that mean the same label in different tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import did_you_mean
from mlcrf.labels import LabelSpace, composed

_EXPECTED = "expected `beach = seaside = strand`, or `tags.csv, strand => beach` for one table"

Renaming = dict[str, dict[str, str]]  # table -> its label -> the name that it gets


@dataclass(frozen=True)
class _Entry:
    """A line of the file: labels of one table, or of all, and the name that they get."""

    line: int
    table: str | None
    labels: tuple[str, ...]
    name: str


def load_label_map(path: Path, tables: Mapping[str, LabelSpace]) -> Renaming:
    """Load names that mean the same, one label per line.

    `beach = seaside = strand` calls all three `beach`, in every table; the first name may be new.
    `tags.csv, strand => beach` renames a label of one table, which is named as on the command line
    or by its file name. Blank lines are skipped.

    Args:
        tables: the labels of each table.

    Returns:
        Of each table its labels with another name.

    Raises:
        DataError: no such file, not UTF-8, or a line of another form.
        LabelsError: a name that is no label, that is on two lines, or that gives two labels of a
            table one name; with the line.
    """
    entries = list(_entries(path, tables))
    if not entries:
        raise DataError(f"contains no names; {_EXPECTED}", path)
    renaming: Renaming = {table: {} for table in tables}
    line_of: dict[tuple[str, str], int] = {}
    for entry in entries:
        _check_labels(path, entry, tables)
        _check_circle(path, entry, entries)
        for table in [entry.table] if entry.table else tables:
            for label in entry.labels:
                if (table, label) in line_of:
                    raise LabelsError(
                        f"{path}:{entry.line}: {label!r} is on line {line_of[table, label]} "
                        "already; write all names that mean the same on one line"
                    )
                line_of[table, label] = entry.line
                if label in tables[table].names and label != entry.name:
                    renaming[table][label] = entry.name
    for table, renamed in renaming.items():
        _check_distinct(path, table, tables[table], renamed, line_of)
    return renaming


def find_table(text: str, tables: Mapping[str, object]) -> str | None:
    """Return the table with this name: as it was given, or its file name, if only one has it."""
    if text in tables:
        return text
    found = [name for name in tables if text in (Path(name).name, Path(name).stem)]
    return found[0] if len(found) == 1 else None


def _entries(path: Path, tables: Mapping[str, LabelSpace]) -> Iterator[_Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("cannot read names: not UTF-8 text", path) from error
    except (OSError, ValueError) as error:  # a ValueError if no file can have this name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read names: {reason}", path) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        given, arrow, name = line.partition("=>")
        table = None
        if arrow:
            place, comma, label = given.partition(",")
            names = [composed(name), composed(label)]
            if comma:
                table = find_table(place.strip(), tables)
                if table is None:
                    hint = did_you_mean(place.strip(), tables)
                    raise DataError(
                        f"{place.strip()!r} is none of the tables, or several have this name{hint}",
                        path,
                        number,
                    )
        else:
            names = [composed(one) for one in line.split("=")]
        if len(names) < 2 or not all(names) or (arrow and table is None):
            raise DataError(f"{_EXPECTED}; got {line.strip()!r}", path, number)
        try:
            LabelSpace(tuple(dict.fromkeys(names)))
        except LabelsError as error:
            raise LabelsError(f"{path}:{number}: {error}") from error
        labels = names[1:] if arrow else names
        yield _Entry(number, table, tuple(dict.fromkeys(labels)), names[0])


def _check_labels(path: Path, entry: _Entry, tables: Mapping[str, LabelSpace]) -> None:
    """Require that each name but the one that stays is a label."""
    which = "no table" if entry.table is None else entry.table
    known = {
        label
        for table, labels in tables.items()
        for label in labels
        if entry.table in (None, table)
    }
    for label in entry.labels:
        if label not in known and label != entry.name:
            has = "has" if entry.table is None else "does not have"
            raise LabelsError(
                f"{path}:{entry.line}: {which} {has} the label {label!r}"
                f"{did_you_mean(label, known)}"
            )


def _check_circle(path: Path, entry: _Entry, entries: list[_Entry]) -> None:
    """Require that the name that labels get is not renamed itself, in a circle or a chain."""
    for other in entries:
        if entry.name in other.labels and other.name != entry.name:
            raise LabelsError(
                f"{path}:{max(entry.line, other.line)}: {entry.name!r} is what line {entry.line} "
                f"renames to, and line {other.line} calls it {other.name!r}; write all names that "
                "mean the same on one line"
            )


def _check_distinct(
    path: Path,
    table: str,
    labels: LabelSpace,
    renamed: Mapping[str, str],
    line_of: Mapping[tuple[str, str], int],
) -> None:
    """Require that no two labels of a table get one name."""
    first: dict[str, str] = {}
    for label in labels:
        name = renamed.get(label, label)
        before = first.setdefault(name, label)
        if before != label:
            line = max(line_of.get((table, one), 0) for one in (before, label))
            raise LabelsError(
                f"{path}:{line}: {table} has both {before!r} and {label!r}, and both would be "
                f"{name!r}; keep two names, or leave out a column by --ignore-columns"
            )
