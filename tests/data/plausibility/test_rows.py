"""Rows: one per label, rows that stand twice, and what is said of all of them."""

from pathlib import Path

import pytest

from mlcrf.data.plausibility import summarise
from mlcrf.errors import DataError
from tests.data.plausibility.making import NAMES, cells, make_csv, read


def test_a_line_that_declares_the_separator(folder: Path) -> None:
    """`sep=;` is skipped, and lines are still counted from it."""
    text = "sep=;\nimage;sea\n00.jpg;1\n01.jpg;0\ngone.jpg;1\n"
    (folder / "s.csv").write_text(text.replace("gone.jpg", "02.jpg"))
    assert read(folder / "s.csv").targets.tolist() == [[1], [0], [1]]
    (folder / "s.csv").write_text(text)
    with pytest.raises(DataError, match=r"s\.csv:5: missing image 'gone\.jpg'"):
        read(folder / "s.csv")


def test_one_row_per_label(folder: Path) -> None:
    """The labels of all rows of an image are its labels."""
    rows = [[name, label] for name in NAMES[:4] for label in ("sea", "sky")] + [[NAMES[4], "sea"]]
    manifest = read(make_csv(folder, ["image", "label"], rows))
    assert manifest.targets.tolist() == [[1, 1]] * 4 + [[1, 0]]
    assert "one row per label: 9 rows" in manifest.facts


def test_rows_that_stand_twice(folder: Path) -> None:
    """With the same labels one row and a note; with others an error that names both lines."""
    rows = cells("1", "0")
    manifest = read(make_csv(folder, ["image", "sea"], [*rows, rows[0]]))
    assert len(manifest) == 6 and "1 row stands twice, with the same labels" in manifest.notes
    with pytest.raises(DataError, match=r"t\.csv:8: duplicate row: '00.jpg' is on line 2 too"):
        read(make_csv(folder, ["image", "sea"], [*rows, [NAMES[0], "0"]]))
    with_splits = [[*row, "train"] for row in rows]
    with pytest.raises(DataError, match="with other split"):
        read(make_csv(folder, ["image", "sea", "split"], [*with_splits, [NAMES[0], "1", "test"]]))


def test_what_was_understood_is_said(folder: Path) -> None:
    """Layout, images by split, labels with counts, columns."""
    rows = [[image, "01"[at % 2], ("train", "test")[at % 2]] for at, image in enumerate(NAMES)]
    said = summarise(read(make_csv(folder, ["image", "sea", "Split"], rows)))
    assert said.splitlines()[0] == "data: t (table): 6 images (train 3, test 3), 1 label: sea 3"
    assert "data: splits from column Split" in said


def test_labels_that_all_or_no_images_have_are_noted(folder: Path) -> None:
    """The notes count the training images, if there are splits."""
    rows = [[image, "1", "0", "01"[at % 2]] for at, image in enumerate(NAMES)]
    notes = read(make_csv(folder, ["image", "sea", "sky", "beach"], rows)).notes
    assert "no image has 'sky'" in notes
    assert "no image is known to be without 'sea'" in notes
