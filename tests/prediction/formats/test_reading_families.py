"""Families of label sets come back from every kind of table as they were written."""

from pathlib import Path

import pytest

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Prediction, PredictionWriter, choose_format, read_predictions
from mlcrf.prediction.record import MOST_SETS, Family

LABELS = LabelSpace(("sea", "=1+1", "naïve"))
FAMILIES = (
    Family(("sea",), ("=1+1", "naïve"), 3),
    Family((), (), 1),
    Family((), LABELS.names, 2**53 + 1),  # which no float holds
    Family(("=1+1",), ("naïve",), MOST_SETS),
    None,
)


@pytest.mark.parametrize("tidy", [False, True])
@pytest.mark.parametrize("ending", ["safe.csv", "csv", "jsonl", "parquet"])
def test_they_come_back(tmp_path: Path, ending: str, *, tidy: bool) -> None:
    path = tmp_path / f"tags.{ending}"
    write(path, tidy=tidy, safe=ending.startswith("safe"))
    table = read_predictions(path)
    assert table.families
    assert tuple(one.family for one in table) == FAMILIES
    assert [one.labels for one in table] == [("sea",)] * len(FAMILIES)


def write(path: Path, *, tidy: bool = False, safe: bool = False) -> None:
    output = choose_format(None, tidy=tidy, excel_safe=safe, families=True)
    with PredictionWriter(path, LABELS, output=output) as writer:
        for at, family in enumerate(FAMILIES):
            image = as_image(f"{at}.jpg")
            writer.write(Prediction(image, ("sea",), (0.75, 0.5, 0.25), (0.5,) * 3, family=family))


@pytest.mark.parametrize(
    ("tidy", "before", "after", "message"),
    [
        (False, "naïve,3", "naïve,x", ":2: column 'sets' is 'x'; expected a whole number from 1"),
        (False, "naïve,3", "naïve,0", ":2: column 'sets' is '0'; expected a whole number from 1"),
        (False, "naïve,3", "naïve,2.5", ":2: column 'sets' is '2.5'; expected a whole number"),
        (False, ",=1+1;naïve,3", ",sae,3", ":2: unknown label 'sae'; did you mean 'sea'"),
        (False, ",=1+1;naïve,3", ",sea,3", ":2: label 'sea' is in 'surely' and in 'open'"),
        (True, "present,3", "here,3", ":2: column 'family' is 'here'; expected present, open, abs"),
        (True, "present,3", "present,4", ":2: column 'sets' differs from that of label '=1.1'"),
        (True, "present,3", "present,-3", ":2: column 'sets' is '-3'; expected a whole number"),
    ],
)
def test_damage(tmp_path: Path, before: str, after: str, message: str, *, tidy: bool) -> None:
    path = tmp_path / "tags.csv"
    write(path, tidy=tidy)
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_table_that_lost_a_column_has_none(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    write(path)
    lines = [line.rpartition(",")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines), encoding="utf-8")
    table = read_predictions(path)
    assert not table.families and [one.family for one in table] == [None] * len(FAMILIES)
