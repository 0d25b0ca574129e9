"""Find the purpose of each column of a table: image, split, labels, or ignored."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.cells import INVALID, cell_codes
from mlcrf.data.manifest import SPLIT_COLUMN
from mlcrf.data.table_files import IMAGE_COLUMNS, Records
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN

LIST_COLUMNS = ("labels", "tags", "label")
SCORE_PREFIXES = ("p:", "independent:")


@dataclass(frozen=True)
class Columns:
    """The columns of a table by purpose.

    Attributes:
        image: the column of image paths.
        listed: the column that lists the labels of each image, or None.
        valued: label column -> codes of its cells (N,); empty if `listed` is set.
        ignored: columns that are not used.
    """

    image: str
    listed: str | None
    valued: dict[str, NDArray[np.int8]]
    ignored: tuple[str, ...]


def sort_columns(records: Records) -> Columns:
    """Sort the columns by name, and by whether their cells are 0, 1 or unknown; see `read_table`.

    Raises:
        DataError: no image column, no label column, or a list of labels beside columns that
            could be labels too.
    """
    path, cells = records.path, records.columns
    image = next((name for name in IMAGE_COLUMNS if name in cells), None)
    if image is None:
        raise DataError(
            f"has no image column; found {_names(cells)}. "
            f"Name the column of the paths one of: {', '.join(IMAGE_COLUMNS)}.",
            path,
            1,
        )
    scores = [name for name in cells if name.startswith(SCORE_PREFIXES)]
    others = [name for name in cells if name not in {image, SPLIT_COLUMN, *scores}]
    codes = {name: cell_codes(cells[name]) for name in others}
    more_paths = [
        name
        for name in IMAGE_COLUMNS
        if name in others and (codes[name] == INVALID).any() and not (codes[name] >= 0).any()
    ]
    others = [name for name in others if name not in more_paths]
    ignored = (*more_paths, *scores)
    if not others:
        raise DataError(
            f"has no label column; found {_names(cells)}. Add a column of 0 and 1 "
            "per label, or a column `labels` with a list of them.",
            path,
            1,
        )
    listed = [name for name in LIST_COLUMNS if name in others and (codes[name] == INVALID).any()]
    if others[0] in LIST_COLUMNS and len(others) == 1 and (codes[others[0]] == UNKNOWN).all():
        listed = others
    if not listed:
        return Columns(image, None, {name: codes[name] for name in others}, ignored)
    decided = [
        name for name in others if (codes[name] >= 0).any() and not (codes[name] == INVALID).any()
    ]
    if len(listed) > 1 or decided:
        raise DataError(
            f"column {listed[0]!r} lists labels and {_names([*listed[1:], *decided])} "
            "could be labels too; keep the list or the other columns, not both",
            path,
            1,
        )
    rest = [name for name in others if name != listed[0]]
    return Columns(image, listed[0], {}, (*rest, *ignored))


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:10])
