"""Faults are gathered, put in the order of their lines, and cut at a limit."""

from pathlib import Path

import pytest

from mlcrf.data.problems import Problems
from mlcrf.errors import DataError

TABLE = Path("t.csv")


def test_no_problem_raises_nothing() -> None:
    """A data set without faults is read on."""
    problems = Problems()
    problems.raise_if_any()
    assert problems.found == []
    assert problems.shown == []


def test_problems_come_by_line_within_a_file() -> None:
    """Faults found column by column are told line by line, the file as a whole first."""
    problems = Problems()
    problems.add(TABLE, "late", line=9)
    problems.add(Path("other.csv"), "elsewhere", line=1)
    problems.add(TABLE, "early", line=2)
    problems.add(TABLE, "all of it")
    assert problems.shown == [
        "t.csv: all of it",
        "t.csv:2: early",
        "t.csv:9: late",
        "other.csv:1: elsewhere",
    ]


def test_problems_over_the_limit_are_counted() -> None:
    """Up to the limit faults are listed, and the rest is a number."""
    problems = Problems(limit=2)
    for line in range(2, 7):
        problems.add(TABLE, "wrong", line=line)
    with pytest.raises(DataError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "t.csv:2: wrong",
        "t.csv:3: wrong",
        "... and 3 more problems",
    ]


@pytest.mark.parametrize(("found", "told"), [(2, False), (3, True)])
def test_the_limit_itself_is_not_cut(found: int, *, told: bool) -> None:
    """Exactly as many faults as the limit are all shown, without a count of more."""
    problems = Problems(limit=2)
    for line in range(1, found + 1):
        problems.add(TABLE, "wrong", line=line)
    with pytest.raises(DataError) as caught:
        problems.raise_if_any()
    assert ("... and 1 more problem" in str(caught.value)) is told
