"""Label names: which are refused, where they stand, and that a file gives them back."""

from pathlib import Path

import pytest

from mlcrf.errors import LabelsError
from mlcrf.labels import LabelSpace, load_labels, save_labels


def test_a_label_space_is_its_names_in_order() -> None:
    """Length, iteration and columns follow the order given."""
    labels = LabelSpace(("sky", "Sky", "sea & sun", "été"))
    assert len(labels) == 4
    assert list(labels) == ["sky", "Sky", "sea & sun", "été"]
    assert [labels.index(name) for name in labels] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no labels: expected at least one label name"),
        (("a", ""), "label '' is empty or has space around it"),
        (("a", "  "), "label '  ' is empty or has space around it"),
        (("a", " b"), "label ' b' is empty or has space around it"),
        (("b\n",), r"label 'b\\n' is empty or has space around it"),
        (("a;b",), "label 'a;b' has a line break or semicolon in it; rename it"),
        (("a\nb",), r"label 'a\\nb' has a line break or semicolon"),
        (("a\rb",), r"label 'a\\rb' has a line break or semicolon"),
        (("a", "b", "a"), "label 'a' occurs twice"),
    ],
)
def test_refused_names(names: tuple[str, ...], message: str) -> None:
    """Names that could not be told apart, or not be written, are refused and shown."""
    with pytest.raises(LabelsError, match=message):
        LabelSpace(names)


def test_unknown_label() -> None:
    """The closest name is suggested, if any is close."""
    labels = LabelSpace(("people", "portrait"))
    with pytest.raises(LabelsError, match=r"unknown label 'peple'; did you mean 'people'\?"):
        labels.index("peple")
    with pytest.raises(LabelsError, match=r"unknown label 'xyz'$"):
        labels.index("xyz")


def test_columns_in() -> None:
    """Our labels are found among others in another order."""
    assert LabelSpace(("a", "b", "c")).columns_in(iter(["c", "a", "b"])) == [1, 2, 0]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ("ab", "labels do not match the 3 expected: missing 'c'$"),
        ("abcx", "labels do not match the 3 expected: not expected 'x'$"),
        ("axyb", "expected: missing 'c'; not expected 'x', 'y'$"),
        ("abcdefghij", "not expected 'd', 'e', 'f', 'g', 'h' and 2 more$"),
    ],
)
def test_columns_that_differ(others: str, message: str) -> None:
    """What is missing and what is too many is named, the first five of each."""
    with pytest.raises(LabelsError, match=message):
        LabelSpace(("a", "b", "c")).columns_in(others)


def test_columns_that_stand_twice() -> None:
    """Two columns of one name are refused: nobody knows which is meant."""
    with pytest.raises(LabelsError, match="'a'"):
        LabelSpace(("a", "b")).columns_in(["a", "b", "a"])


def test_save_and_load(tmp_path: Path) -> None:
    """One name a line, UTF-8, line feeds; loading gives the same space."""
    labels = LabelSpace(("sky", "été", "海", "# not a comment"))
    save_labels(tmp_path / "labels.txt", labels)
    assert (tmp_path / "labels.txt").read_bytes().decode() == "sky\nété\n海\n# not a comment\n"
    assert load_labels(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0c", "\t"])
def test_odd_names_are_refused_or_survive(tmp_path: Path, sign: str) -> None:
    """No name that is accepted comes back from its file as two."""
    try:
        labels = LabelSpace((f"a{sign}b", "c"))
    except LabelsError:
        return
    save_labels(tmp_path / "labels.txt", labels)
    assert load_labels(tmp_path / "labels.txt") == labels


def test_load_is_lenient_where_nothing_is_lost(tmp_path: Path) -> None:
    """Blank lines, space around names, a byte order mark and Windows line ends are no matter."""
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffsky\r\n\r\n  sea \r\n\n".encode())
    assert list(load_labels(path)) == ["sky", "sea"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\na\n", "labels.txt: label 'a' occurs twice"),
        (b"\n \n", "labels.txt: no labels"),
        (b"\xff\xfe\x00", "labels.txt: cannot read label names: not UTF-8 text"),
    ],
)
def test_load_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    """The file is named in what is wrong with it."""
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(LabelsError, match=message):
        load_labels(tmp_path / "labels.txt")


def test_load_what_is_not_there(tmp_path: Path) -> None:
    """A missing file and a folder are errors of the user's."""
    with pytest.raises(LabelsError, match="cannot read label names: No such file or directory"):
        load_labels(tmp_path / "labels.txt")
    with pytest.raises(LabelsError, match="cannot read label names: Is a directory"):
        load_labels(tmp_path)
