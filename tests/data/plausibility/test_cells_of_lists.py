"""Cells that join labels by an unusual sign, hold vectors or scores, or name what is absent."""

import json
from pathlib import Path

import pytest

from mlcrf.choices import Oddity
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset
from mlcrf.errors import DataError

NAMES = [f"{number:02}.jpg" for number in range(8)]
SETS = [
    ["sea", "sky"],
    ["sea"],
    ["sky", "dog"],
    ["dog"],
    ["sea", "dog"],
    ["sky"],
    ["sea", "sky", "dog"],
    ["sky", "sea"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight files with the names of images."""
    place = tmp_path_factory.mktemp("images")
    for name in NAMES:
        (place / name).write_bytes(b"")
    return place


def read(folder: Path, header: str, cells: list[str], options: ReadOptions) -> Manifest:
    """Read a table of one image and one cell a row."""
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    lines = [header, *(",".join(row) for row in zip(NAMES, quoted, strict=True)), ""]
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_dataset(folder / "t.csv", options)


def labels_of(manifest: Manifest) -> list[list[str]]:
    return [
        [name for name, code in zip(manifest.labels, row, strict=True) if code == 1]
        for row in manifest.targets
    ]


@pytest.mark.parametrize("sign", ["\n", "\t", "\uff1b", "\uff0c", "\u3001", "; ", " | "])
def test_signs_that_separate(folder: Path, sign: str) -> None:
    cells = [sign.join(names) for names in SETS]
    manifest = read(folder, "image,labels", cells, ReadOptions())
    assert labels_of(manifest) == [sorted(names) for names in SETS]
    assert repr(sign.strip(" ")) in " ".join(manifest.facts)


@pytest.mark.parametrize("sign", ["/", "\\", "+", "#", "&", "·", "•", "~", "-", "_", ".", " - "])
def test_signs_that_are_refused_until_told(folder: Path, sign: str) -> None:
    cells = [sign.join(names) for names in SETS]
    option = f"--label-sep {sign.strip()!r}"
    with pytest.raises(DataError, match="combinations of the same words") as refused:
        read(folder, "image,labels", cells, ReadOptions())
    assert option in str(refused.value)
    told = read(folder, "image,labels", cells, ReadOptions(label_sep=sign.strip()))
    assert labels_of(told) == [sorted(names) for names in SETS]


@pytest.mark.parametrize(
    "names",
    [
        ["plant_life", "people_r1", "sky_r1", "people", "sky", "plant_life_r1", "sea", "sea_r1"],
        ["animal/dog", "animal/cat", "plant/tree", "plant/rose", "sea", "sky", "food", "car"],
        ["t-shirt", "x-ray", "close-up", "sky", "sea", "shirt", "ray", "dog"],
    ],
)
def test_names_with_signs_within(folder: Path, names: list[str]) -> None:
    manifest = read(folder, "image,labels", names, ReadOptions())
    assert labels_of(manifest) == [[name] for name in names]


@pytest.mark.parametrize(
    "cells",
    [
        ["011", "101", "110", "001"],
        ["0 1 1", "1 0 1", "1 1 0", "0 0 1"],
        ["[0, 1]", "[1, 0]"],
        ["sea:0.9", "sky:0.8", "dog:0.7", "sea:0.9"],
        ["sea=1,sky=0", "sea=0,sky=1"],
        ["sea 90%".replace(" ", "="), "sky=80%"],
        ["sea: 0.25", "sky: 1"],
    ],
)
def test_vectors_and_scores(folder: Path, cells: list[str]) -> None:
    rows = [cells[at % len(cells)] for at in range(len(NAMES))]
    with pytest.raises(DataError, match=r"look like (vectors|a part of)"):
        read(folder, "image,labels", rows, ReadOptions())
    accepted = ReadOptions(accept=(Oddity.LABEL_NAMES, Oddity.COMBINATIONS))
    assert any("label-names" in note for note in read(folder, "image,labels", rows, accepted).notes)


def test_a_record_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="one column per label, or a list of names"):
        read(folder, "image,labels", [json.dumps({"sea": 1, "sky": 0})] * 8, ReadOptions())


@pytest.mark.parametrize("name", ["no dog", "not dog", "no_dog", "non-dog", "!dog", "without dog"])
def test_names_of_what_is_absent_are_noted(folder: Path, name: str) -> None:
    manifest = read(folder, "image,labels", ["dog", name] * 4, ReadOptions())
    assert f"label {name!r} looks like the absence of 'dog', and is learned as its own" in (
        manifest.notes
    )


def test_no_note_of_spaces_in_lists_as_text(folder: Path) -> None:
    cells = [repr(names) for names in SETS]
    assert not read(folder, "image,labels", cells, ReadOptions()).notes


@pytest.mark.parametrize("name", ["test", "Valid", "holdout", "dev"])
def test_columns_of_flags_that_may_be_labels(folder: Path, name: str) -> None:
    header, cells = f"image,{name},sea", ["0", "0", "0", "0", "0", "0", "1", "1"]
    lines = [
        header,
        *(f"{i},{c},{n % 2}" for n, (i, c) in enumerate(zip(NAMES, cells, strict=True))),
    ]
    (folder / "t.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(DataError, match=f"--split-column {name}"):
        read_dataset(folder / "t.csv", ReadOptions())
    told = read_dataset(folder / "t.csv", ReadOptions(split_column=name))
    assert told.splits is not None
    assert told.splits.count(Split.TRAIN) == 6
    assert told.labels.names == ("sea",)


def test_a_label_of_railways(folder: Path) -> None:
    manifest = read(folder, "image,train", ["0", "1"] * 4, ReadOptions())
    assert manifest.labels.names == ("train",)


@pytest.mark.parametrize("name", ["Image", "id", "photo"])
def test_the_only_column_of_image_names(folder: Path, name: str) -> None:
    manifest = read(folder, f"{name},Labels", [";".join(names) for names in SETS], ReadOptions())
    assert labels_of(manifest) == [sorted(names) for names in SETS]
    assert f"images from column {name!r}" in manifest.facts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("00.jpg,1,0\n01.jpg,0,1\n", ":1: the first line looks like a row"),
        ("# by hand\nimage,sea\n00.jpg,1\n", ":1: the header has 1 cell, but no row has"),
        ("image,sea\n00.jpg,2\n01.jpg,1\n02.jpg,2\n03.jpg,2\n", "--true NUMBER --false NUMBER"),
    ],
)
def test_one_line_for_the_whole_table(folder: Path, text: str, words: str) -> None:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_dataset(folder / "t.csv", ReadOptions())
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_for_absent_and_present_can_be_named(folder: Path) -> None:
    told = ReadOptions(true_words=("2",), false_words=("1",))
    manifest = read(folder, "image,sea", ["1", "2"] * 4, told)
    assert manifest.targets[:, 0].tolist() == [0, 1] * 4


def test_labels_that_are_numbers_are_noted(folder: Path) -> None:
    manifest = read(folder, "image,labels", ["0;3", "1", "2;3", "1;2"] * 2, ReadOptions())
    assert any(note.startswith("labels are numbers, such as '0', '1'") for note in manifest.notes)
