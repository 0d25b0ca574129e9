"""ARFF: both forms of rows, nominal features, labels as Mulan and MEKA name them, and bad files."""

from pathlib import Path

import numpy as np
import pytest

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace

HEAD = """@relation drawn

@attribute size numeric
@ATTRIBUTE\t'Stellar\\'s Jay' {0,1}
@attribute colour {red, green,blue}
@attribute night {0,1}
@data
"""
ROWS = {
    "dense": ["1.5,1,blue,0", "0,0,red,1", "-2e1,1,green,0"],
    "sparse": ["{0 1.5, 1 1, 2 blue}", "{3 1}", "{0 -2e1,1 1,2 green}"],
}
XML = (
    '<labels xmlns="http://mulan.sourceforge.net/labels">\n<label name="night"></label>\n'
    '<label name="Stellar\'s Jay"></label>\n</labels>\n'
)


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("xml", ["birds.xml", "birds-train.xml"])
def test_rows_of_both_forms(form: str, xml: str, tmp_path: Path) -> None:
    """A sparse row leaves out zeros and first values; labels have the order of the XML file."""
    (tmp_path / xml).write_text(XML)
    path = tmp_path / "birds-train.arff"
    path.write_text(HEAD + "\n".join(ROWS[form]) + "\n")
    data = read_dataset(path)
    assert list(data.labels) == ["night", "Stellar's Jay"]
    assert data.feature_names == ("size", "colour=green", "colour=blue")
    assert data.features is not None
    assert data.features.dtype == np.float32
    assert data.features.tolist() == [[1.5, 0, 1], [0, 0, 0], [-20, 1, 0]]
    assert data.targets.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert [str(one) for one in data.images] == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize("row", ["{0 1.5, 0 2}", "{1 1,00 1.5 , 0 2}", '{2 "blue, 0 3",0 1,0\t1}'])
def test_two_values_of_one_attribute_are_refused(row: str, tmp_path: Path) -> None:
    """A sparse row with an index twice is an error with its line; quoted text has no index."""
    (tmp_path / "a.xml").write_text(XML)
    head = HEAD.replace("green,blue", "green,blue,'blue, 0 3'")
    (tmp_path / "a.arff").write_text(f"{head}{{3 1}}\n{row}\n")
    with pytest.raises(DataError, match=r"a\.arff:9: attribute number 0 occurs twice"):
        read_dataset(tmp_path / "a.arff")
    (tmp_path / "a.arff").write_text(f'{head}{{2 "blue, 0 3", 0 1}}\n')
    assert len(read_dataset(tmp_path / "a.arff").images) == 1


def test_values_in_another_order(tmp_path: Path) -> None:
    """A file may declare the values of a feature in an order of its own: names decide."""
    (tmp_path / "birds.xml").write_text(XML)
    path = tmp_path / "birds-test.arff"
    names = ("size", "colour=green", "colour=blue")
    known = ReadOptions(labels=LabelSpace(("Stellar's Jay", "night")), run_features=names)
    for declared in ("{blue,red,green}", "{ red ,blue}"):
        head = HEAD.replace("{red, green,blue}", declared)
        path.write_text(head + "1.5,1,blue,0\n0,0,red,1\n")
        data = read_dataset(path, known)
        assert data.features is not None
        assert data.features.tolist() == [[1.5, 0, 1], [0, 0, 0]]
    path.write_text(HEAD.replace("{red, green,blue}", "{red,pink}") + "1.5,1,pink,0\n")
    with pytest.raises(DataError, match="'colour' declares values 'red', 'pink' that the run"):
        read_dataset(path, known)


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("'drawn: -C 2'", ["size", "jay"]), ("'drawn: -C -1'", ["night"])],
)
def test_labels_as_meka_names_them(relation: str, expected: list[str], tmp_path: Path) -> None:
    """`-C n` in the relation counts labels from the front, or from the back if negative."""
    path = tmp_path / "meka.arff"
    head = f"@relation {relation}\n@attribute size {{0,1}}\n@attribute jay {{0,1}}\n"
    path.write_text(f"{head}@attribute night {{0,1}}\n@data\n1,0,1\n0,1,0\n")
    data = read_dataset(path)
    assert list(data.labels) == expected
    assert len(data.feature_names) == 3 - len(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            (
                "relation drawn",
                "relation 'drawn: -C 2 -weka.filters.unsupervised.attribute.Remove'",
            ),
            "arff:1: @relation says -C, and that a filter",
        ),
        (("relation drawn", "relation 'drawn: -C 9'"), "arff:1: @relation says -C 9, of 4"),
        (("", ""), "says nowhere which attributes are labels"),
        (("size numeric", "size date"), "arff:3: .* Bad @ATTRIBUTE type; expected numeric"),
        (("night", "size"), "already in use"),
        (("1.5,", "wide,"), "Invalid numerical value; expected a number"),
        (("1.5,", "1_5,"), "arff:8: attribute 'size' is '1_5', expected a number"),
        (("1.5,1", "1.5,2"), "arff:8: cannot be read as ARFF: Data value 2 not found"),
        (("@data", "@date"), "cannot be read as ARFF"),
    ],
)
def test_files_that_cannot_be_read(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    """A file that is no ARFF, or does not say what its labels are, is refused in one line."""
    path = tmp_path / "bad.arff"
    path.write_text((HEAD + "\n".join(ROWS["dense"])).replace(*change))
    with pytest.raises(DataError, match=message) as error:
        read_dataset(path)
    assert "\n" not in str(error.value)


def test_decimals_of_an_integer_are_kept(tmp_path: Path) -> None:
    """A number under `integer` is the number that is written, as Weka reads it."""
    path = tmp_path / "drawn.arff"
    path.write_text((HEAD + "\n".join(ROWS["dense"])).replace("size numeric", "size INTEGER"))
    (tmp_path / "drawn.xml").write_text(XML)
    features = read_dataset(path).features
    assert features is not None and 1.5 in features


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    """Features that are missing or infinite are told with their line, all at once."""
    (tmp_path / "birds.xml").write_text(XML)
    path = tmp_path / "birds.arff"
    rows = [
        "1,1,blue,0",
        "?,1,red,0",
        "1e999,0,red,1",
        "1,1,?,0",
        "1,1,red,?",
        "% end",
        "2,1,red,1",
    ]
    path.write_text(HEAD + "\n".join(rows) + "\n")
    with pytest.raises(DataError) as error:
        read_dataset(path)
    assert str(error.value).splitlines() == [
        f"{path}:9: feature 'size' is empty, expected a number",
        f"{path}:10: feature 'size' is inf, expected a finite number",
        f"{path}:11: feature 'colour' is missing; expected one of 'red', 'green', 'blue'",
    ]


def test_what_the_format_calls_a_feature_is_one(tmp_path: Path) -> None:
    """A feature that repeats a label, or numbers the rows, is noted where a file declares it."""
    head = "@relation 'x: -C 1'\n@attribute sea {0,1}\n@attribute copy {0,1}\n@attribute n real\n"
    rows = "".join(f"{row % 2},{row % 2},{row}\n" for row in range(12))
    path = tmp_path / "x.arff"
    path.write_text(f"{head}@data\n{rows}")
    data = read_dataset(path)
    assert data.feature_names == ("copy=1", "n")
    assert "feature 'n' numbers the rows, and says nothing of new ones" in data.notes
    assert "feature 'copy=1' is label 'sea' in every row" in data.notes
