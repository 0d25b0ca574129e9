"""Load files of label pairs: chosen couplings."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mlcrf.errors import DataError, LabelsError
from mlcrf.labels import LabelSpace

ARROW = "=>"


def load_pairs(
    path: Path, labels: LabelSpace, header: tuple[str, str], *, directed: bool
) -> dict[tuple[int, int], int]:
    """Load a CSV file with two label names per line.

    A first line that is the header, and blank lines, are skipped.

    Args:
        directed: whether order matters, and `a => b` is accepted for `a,b`; else pairs are
            returned as i < j.

    Returns:
        Label columns of each pair -> its line, in the order of the file.

    Raises:
        DataError: no such file, not UTF-8, a line without exactly two names, or no pair at all.
        LabelsError: an unknown label, a label paired with itself, or a duplicate pair.
    """
    index = {name: at for at, name in enumerate(labels)}
    found: dict[tuple[int, int], int] = {}
    for line, names in load_rows(path, header, arrow=directed):
        try:
            first, second = (
                index[name] if name in index else labels.index(name)  # which names the closest
                for name in names
            )
        except LabelsError as error:
            raise LabelsError(f"{path}:{line}: {error}") from error
        if first == second:
            raise LabelsError(f"{path}:{line}: label {names[0]!r} is paired with itself")
        pair = (first, second) if directed else (min(first, second), max(first, second))
        if pair in found:
            raise LabelsError(
                f"{path}:{line}: the pair {names[0]!r}, {names[1]!r} is on line "
                f"{found[pair]} already; keep one of them"
            )
        found[pair] = line
    if not found:
        example = "`dog,animal`" if directed else "`sea,sky`"
        raise DataError(f"contains no label pair; expected lines such as {example}", path)
    return found


def load_rows(
    path: Path, header: tuple[str, str], *, arrow: bool = False
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield line number and both names from a CSV file with two names per line.

    A first line that is the header, and blank lines, are skipped.

    Args:
        arrow: whether `a => b` is accepted for `a,b`.

    Raises:
        DataError: no such file, not UTF-8, or a line without exactly two names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("cannot read label pairs: not UTF-8 text", path) from error
    except (OSError, ValueError) as error:  # a ValueError if no file can have this name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read label pairs: {reason}", path) from error
    reader = csv.reader(text.splitlines(), strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"invalid CSV: {error}", path, reader.line_num) from error
    for at, (line, cells) in enumerate(rows):
        names = cells
        if arrow and len(cells) == 1:
            names = [name.strip() for name in cells[0].split(ARROW)]
        if not any(names) or (at == 0 and tuple(names) == header):
            continue
        if len(names) != 2:
            separator = f"a comma or {ARROW}" if arrow else "a comma"
            raise DataError(
                f"expected two label names separated by {separator}, "
                f"got {len(names)}: {','.join(cells)!r}",
                path,
                line,
            )
        yield line, (names[0], names[1])
