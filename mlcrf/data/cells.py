"""Cells of tables: convert them to label codes, and write rows of them as CSV."""

import csv
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from mlcrf.labels import UNKNOWN

INVALID = -2  # a cell that is neither present, absent nor unknown

MISSING_TEXTS = frozenset({"nan", "null", "n/a", "na", "<na>", "#n/a"})  # by other programs
_TEXT_CODES = {
    **{"": UNKNOWN, "?": UNKNOWN},
    **dict.fromkeys(MISSING_TEXTS | {"none"}, UNKNOWN),
    **{"false": 0, "true": 1},
}
_DIGIT = re.compile(r"-?\d(\.0+)?")  # 1, 1.00, and the full-width digits of Japanese keyboards
# True, 1 and 1.0 are one key, and so are False, 0 and 0.0.
_NUMBER_CODES: dict[float, int] = {-1: UNKNOWN, 0: 0, 1: 1}


_FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"  # full-width forms count in Japanese Excel


def cell_codes(cells: Sequence[object], words: Mapping[str, int] | None = None) -> NDArray[np.int8]:
    """Return 1 present, 0 absent, -1 unknown or -2 invalid for each cell (N,).

    Args:
        words: codes of further texts in lower case, which override the usual ones; "" is the code
            of a cell without a value.

    Cost: O(N); each distinct cell is parsed once.
    """
    try:
        codes = {cell: cell_code(cell, words) for cell in set(cells)}
    except TypeError:  # lists, of JSON or Parquet, cannot be looked up
        return np.array([cell_code(cell, words) for cell in cells], dtype=np.int8)
    return np.array([codes[cell] for cell in cells], dtype=np.int8)


def cell_code(cell: object, words: Mapping[str, int] | None = None) -> int:
    """Return 1 for 1, 1.0 and true; 0 likewise; -1 for an empty cell, ? and -1; else -2."""
    words = words or {}
    if cell is None:
        return words.get("", UNKNOWN)
    if isinstance(cell, str):
        text = cell.strip().lower()
        if text in words:
            return words[text]
        if _DIGIT.fullmatch(text):
            return _NUMBER_CODES.get(float(text), INVALID)
        return _TEXT_CODES.get(text, INVALID)
    if isinstance(cell, float) and math.isnan(cell):
        return words.get("", UNKNOWN)
    return _NUMBER_CODES.get(cell, INVALID) if isinstance(cell, int | float) else INVALID


def read_number(cell: object) -> float:
    """Return the number in a cell; `1_000` is none, though Python reads it.

    Raises:
        TypeError, ValueError, OverflowError: there is no number in it.
    """
    if isinstance(cell, str) and "_" in cell:
        raise ValueError(f"an underscore in {shown_cell(cell)}")
    return float(cell)  # type: ignore[arg-type]


def shown_cell(cell: object) -> str:
    """Shorten a cell for a message."""
    text = str(cell) if isinstance(cell, str | date | time) else reprlib.repr(cell)
    return repr(text[:40])


def without_formula(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet might take for a formula.

    Source: the OWASP page on CSV injection.
    """
    risky = text.lstrip()[:1] in _FORMULA_SIGNS or text[:1] in "\t\r\n"
    return f"'{text}" if text and risky else text


def write_csv_row(stream: TextIO, cells: Iterable[object]) -> None:
    """Write a row that ends in a line feed and is read back unchanged.

    Python before 3.13 does not quote a lone carriage return, which readers take for a line end.
    """
    row = list(cells)
    odd = any("\r" in cell for cell in row if isinstance(cell, str))
    if odd:
        csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(row)
    else:
        csv.writer(stream, lineterminator="\n").writerow(row)
