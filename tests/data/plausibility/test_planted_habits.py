"""Whole tables with one habit of other programs planted: read right, or told."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcrf.errors import MlcrfError
from tests.data.plausibility.making import NAMES, WRITERS, Writer, labels_of, read

LABELS = ["beach", "caf\u00e9", "sea", "sky"]
Truth = dict[str, list[str]]


@dataclass(frozen=True)
class Table:
    """A table with a habit.

    Attributes:
        told: words of which an error, a note or a fact must have one if the labels are not those
            meant; none if the table has to be read right.
    """

    header: list[str]
    rows: list[list[str]]
    told: tuple[str, ...] = ()


def listed(truth: Truth, write: Callable[[list[str]], str]) -> Table:
    return Table(["image", "labels"], [[name, write(own)] for name, own in truth.items()])


def valued(truth: Truth, present: str, absent: str, *told: str) -> Table:
    header = ["image", *LABELS]
    rows = [
        [name, *(present if label in own else absent for label in LABELS)]
        for name, own in truth.items()
    ]
    return Table(header, rows, told)


def with_column(truth: Truth, name: str, values: list[str], *told: str) -> Table:
    table = valued(truth, "1", "0")
    rows = [[*row, values[at % len(values)]] for at, row in enumerate(table.rows)]
    return Table([*table.header, name], rows, told)


def with_path(truth: Truth, change: Callable[[str], str]) -> Table:
    table = valued(truth, "1", "0")
    return Table(table.header, [[change(name), *cells] for name, *cells in table.rows])


def one_odd(truth: Truth, write: Callable[[list[str]], str], *told: str) -> Table:
    """Write the first row that lists several labels in another way than the others."""
    rows = []
    is_done = False
    for name, own in truth.items():
        is_odd = len(own) > 1 and not is_done
        rows.append([name, write(own) if is_odd else ", ".join(own) or "[]"])
        is_done |= is_odd
    return Table(["image", "labels"], rows, told)


def twice(truth: Truth, *, other: bool) -> Table:
    table = valued(truth, "1", "0")
    name, first, *rest = table.rows[0]
    last = [name, ("0" if first == "1" else "1") if other else first, *rest]
    return Table(table.header, [*table.rows, last], ("other labels",) if other else ())


def long(truth: Truth) -> Table:
    rows = [[name, label] for name, own in truth.items() for label in own]
    return Table(["image", "label"], rows, ("in one row", "no label"))


HABITS: dict[str, Callable[[Truth], Table]] = {
    # 1 and 11: values
    "no zero": lambda truth: valued(truth, "1", "", "--blank absent", "no label"),
    "minus one": lambda truth: valued(truth, "1", "-1", "--blank absent", "no label"),
    "yes and no": lambda truth: valued(truth, "yes", "no", "--true WORD --false WORD"),
    "true and false": lambda truth: valued(truth, "TRUE", "False"),
    "other words": lambda truth: valued(truth, "ja", "nein", "--true WORD --false WORD"),
    "crosses": lambda truth: valued(truth, "x", "", "--true WORD", "--ignore-columns"),
    "percentages": lambda truth: valued(truth, "100", "0", "--true NUMBER", "expected 1, 0"),
    # 2: cells that list labels
    "python": lambda truth: listed(truth, repr),
    "json": lambda truth: listed(truth, lambda own: json.dumps(own, ensure_ascii=False)),
    "numpy": lambda truth: listed(truth, lambda own: "[" + " ".join(map(repr, own)) + "]"),
    "tuple": lambda truth: listed(truth, lambda own: repr(tuple(own)) if own else "[]"),
    "set": lambda truth: listed(truth, lambda own: repr(set(own)) if own else "[]"),
    "choices": lambda truth: listed(truth, lambda own: json.dumps({"choices": own})),
    "quoted": lambda truth: listed(truth, lambda own: ", ".join(map(repr, own)) or "[]"),
    "bars": lambda truth: listed(truth, lambda own: " | ".join(own) or "[]"),
    "vectors": lambda truth: Table(
        ["image", "labels"],
        [[name, str([int(one in own) for one in LABELS])] for name, own in truth.items()],
        ("is a vector of 0 and 1",),
    ),
    # 3: one odd cell
    "one semicolon": lambda truth: one_odd(
        truth, "; ".join, "is split at", "semicolon in it", "stays within"
    ),
    "one bar": lambda truth: one_odd(truth, " | ".join, "is split at", "stays within"),
    "one list": lambda truth: one_odd(truth, repr),
    # 4: words for something else
    "spaces": lambda truth: Table(
        ["image", "labels"],
        [[name, " ".join(own) or "[]"] for name, own in truth.items()],
        ("--label-sep ' '", "each cell is one label"),
    ),
    "one nan": lambda truth: one_odd(truth, lambda _: "nan", "taken as unknown", "no label"),
    "one dash": lambda truth: one_odd(truth, lambda _: "-", "--accept missing-words"),
    # 5: columns of other kinds
    "split by another name": lambda truth: with_column(truth, "Subset", ["train", "test"]),
    "flags": lambda truth: with_column(truth, "is_valid", ["False", "True"]),
    "folds": lambda truth: with_column(truth, "fold", ["0", "1", "2"], "--split-column fold"),
    "ids": lambda truth: with_column(truth, "id", ["17", "23", "99"], "--ignore-columns id"),
    "captions": lambda truth: with_column(truth, "caption", ["A sea", "Two"], "--ignore-columns"),
    # 6: look-alikes
    "one capital": lambda truth: one_odd(
        truth, lambda own: ", ".join(one.title() for one in own), "--fold-case", "labels from"
    ),
    "one decomposed": lambda truth: one_odd(
        truth, lambda own: unicodedata.normalize("NFD", ", ".join(own))
    ),
    # 7: paths
    "images/": lambda truth: with_path(truth, "images/{}".format),
    "windows": lambda truth: with_path(truth, "D:\\old\\{}".format),
    "file://": lambda truth: with_path(truth, "file:///old/{}".format),
    "capitals": lambda truth: with_path(truth, str.upper),
    "no suffix": lambda truth: with_path(truth, lambda name: name.removesuffix(".jpg")),
    # 13: rows
    "twice": lambda truth: twice(truth, other=False),
    "twice with other labels": lambda truth: twice(truth, other=True),
    "one row per label": long,
}


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.sampled_from(LABELS), unique=True), min_size=len(NAMES), max_size=len(NAMES)
    ),
    st.sampled_from(sorted(HABITS)),
    st.sampled_from(WRITERS),
)
def check_habit(folder: Path, rows: list[list[str]], habit: str, make: Writer) -> None:
    truth = dict(zip(NAMES, rows, strict=True))
    table = HABITS[habit](truth)
    if not table.rows:
        return
    path = make(folder, table.header, table.rows)
    try:
        manifest = read(path)
    except MlcrfError as error:
        said = str(error)
        assert said.startswith(str(path))
        is_empty = not any(rows) and "no label" in said
        assert is_empty or any(word in said for word in table.told), said
        return
    meant = {name: set(own) for name, own in truth.items()}
    found = labels_of(manifest)
    if all(found.get(name, set()) == own for name, own in meant.items()):
        return
    said = " ".join((*manifest.notes, *manifest.facts))
    assert any(word in said for word in table.told), (found, said)


def test_a_planted_habit_is_read_right_or_told(folder: Path) -> None:
    """Drawn tables with any of the habits, in each format of tables."""
    check_habit(folder)


@pytest.mark.parametrize("habit", HABITS)
def test_each_habit_is_read_right_or_told(folder: Path, habit: str) -> None:
    """Each habit once, in a table where labels repeat."""
    rows = [["sea", "sky"], ["sea"], [], ["beach", "sky"], ["beach", "sea", "caf\u00e9"], ["sky"]]
    check_habit.hypothesis.inner_test(folder, rows, habit, WRITERS[0])
