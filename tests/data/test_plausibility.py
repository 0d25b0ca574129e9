"""Tables of odd habits: each is read right, or told in one line; none is believed in silence."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcrf.choices import Blank, Oddity
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.plausibility import summarise
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset
from mlcrf.data.tags import find_separator, parse_tags
from mlcrf.errors import DataError

NAMES = [f"{number:02}.jpg" for number in range(6)]
Writer = Callable[[Path, list[str], list[list[str]]], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six files with the names of images."""
    place = tmp_path_factory.mktemp("images")
    for name in NAMES:
        (place / name).write_bytes(b"")
    return place


def make_csv(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    """Quote every cell."""
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (folder / "t.csv").write_text("\n".join([",".join(header), *lines, ""]), encoding="utf-8")
    return folder / "t.csv"


def make_tsv(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    lines = ["\t".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (folder / "t.tsv").write_text("\n".join(["\t".join(header), *lines, ""]), encoding="utf-8")
    return folder / "t.tsv"


def make_jsonl(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    """Leave out the keys of empty cells."""
    objects = [{k: v for k, v in zip(header, row, strict=True) if v != ""} for row in rows]
    text = "".join(json.dumps(one) + "\n" for one in objects)
    (folder / "t.jsonl").write_text(text, encoding="utf-8")
    return folder / "t.jsonl"


def make_parquet(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    columns = {name: [row[at] or None for row in rows] for at, name in enumerate(header)}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


WRITERS = [make_csv, make_tsv, make_jsonl, make_parquet]


def read(path: Path, **options: object) -> Manifest:
    return read_dataset(path, replace(ReadOptions(), **options))  # type: ignore[arg-type]


def cells(*values: str) -> list[list[str]]:
    """Return rows of an image and its cell, the values by turns."""
    return [[name, values[at % len(values)]] for at, name in enumerate(NAMES)]


# Cells of a list column, and the labels of the first and the second of them.
LISTS = {
    "numpy": (["['sea' 'sky']", "['sea']"], [{"sea", "sky"}, {"sea"}]),
    "numpy-lines": (["['sea'\n 'sky']", "['sky']"], [{"sea", "sky"}, {"sky"}]),
    "json": (['["sea", "sky"]', "[]"], [{"sea", "sky"}, set()]),
    "python": (["['sea', 'sky']", "['sea']"], [{"sea", "sky"}, {"sea"}]),
    "tuple": (["('sea', 'sky')", "('sea',)"], [{"sea", "sky"}, {"sea"}]),
    "set": (["{'sea', 'sky'}", "{'sea'}"], [{"sea", "sky"}, {"sea"}]),
    "choices": (['{"choices": ["sea", "sky"]}', '{"choices": ["sea"]}'], [{"sea", "sky"}, {"sea"}]),
    "quoted": (["'sea', 'sky'", "'sea'"], [{"sea", "sky"}, {"sea"}]),
    "double-quoted": (['"sea", "sky"', '"sea"'], [{"sea", "sky"}, {"sea"}]),
    "semicolons": (["sea; sky", "sea"], [{"sea", "sky"}, {"sea"}]),
    "bars": (["sea|sky", "sea"], [{"sea", "sky"}, {"sea"}]),
    "accents": (["cafe\u0301;sea", "caf\u00e9"], [{"caf\u00e9", "sea"}, {"caf\u00e9"}]),
    "brackets": (["rock (music);sea", "sea"], [{"rock (music)", "sea"}, {"sea"}]),
    "apostrophes": (["rock'n'roll;sea", "sea"], [{"rock'n'roll", "sea"}, {"sea"}]),
}  # fmt: skip


@pytest.mark.parametrize("make", WRITERS)
@pytest.mark.parametrize("name", LISTS)
def test_lists_that_are_read(folder: Path, make: Writer, name: str) -> None:
    """Lists of other programs give their labels, without signs of the notation."""
    values, expected = LISTS[name]
    manifest = read(make(folder, ["image", "labels"], cells(*values)))
    assert set(manifest.labels) == set.union(*expected)
    found = [
        {label for label, on in zip(manifest.labels, row, strict=True) if on == 1}
        for row in manifest.targets[:2]
    ]
    assert found == expected


REFUSED_LISTS = {
    "one-hot": (["[1, 0, 1, 0]", "[0, 1, 0, 0]"], "is a vector of 0 and 1"),
    "annotations": (['[{"box": [1, 2], "label": "sea"}]'], "is not a name"),
    "record": (['{"sea": 1, "sky": 0}'], "expected a list of labels"),
    "open-bracket": (["[sea; sky", "sea"], "--accept label-names"),
    "brace": (["{sea", "sky}"], "--accept label-names"),
    "coordinates": (["0 0.5 0.4 0.2 0.3", "0 0.51 0.4 0.2 0.3"], "--accept label-names"),
    "decimals": (["0.25", "0.75"], "--accept label-names"),
    "image-names": (["00.jpg", "01.jpg"], "--accept label-names"),
    "none-among": (["sea;None", "sky"], "--accept missing-words"),
    "dash": (["-", "sea"], "--accept missing-words"),
    "none": (["none", "sea"], "--accept missing-words"),
    "na-among": (["sea;N/A", "sky"], "--accept missing-words"),
    "combinations": (["sea sky", "sky beach", "sea beach", "sea"], "--label-sep ' '"),
}


@pytest.mark.parametrize("make", WRITERS)
@pytest.mark.parametrize("name", REFUSED_LISTS)
def test_lists_that_are_refused(folder: Path, make: Writer, name: str) -> None:
    """One line names the file, the reason and the remedy."""
    values, message = REFUSED_LISTS[name]
    path = make(folder, ["image", "labels"], cells(*values))
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert message in text and text.startswith(str(path))


def test_an_accepted_oddity_is_noted(folder: Path) -> None:
    """--accept lets it pass, and the notes say so."""
    path = make_csv(folder, ["image", "labels"], cells("none", "sea"))
    manifest = read(path, accept=frozenset({Oddity.MISSING_WORDS}))
    assert set(manifest.labels) == {"none", "sea"}
    assert any(note.startswith("accepted (missing-words)") for note in manifest.notes)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "null", "<NA>", "?", "-1"])
def test_words_of_missing_lists_are_unknown(folder: Path, word: str) -> None:
    """A whole cell of such a word says nothing, and the notes count them."""
    manifest = read(make_csv(folder, ["image", "labels"], cells(word, "sea")))
    assert manifest.labels.names == ("sea",)
    assert manifest.targets[:2].tolist() == [[-1], [1]]
    assert any("3 cells" in note and repr(word) in note for note in manifest.notes)


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
    manifest = read(path, true_words=(present,), false_words=(absent,))
    assert manifest.targets.tolist() == [[1], [0]] * 3


def test_one_odd_cell_does_not_choose_the_separator(folder: Path) -> None:
    """The sign by which labels repeat separates; a cell with another is split, and noted."""
    rows = cells("sea, sky", "sea", "sky, beach")
    rows[4][1] = "sea; sky"
    manifest = read(make_csv(folder, ["image", "labels"], rows))
    assert set(manifest.labels) == {"sea", "sky", "beach"}
    assert manifest.targets[4].tolist() == [0, 1, 1]
    assert any("line 6: 'sea; sky' is split at ';'" in note for note in manifest.notes)
    assert "separated by ','" in manifest.facts[0]


def test_an_entity_is_no_separator(folder: Path) -> None:
    """The semicolon of &amp; does not separate."""
    rows = cells("sea, sky", "sea", "sky")
    rows[5][1] = "salt &amp pepper, sea"
    assert find_separator(["salt &amp; pepper, sea", *(row[1] for row in rows)]).sign == ","


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
    [("id", "123456"), ("count", "253545"), ("score", ["0.2", "0.7"]), ("year", ["1999", "2001"])],
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


def test_spellings(folder: Path) -> None:
    """Labels that differ in case are noted, and one with --fold-case."""
    path = make_csv(folder, ["image", "labels"], cells("Sea;sky", "sea", "sea;sky", "SKY"))
    manifest = read(path)
    assert any("--fold-case" in note for note in manifest.notes)
    folded = read(path, fold_case=True)
    assert folded.labels.names == ("sky", "sea")
    assert folded.targets[:4].tolist() == [[1, 1], [0, 1], [1, 1], [1, 0]]


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
    assert len(manifest) == 6 and "1 rows stand twice, with the same labels" in manifest.notes
    with pytest.raises(DataError, match=r"t\.csv:8: duplicate row: '00.jpg' is on line 2 too"):
        read(make_csv(folder, ["image", "sea"], [*rows, [NAMES[0], "0"]]))
    with_splits = [[*row, "train"] for row in rows]
    with pytest.raises(DataError, match="with other split"):
        read(make_csv(folder, ["image", "sea", "split"], [*with_splits, [NAMES[0], "1", "test"]]))


def test_tag_files_of_boxes_and_words(tmp_path: Path) -> None:
    """A folder of boxes without class names is refused; one of labels between spaces is told."""
    for at, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).with_suffix(".txt").write_text(f"0 0.5{at} .4 .2 .3\n")
    with pytest.raises(DataError, match=r"add a file classes\.txt"):
        read(tmp_path)
    for name in NAMES:
        (tmp_path / name).with_suffix(".txt").write_text("sea sky")
    assert any("--label-sep ' '" in note for note in read(tmp_path).notes)
    assert read(tmp_path, label_sep=" ").labels.names == ("sea", "sky")


def test_what_was_understood_is_said(folder: Path) -> None:
    """Layout, images by split, labels with counts, columns."""
    rows = [[image, "01"[at % 2], ("train", "test")[at % 2]] for at, image in enumerate(NAMES)]
    said = summarise(read(make_csv(folder, ["image", "sea", "Split"], rows)))
    assert said.splitlines()[0] == "data: t (table): 6 images (train 3, test 3), 1 labels: sea 3"
    assert "data: splits from column Split" in said


def test_labels_that_all_or_no_images_have_are_noted(folder: Path) -> None:
    """The notes count the training images, if there are splits."""
    rows = [[image, "1", "0", "01"[at % 2]] for at, image in enumerate(NAMES)]
    notes = read(make_csv(folder, ["image", "sea", "sky", "beach"], rows)).notes
    assert "no image has 'sky'" in notes
    assert "no image is known to be without 'sea'" in notes


HABITS: dict[str, Callable[[list[str]], str]] = {
    "python": repr,
    "json": json.dumps,
    "numpy": lambda names: "[" + " ".join(map(repr, names)) + "]",
    "comma": ", ".join,
    "quoted": lambda names: ", ".join(map(repr, names)),
    "tuple": lambda names: repr(tuple(names)),
}


@given(
    st.lists(
        st.lists(st.sampled_from(["sea", "sky", "New York", "beach"]), min_size=1, unique=True),
        min_size=4,
        max_size=12,
    ),
    st.sampled_from(sorted(HABITS)),
)
def test_any_habit_of_lists_is_read_right(rows: list[list[str]], habit: str) -> None:
    """Drawn lists come back, whatever the notation."""
    texts = [HABITS[habit](names) for names in rows]
    sign = find_separator(texts).sign
    assert [parse_tags(text, sign) for text in texts] == [frozenset(names) for names in rows]
