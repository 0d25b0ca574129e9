"""Lists of labels in a cell: each notation is read right, or told in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcrf.choices import Oddity
from mlcrf.data.tags import find_separator, parse_tags
from mlcrf.errors import DataError
from tests.data.plausibility.making import NAMES, WRITERS, Writer, cells, make_csv, read

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
    "slashes": (["sea/sky", "sky/dog", "sea", "sky", "dog"], "--label-sep '/'"),
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


def test_spellings(folder: Path) -> None:
    """Labels that differ in case are noted, and one with --fold-case."""
    path = make_csv(folder, ["image", "labels"], cells("Sea;sky", "sea", "sea;sky", "SKY"))
    manifest = read(path)
    assert any("--fold-case" in note for note in manifest.notes)
    folded = read(path, fold_case=True)
    assert folded.labels.names == ("sky", "sea")
    assert folded.targets[:4].tolist() == [[1, 1], [0, 1], [1, 1], [1, 0]]


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
