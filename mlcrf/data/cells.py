"""Cells of tables: what one says of a label, and how a row of them is written as CSV."""

import csv
import math
import reprlib
from collections.abc import Iterable, Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from mlcrf.labels import UNKNOWN

INVALID = -2

_TEXT_CODES = {
    **{"": UNKNOWN, "?": UNKNOWN, "-1": UNKNOWN, "-1.0": UNKNOWN},
    **{"0": 0, "0.0": 0, "false": 0},
    **{"1": 1, "1.0": 1, "true": 1},
}
# True, 1 and 1.0 are one key, and so are False, 0 and 0.0.
_NUMBER_CODES: dict[float, int] = {-1: UNKNOWN, 0: 0, 1: 1}


_FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"  # also as wide as an ideograph, in Japanese Excel


def cell_codes(cells: Sequence[object]) -> NDArray[np.int8]:
    """1 present, 0 absent, -1 unknown, -2 neither of these, for each cell (N,).

    Cost: O(N), and the work of reading a cell only once for each distinct one.
    """
    try:
        codes = {cell: cell_code(cell) for cell in set(cells)}
    except TypeError:  # lists, of JSON or Parquet, cannot be looked up
        return np.array([cell_code(cell) for cell in cells], dtype=np.int8)
    return np.array([codes[cell] for cell in cells], dtype=np.int8)


def cell_code(cell: object) -> int:
    """1 for 1, 1.0 and true; 0 likewise; -1 for an empty cell, ? and -1; -2 for all else."""
    if cell is None:
        return UNKNOWN
    if isinstance(cell, str):
        return _TEXT_CODES.get(cell.strip().lower(), INVALID)
    if isinstance(cell, float) and math.isnan(cell):
        return UNKNOWN
    return _NUMBER_CODES.get(cell, INVALID) if isinstance(cell, int | float) else INVALID


def shown_cell(cell: object) -> str:
    """Shorten a cell for a message: the start of a text, a few values of a list."""
    return repr((cell if isinstance(cell, str) else reprlib.repr(cell))[:40])


def without_formula(text: str) -> str:
    """Escape a text that a spreadsheet might take for a formula, by an apostrophe before it.

    Source: the OWASP page on CSV injection.
    """
    risky = text.lstrip()[:1] in _FORMULA_SIGNS or text[:1] in "\t\r\n"
    return f"'{text}" if text and risky else text


def write_csv_row(stream: TextIO, cells: Iterable[object]) -> None:
    """Write a row with a line feed at its end, so that it is read back as it is.

    Python before 3.13 leaves a lone carriage return without quotes, at which readers begin a row.
    """
    row = list(cells)
    odd = any("\r" in cell for cell in row if isinstance(cell, str))
    if odd:
        csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(row)
    else:
        csv.writer(stream, lineterminator="\n").writerow(row)
