"""Load files of label pairs: chosen couplings."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mlcrf.errors import DataError, LabelsError
from mlcrf.labels import LabelSpace


def load_pairs(
    path: Path, labels: LabelSpace, header: tuple[str, str]
) -> dict[tuple[int, int], int]:
    """Load a CSV file with two label names per line.

    A first line that is the header, and blank lines, are skipped.

    Returns:
        Label columns i < j of each pair -> its line, in the order of the file.

    Raises:
        DataError: no such file, not UTF-8, a line without exactly two names, or no pair at all.
        LabelsError: an unknown label, a label paired with itself, or a duplicate pair.
    """
    index = {name: at for at, name in enumerate(labels)}
    found: dict[tuple[int, int], int] = {}
    for line, names in load_rows(path, header):
        try:
            first, second = (
                index[name] if name in index else labels.index(name)  # which names the closest
                for name in names
            )
        except LabelsError as error:
            raise LabelsError(f"{path}:{line}: {error}") from error
        if first == second:
            raise LabelsError(f"{path}:{line}: label {names[0]!r} is paired with itself")
        pair = (min(first, second), max(first, second))
        if pair in found:
            raise LabelsError(
                f"{path}:{line}: the pair {names[0]!r}, {names[1]!r} is on line "
                f"{found[pair]} already; keep one of them"
            )
        found[pair] = line
    if not found:
        raise DataError("contains no label pair; expected lines such as `sea,sky`", path)
    return found


def load_rows(path: Path, header: tuple[str, str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield line number and both names from a CSV file with two names per line.

    A first line that is the header, and blank lines, are skipped.

    Raises:
        DataError: no such file, not UTF-8, or a line without exactly two names.
    """
    reader = csv.reader(load_lines(path, "label pairs"), strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"invalid CSV: {error}", path, reader.line_num) from error
    for at, (line, cells) in enumerate(rows):
        if not any(cells) or (at == 0 and tuple(cells) == header):
            continue
        if len(cells) != 2:
            raise DataError(
                "expected two label names separated by a comma, "
                f"got {len(cells)}: {','.join(cells)!r}",
                path,
                line,
            )
        yield line, (cells[0], cells[1])


def load_lines(path: Path, content: str) -> list[str]:
    """Load the lines of a UTF-8 file; `content` says in messages what it should hold.

    Raises:
        DataError: no such file, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {content}: not UTF-8 text", path) from error
    except (OSError, ValueError) as error:  # a ValueError if no file can have this name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {content}: {reason}", path) from error
