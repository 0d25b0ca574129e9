"""Tables with different labels, read as one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from mlcrf.data.joining import read_datasets
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.rules import with_rules
from mlcrf.errors import MlcrfError
from mlcrf.labels import LabelSpace
from mlcrf.rules import Limit, Rules


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, 5):
        Picture.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"im{number}.jpg")
    return tmp_path


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_union_of_labels_and_images(folder: Path) -> None:
    """What a table does not speak of is unknown; an image of two tables has the answers of both."""
    first = _write(folder / "a.csv", "image,sea,sky\nim1.jpg,1,0\nim2.jpg,0,1\n")
    second = _write(folder / "b.csv", "image,sky,dog\nim2.jpg,1,1\nim3.jpg,0,0\n")
    data = read_datasets([first, second])
    assert data.labels.names == ("sea", "sky", "dog")
    assert [image.name.rpartition("/")[2] for image in data.images] == [
        "im1.jpg",
        "im2.jpg",
        "im3.jpg",
    ]
    assert data.targets.tolist() == [[1, 0, -1], [0, 1, 1], [-1, 0, 0]]
    assert data.splits is None
    assert f"{first} (table): 2 images (1 of them in other tables too), 2 labels" in data.facts[0]


def test_a_broken_rule_is_named_with_the_lines_of_every_table(folder: Path) -> None:
    first = _write(folder / "a.csv", "image,indoor\nim1.jpg,0\nim2.jpg,1\n")
    second = _write(folder / "b.csv", "image,outdoor\nim2.jpg,1\nim1.jpg,1\n")
    data = read_datasets([first, second])
    data = with_rules(data, Rules(limits=(Limit((0, 1), least=0, most=1),)))
    assert any(f"im2.jpg ({first}:3, {second}:2)" in note for note in data.notes)
    assert data.targets.tolist() == [[0, 1], [-1, -1]]


def test_contradictions_become_unknown_and_are_named(folder: Path) -> None:
    first = _write(folder / "a.csv", "image,sea,sky\nim1.jpg,1,0\nim2.jpg,0,1\n")
    second = _write(folder / "b.csv", "image,sea\nim1.jpg,0\nim2.jpg,0\n")
    data = read_datasets([first, second])
    assert data.targets.tolist() == [[-1, 0], [0, 1]]
    [note] = [note for note in data.notes if "contradict each other" in note]
    assert "in 1 answer, taken as unknown" in note
    assert f"im1.jpg: sea is 1 in {first}:2 and 0 in {second}:2" in note


def test_lists_speak_of_the_labels_that_they_list(folder: Path) -> None:
    first = _write(folder / "a.csv", "image,labels\nim1.jpg,sea;sky\nim2.jpg,[]\n")
    second = _write(folder / "b.csv", "image,dog\nim3.jpg,1\nim4.jpg,0\n")
    data = read_datasets([first, second])
    assert data.targets.tolist() == [[1, 1, -1], [0, 0, -1], [-1, -1, 1], [-1, -1, 0]]
    assert not data.lists_positives


def test_a_table_that_lists_a_part_of_what_is_present(folder: Path) -> None:
    """What it does not list is unknown and kept as not mentioned; another table may know it."""
    tags = _write(folder / "tags.csv", "image,labels\nim1.jpg,sea\nim2.jpg,sky\nim3.jpg,\n")
    checked = _write(folder / "checked.csv", "image,sea,dog\nim2.jpg,0,1\nim4.jpg,1,0\n")
    data = read_datasets([checked, tags], positives=["tags.csv"])
    assert [image.name.rpartition("/im")[2] for image in data.images] == [
        "2.jpg",
        "4.jpg",
        "1.jpg",
        "3.jpg",
    ]
    assert data.targets.tolist() == [[0, 1, 1], [1, 0, -1], [1, -1, -1], [-1, -1, -1]]
    assert {name.rpartition("/")[2]: said.tolist() for name, said in data.mentions.items()} == {
        "tags.csv": [[0, -1, 1], [-1, -1, -1], [1, -1, 0], [-1, -1, -1]]
    }
    blank = _write(folder / "blank.csv", "image,sea\nim1.jpg,1\nim2.jpg,\n")
    [said] = read_datasets([blank], positives=["blank"]).mentions.values()
    assert said.tolist() == [[1], [0]]
    with pytest.raises(MlcrfError, match=r"--lists tag=positives: expected one of .*blank.csv"):
        read_datasets([blank], positives=["tag"])


def test_splits(folder: Path) -> None:
    """A table's splits hold for its images in other tables; images without one are for training."""
    first = _write(folder / "a.csv", "image,split,sea\nim1.jpg,test,1\nim2.jpg,train,0\n")
    second = _write(folder / "b.csv", "image,dog\nim1.jpg,1\nim3.jpg,0\n")
    data = read_datasets([first, second])
    assert data.splits == ("test", "train", "train")
    assert any("1 image is in tables without splits only" in note for note in data.notes)
    other = _write(folder / "c.csv", "image,split,cat\nim1.jpg,train,1\n")
    with pytest.raises(
        MlcrfError, match=r"im1.jpg is in the split test of .*a.csv:2, and train of"
    ):
        read_datasets([first, other])


def test_names_that_mean_the_same(folder: Path) -> None:
    """In all tables, or in one; a label keeps its name in the others."""
    first = _write(folder / "a.csv", "image,beach,bank\nim1.jpg,1,0\nim2.jpg,0,1\n")
    second = _write(folder / "b.csv", "image,strand,bank\nim3.jpg,1,1\nim4.jpg,0,0\n")
    names = _write(folder / "names.txt", "coast = beach = strand\n\nb.csv, bank => money\n")
    data = read_datasets([first, second], names=names)
    assert data.labels.names == ("coast", "bank", "money")
    assert data.targets.tolist() == [[1, 0, -1], [0, 1, -1], [1, -1, 1], [0, -1, 0]]
    alone = read_datasets([first], names=_write(folder / "one.txt", "coast = beach\n"))
    assert alone.labels.names == ("coast", "bank")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names.txt: contains no names; expected `beach = seaside"),
        ("beach\n", "names.txt:1: expected `beach = seaside = strand`, or"),
        ("beach = = strand\n", "names.txt:1: expected `beach = seaside = strand`, or"),
        ("beach => strand\n", "names.txt:1: expected `beach = seaside = strand`, or"),
        ("c.csv, beach => strand\n", "names.txt:1: 'c.csv' is none of the tables"),
        ("coast = beach\nsea = strant\n", "names.txt:2: no table has the label 'strant'; did you"),
        ("a.csv, strand => beach\n", "a.csv does not have the label 'strand'"),
        ("coast = beach\nsea = beach\n", "names.txt:2: 'beach' is on line 1 already; write all"),
        ("beach = strand\nstrand = beach\n", "names.txt:2: 'beach' is what line 1 renames to"),
        ("water = beach = bank\n", "names.txt:1: .*a.csv has both 'beach' and 'bank'"),
        ("b.csv, strand => bank\n", "names.txt:1: .*b.csv has both 'strand' and 'bank'"),
    ],
)
def test_wrong_names(folder: Path, text: str, says: str) -> None:
    first = _write(folder / "a.csv", "image,beach,bank\nim1.jpg,1,0\nim2.jpg,0,1\n")
    second = _write(folder / "b.csv", "image,strand,bank\nim3.jpg,1,1\nim4.jpg,0,0\n")
    with pytest.raises(MlcrfError, match=says):
        read_datasets([first, second], names=_write(folder / "names.txt", text))


def test_spellings_and_expected_labels(folder: Path) -> None:
    """With fold_case labels of two tables are one; expected labels are those of all tables."""
    first = _write(folder / "a.csv", "image,Sea\nim1.jpg,1\nim2.jpg,0\n")
    second = _write(folder / "b.csv", "image,sea,dog\nim3.jpg,0,1\nim4.jpg,1,0\n")
    expected = LabelSpace(("dog", "Sea"))
    data = read_datasets([first, second], ReadOptions(labels=expected, fold_case=True))
    assert data.labels == expected
    assert np.array_equal(data.targets, [[-1, 1], [-1, 0], [1, 0], [0, 1]])
    with pytest.raises(MlcrfError, match="labels do not match the 2 expected"):
        read_datasets([first, second], ReadOptions(labels=expected))
    with pytest.raises(MlcrfError, match=r"a.csv: is given twice"):
        read_datasets([first, first])
