"""Columns: their purposes and their values, by other names and in other words."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from mlcrf.choices import Blank
from mlcrf.data.manifest import Split
from mlcrf.errors import DataError, SettingsError
from tests.data.plausibility.making import NAMES, WRITERS, Writer, cells, make_csv, read


@pytest.mark.parametrize("make", WRITERS)
def test_no_zero_anywhere(folder: Path, make: Writer) -> None:
    """A table of 1 and blank is refused until --blank says what a blank means."""
    rows = [[name, *(("1", "") if at % 2 else ("", "1"))] for at, name in enumerate(NAMES)]
    path = make(folder, ["image", "sea", "sky"], rows)
    with pytest.raises(DataError, match="--blank absent"):
        read(path)
    manifest = read(path, blank=Blank.ABSENT)
    sea, sky = (manifest.targets[:, manifest.labels.index(name)] for name in ("sea", "sky"))
    assert sea.tolist() == [0, 1] * 3 and sky.tolist() == [1, 0] * 3
    assert (read(path, blank=Blank.UNKNOWN).targets != 0).all()


@pytest.mark.parametrize(
    ("present", "absent"),
    [
        *(("yes", "no"), ("Yes", "No"), ("y", "n"), ("t", "f"), ("T", "F"), ("True", "False")),
        *(("present", "absent"), ("on", "off"), ("1.0", "0.0")),
    ],
)
def test_english_words_for_values(folder: Path, present: str, absent: str) -> None:
    """A pair of words is read where both occur."""
    manifest = read(make_csv(folder, ["image", "sea"], cells(present, absent)))
    assert manifest.targets.tolist() == [[1], [0]] * 3


@pytest.mark.parametrize(("present", "absent"), [("ja", "nein"), ("oui", "non"), ("x", "o")])
def test_other_words_for_values(folder: Path, present: str, absent: str) -> None:
    """Refused in one line a column, and read once they are named."""
    path = make_csv(folder, ["image", "sea"], cells(present, absent))
    with pytest.raises(DataError, match="--true WORD --false WORD") as caught:
        read(path)
    assert str(caught.value).count("\n") == 0
    manifest = read(path, true_words=(present,), false_words=(absent, "never"), blank=Blank.ABSENT)
    assert manifest.targets.tolist() == [[1], [0]] * 3
    assert manifest.facts == (f"cells read: {present!r} as 1, {absent!r} as 0",)  # what is there
    with pytest.raises(SettingsError, match=f"--true {present} --false {present}: a word has one"):
        read(path, true_words=(present,), false_words=(present,))


def test_dates_are_no_words(tmp_path: Path) -> None:
    """They are shown as dates, and are not to be named as words for 1 and 0."""
    frame = pd.DataFrame({"x": range(4), "sea": [1, 0, 0, 1], "day": pd.Timestamp("2020-01-01")})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'day' contains no 0 or 1, but .* '2020-01-01 00:00:00'"):
        read(tmp_path / "t.parquet", features=("x",))


SPLITS = {
    "Split": (["train", "test"], [Split.TRAIN, Split.TEST]),
    "subset": (["training", "testing"], [Split.TRAIN, Split.TEST]),
    "partition": (["Train", "Valid"], [Split.TRAIN, Split.VALIDATION]),
    "phase": (["train", "val"], [Split.TRAIN, Split.VALIDATION]),
    "anything": (["train", "test"], [Split.TRAIN, Split.TEST]),
    "is_valid": (["False", "True"], [Split.TRAIN, Split.VALIDATION]),
    "is_test": (["0", "1"], [Split.TRAIN, Split.TEST]),
    "is_train": (["1", "0"], [Split.TRAIN, Split.TEST]),
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", SPLITS)
def test_split_columns_by_other_names(folder: Path, name: str, listed: bool) -> None:
    """Used where the meaning is beyond doubt, and never a label."""
    values, expected = SPLITS[name]
    rows = [
        [image, ("sea" if listed else "01"[at // 2 % 2]), values[at % 2]]
        for at, image in enumerate(NAMES)
    ]
    manifest = read(make_csv(folder, ["image", "labels" if listed else "sea", name], rows))
    assert manifest.labels.names == ("sea",)
    assert manifest.splits is not None
    assert list(manifest.splits[:2]) == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [("fold", "0123"), ("set", "ab"), ("Split", "01"), ("kfold", "12"), ("usage", ["a", "b"])],
)
def test_doubtful_split_columns(folder: Path, name: str, values: Sequence[str]) -> None:
    """Refused until an option says what they are."""
    rows = [[image, "01"[at % 2], values[at % len(values)]] for at, image in enumerate(NAMES)]
    path = make_csv(folder, ["image", "sea", name], rows)
    with pytest.raises(DataError, match=f"--split-column {name}"):
        read(path)
    assert read(path, ignore_columns=(name,)).labels.names == ("sea",)


def test_a_second_split_column_is_no_label(folder: Path) -> None:
    """Beside `split`, or the column that was named, another one is refused until it is left out."""
    rows = [
        [image, "01"[at // 2 % 2], ("train", "test")[at % 2], "01"[at % 2]]
        for at, image in enumerate(NAMES)
    ]
    for name, options in (("split", {}), ("part", {"split_column": "part"})):
        path = make_csv(folder, ["image", "sea", name, "is_valid"], rows)
        with pytest.raises(DataError, match="--ignore-columns is_valid"):
            read(path, **options)
        manifest = read(path, ignore_columns=("is_valid",), **options)
        assert manifest.labels.names == ("sea",)
        assert manifest.splits == (Split.TRAIN, Split.TEST) * 3


@pytest.mark.parametrize(
    ("name", "values"),
    [("id", "213456"), ("count", "253545"), ("score", ["0.2", "0.7"]), ("year", ["1999", "2001"])],
)
def test_columns_of_numbers(folder: Path, name: str, values: Sequence[str]) -> None:
    """One line a column, with the option that leaves it out."""
    rows = [[values[at % len(values)], image, "01"[at % 2]] for at, image in enumerate(NAMES)]
    path = make_csv(folder, [name, "image", "sea"], rows)
    with pytest.raises(DataError, match=f"--ignore-columns {name}") as caught:
        read(path)
    assert str(caught.value).count("\n") == 0
    assert read(path, ignore_columns=(name,)).labels.names == ("sea",)


@pytest.mark.parametrize("option", ["label_columns", "ignore_columns"])
def test_named_columns_exist(folder: Path, option: str) -> None:
    """A name that is no column is refused."""
    path = make_csv(folder, ["image", "sea"], cells("1", "0"))
    with pytest.raises(DataError, match="no column 'see'"):
        read(path, **{option: ("see",)})
