"""Labels of a list column of a table: each cell lists those of one image."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Blank
from mlcrf.data.columns import ABSTAINED
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.table_files import Records
from mlcrf.data.tags import Separator, Tags, clean_tags, find_separator, parse_tags, unknown_tags
from mlcrf.hints import counted
from mlcrf.labels import UNKNOWN, LabelSpace

_MOST_NAMED = 3  # names of the column `abstained` that are no labels


@dataclass(frozen=True)
class ListedTags:
    """The labels of a list column, row by row, and how its cells were understood.

    Attributes:
        tags: of each row (N,).
        facts, notes: how the cells were understood, and what of it is in doubt, in words.
        single: whether no row has more than one label.
        separator: the sign between labels; None if each cell is one label.
    """

    tags: list[Tags]
    facts: list[str]
    notes: list[str]
    single: bool
    separator: str | None


def read_listed_tags(
    records: Records, column: str, options: ReadOptions, problems: Problems
) -> ListedTags:
    """Read the tags of each row; report cells that are no list, and labels that are not expected.

    The separator is `options.label_sep`, else the sign by which labels repeat most.
    """
    cells = records.columns[column]
    found = find_separator(cells)
    separator = options.label_sep or found.sign
    tags: list[Tags] = []
    wrong: dict[int, str] = {}
    for row, cell in enumerate(cells):
        try:
            tags.append(parse_tags(cell, separator))
        except ValueError as error:
            wrong[row] = str(error)
            tags.append(None)
    if len(wrong) > len(cells) / 2 and len(wrong) > 2:  # the column is of another kind
        row, reason = next(iter(wrong.items()))
        wrong = {row: f"{reason} ({counted(len(wrong), 'row')})"}
    for row, reason in wrong.items():
        records.fault(problems, row, f"column {column!r}: {reason}")
    notes = []
    if options.label_sep is None and found.others:
        notes += _split_odd_cells(records, column, tags, found)
    if options.labels is not None:
        for row, one in enumerate(tags):
            for message in unknown_tags(one or frozenset(), options.labels):
                records.fault(problems, row, message)
    unknown = [row for row, one in enumerate(tags) if one is None and cells[row] is not None]
    if options.blank is Blank.ABSENT:
        tags = [frozenset() if names is None else names for names in tags]
    elif unknown:
        texts = sorted({str(cells[row]).strip() for row in unknown})
        what = "empty" if texts == [""] else f"{', '.join(map(repr, texts[:3]))}"
        notes.append(
            f"{len(unknown)} cells of column {column!r} ({what}) are taken as unknown; "
            "write [] for an image without labels, or use --blank absent"
        )
    facts = [f"labels from column {column!r}"]
    if separator is not None:
        facts[0] += f", separated by {separator!r} ({found.cells} of {counted(len(cells), 'row')})"
    elif any(" " in name for names in tags for name in names or ()):
        notes.append(
            f"column {column!r} has no separator but spaces: each cell is one label; if spaces "
            "separate labels, use --label-sep ' '"
        )
    single = all(names is None or len(names) <= 1 for names in tags)
    return ListedTags(tags, facts, notes, single, separator)


def _split_odd_cells(
    records: Records, column: str, tags: list[Tags], found: Separator
) -> list[str]:
    """Split labels that contain another separator, where it gives labels of other rows, in place.

    Returns:
        A note for each such row, up to three, and for labels that keep the sign.
    """
    known = {name for names in tags for name in names or ()}
    kept: list[str] = []
    rows: list[str] = []
    for row, names in enumerate(tags):
        for name in names or ():
            signs = [sign for sign in found.others if sign in name]
            for sign in signs:
                parts = clean_tags(name.split(sign))
                if parts <= known - {name}:
                    tags[row] = ((tags[row] or frozenset()) - {name}) | parts
                    rows.append(f"{records.place(row)}: {name!r} is split at {sign!r}")
                    break
            else:
                kept += [name] if signs else []
    notes = [f"column {column!r}: {text}, though {found.sign!r} separates" for text in rows[:3]]
    if len(rows) > 3:
        notes.append(f"column {column!r}: {len(rows) - 3} more cells are split at another sign")
    if kept:
        others = " and ".join(map(repr, found.others))
        notes.append(
            f"column {column!r}: {found.sign!r} separates labels, and {others} stays within "
            f"{len(kept)} labels such as {kept[0][:40]!r}; --label-sep chooses another"
        )
    return notes


def leave_open(
    records: Records,
    listed: ListedTags,
    space: LabelSpace,
    targets: NDArray[np.int8],
    problems: Problems,
) -> tuple[list[str], list[str]]:
    """Make labels unknown that a row leaves open, in place.

    Returns:
        What was done, and what could not be, in words.
    """
    column = {name: place for place, name in enumerate(space)}
    number = 0
    lost: Counter[str] = Counter()
    # labels may be one in each row, and those left open several
    separator = listed.separator or find_separator(records.columns[ABSTAINED]).sign
    for row, cell in enumerate(records.columns[ABSTAINED]):
        try:
            names = parse_tags(cell, separator) or frozenset()
        except ValueError as error:
            records.fault(problems, row, f"column {ABSTAINED!r}: {error}")
            continue
        if both := sorted(names & (listed.tags[row] or frozenset())):
            records.fault(problems, row, f"label {both[0]!r} is listed, and left open too")
        places = [column[name] for name in names if name in column]
        targets[row, places] = UNKNOWN
        number += len(places)
        lost.update(sorted(name for name in names if name not in column))
    notes = [
        f"column {ABSTAINED!r} leaves {name!r} open, which is not a label here; rows: {count}"
        for name, count in lost.most_common(_MOST_NAMED)
    ]
    if len(lost) > _MOST_NAMED:
        notes.append(f"column {ABSTAINED!r}: {len(lost) - _MOST_NAMED} more such names")
    return [f"labels left open by column {ABSTAINED!r} are unknown: {number}"], notes
