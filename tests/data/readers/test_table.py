"""Tables: one row an image, label columns or a list of labels, every fault with its line."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.table import read_table, save_manifest
from mlcrf.errors import DataError, LabelsError, MlcrfError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace, composed

TARGETS = [[1, 0], [0, -1]]


def make_images(folder: Path, *names: str) -> None:
    for name in names or ("a.jpg", "b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def make_table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(path: Path, **options: object) -> list[str]:
    """The message of the error that reading gives, line by line, without the folder."""
    with pytest.raises(MlcrfError) as caught:
        read_table(path, ReadOptions(**options))  # type: ignore[arg-type]
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "image,sea,sky\na.jpg,1,0\nb.jpg,0,\n",
        "image;sea;sky\na.jpg;1;0\nb.jpg;0;?\n",
        "image\tsea\tsky\na.jpg\t1\t0\nb.jpg\t0\t-1\n",
        "\ufeffimage,sea,sky\r\na.jpg,1,0\r\nb.jpg,0,-1\r\n",
        "sea,image,sky\r1,a.jpg,0\r0,b.jpg,?\r",
        "image,sea,sky\na.jpg,1.0,0.0\nb.jpg,0.0,-1.0",
        'image,sea,sky\n"a.jpg"," TRUE",false\n\n b.jpg ,False,\n,,\n',
        "file_name,sea,sky\na.jpg,1,0\n./b.jpg,0,?\n",
    ],
    ids=["comma", "semicolon", "tab", "bom-crlf", "cr", "floats", "spaces", "file-name"],
)
def test_spellings_of_one_table_agree(folder: Path, text: str) -> None:
    """Separators, line ends, a byte-order mark and ways to write 1, 0, unknown do not matter."""
    manifest = read_table(make_table(folder, text))
    assert [image.file_name for image in manifest.images] == ["a.jpg", "b.jpg"]
    assert manifest.targets.tolist() == TARGETS
    assert manifest.targets.dtype == np.int8
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.splits is None
    assert manifest.name == "t"


@pytest.mark.parametrize("column", ["image", "file_name", "filename", "path"])
def test_image_column_has_four_names(folder: Path, column: str) -> None:
    """Any of the documented names marks the column of paths."""
    manifest = read_table(make_table(folder, f"sea,{column}\n1,a.jpg\n"))
    assert manifest.images == (as_image(folder / "a.jpg"),)


def test_splits_by_all_their_names(folder: Path) -> None:
    """Train, validation or val, and test are understood, in any case."""
    make_images(folder, "c.jpg", "d.jpg")
    text = "image,split,sea\na.jpg,train,1\nb.jpg,val,0\nc.jpg,Validation,0\nd.jpg,test,1\n"
    assert read_table(make_table(folder, text)).splits == (
        Split.TRAIN,
        Split.VALIDATION,
        Split.VALIDATION,
        Split.TEST,
    )


def test_all_problems_at_once_by_line(folder: Path) -> None:
    """A missing image, duplicate, bad value, bad split, empty image and ragged row: one error."""
    text = (
        "image,split,sea\na.jpg,train,1\ngone.jpg,train,1\n./a.jpg,train,0\nb.jpg,half,yes\n"
        ",train,1\na.jpg,train\n"
    )
    assert faults(make_table(folder, text)) == [
        f"t.csv:3: missing image 'gone.jpg' in {folder}; if the images are elsewhere, "
        "use --image-root FOLDER",
        "t.csv:4: duplicate row: './a.jpg' is on line 2 too, with other labels; keep one",
        "t.csv:5: column 'split': unknown split 'half'; expected train, training, validation, "
        "val, valid, dev, test, testing",
        "t.csv:5: label 'sea' is 'yes'; expected 1, 0, or an empty cell, ? or -1 for unknown",
        "t.csv:6: column 'image' is empty; expected an image path",
        "t.csv:7: 2 cells, but the header has 3",
    ]


def test_problems_stop_at_the_limit(folder: Path) -> None:
    """More faults than the limit end in a count."""
    rows = "".join(f"gone{row}.jpg,1\n" for row in range(30))
    found = faults(make_table(folder, f"image,sea\n{rows}"), max_problems=5)
    assert len(found) == 6
    assert found[0].startswith("t.csv:2: missing image 'gone0.jpg'")
    assert found[-1] == "... and 25 more problems"


def test_line_is_where_a_record_starts(folder: Path) -> None:
    """A quoted cell over several lines does not shift the lines that are told."""
    make_images(folder, "a\nb.jpg")
    text = 'image,sea\n"a\nb.jpg",1\n\nb.jpg,2\na.jpg,1\n'
    assert [fault.split(":")[1] for fault in faults(make_table(folder, text))] == ["5"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "t.csv: is empty"),
        (b" \n\n", "t.csv: is empty"),
        (b'""\n', "t.csv: is empty"),
        (b"image,sea\n", "t.csv: has no rows"),
        (b"image,sea\na.jpg,1\nb\xfc.jpg,1\n", "t.csv:3: is not UTF-8"),
        ("image,sea\na.jpg,1\n".encode("utf-16"), "t.csv:1: is not UTF-8"),
        (b"image,sea\na.jpg,\0\n", "t.csv: is not a text file"),
        (b"place,sea\na,1\n", "t.csv:1: has no image column; found 'place', 'sea'"),
        (b"image,split\na.jpg,train\n", "t.csv:1: has no label column"),
        (b"image,p:sea\na.jpg,0.5\n", "t.csv:1: has no label column"),
        (b"image,sea,sea\na.jpg,1,0\n", "t.csv:1: column 'sea' occurs more than once"),
        (b",image,sea\nx,a.jpg,1\n", "t.csv:1: column 'Unnamed: 0' has no name"),
        (b'image,sea\na.jpg,1\n"b.jpg,1\n', "t.csv:3: cannot be read as CSV"),
        (b"image,sea\na.jpg,1,1\n", "t.csv:2: 3 cells, but the header has 2"),
        (b"image,caption\na.jpg,A dog\n", "t.csv:1: column 'caption' contains no 0 or 1"),
        (b"image,labels,tags\na.jpg,sea,sky\n", "t.csv:1: column 'labels' lists labels and 'tags'"),
        (b"image,labels,sky\na.jpg,sea,1\n", "t.csv:1: column 'labels' lists labels and 'sky'"),
        (b"image,labels\na.jpg,?\n", "t.csv: contains no label"),
    ],
)
def test_tables_that_are_none(folder: Path, text: bytes, expected: str) -> None:
    """A fault of a table as a whole is one line that names the file and the cause."""
    found = faults(make_table(folder, text))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_unreadable_table_names_the_reason(tmp_path: Path) -> None:
    """A table that is not there is told as such, without a traceback."""
    assert faults(tmp_path / "gone.csv") == ["gone.csv: cannot be read: No such file or directory"]


def test_labels_are_matched_by_name(folder: Path) -> None:
    """Columns in another order than the expected labels are put in theirs."""
    path = make_table(folder, "image,sea,sky\na.jpg,1,0\nb.jpg,0,?\n")
    manifest = read_table(path, ReadOptions(labels=LabelSpace(("sky", "sea"))))
    assert manifest.labels.names == ("sky", "sea")
    assert manifest.targets.tolist() == [[0, 1], [-1, 0]]


def test_label_columns_that_differ_are_named(folder: Path) -> None:
    """A missing label and one too many are both named, with the file."""
    path = make_table(folder, "image,sea,dog\na.jpg,1,0\n")
    with pytest.raises(LabelsError, match=r"t\.csv:1: .*missing 'sky'; not expected 'dog'"):
        read_table(path, ReadOptions(labels=LabelSpace(("sea", "sky"))))


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (("sea; sky", "sea"), {}),
        (("sea|sky", "sea|"), {}),
        (('"sea,sky"', "sea"), {}),
        (("sea sky", "sea"), {"label_sep": " "}),
        (("sea/sky", "sea"), {"label_sep": "/"}),
        (('"[""sea"", ""sky""]"', '"[""sea""]"'), {}),
        (("\"['sky', 'sea']\"", "['sea']"), {}),
    ],
)
def test_listed_labels(folder: Path, cells: tuple[str, str], options: dict[str, str]) -> None:
    """Listed labels are present and the rest absent, whichever separator or notation."""
    path = make_table(folder, f"image,labels\na.jpg,{cells[0]}\nb.jpg,{cells[1]}\n")
    manifest = read_table(path, ReadOptions(**options))  # type: ignore[arg-type]
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.targets.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("column", ["labels", "tags", "label"])
def test_list_column_has_three_names(folder: Path, column: str) -> None:
    """Any of the documented names marks a column of lists."""
    manifest = read_table(make_table(folder, f"image,{column}\na.jpg,sea;sky\n"))
    assert manifest.labels.names == ("sea", "sky")


def test_a_list_column_of_ones_and_zeros_is_a_label(folder: Path) -> None:
    """A column named `label` that holds only 0 and 1 is the label of that name."""
    manifest = read_table(make_table(folder, "image,label\na.jpg,1\nb.jpg,0\n"))
    assert manifest.labels.names == ("label",)
    assert manifest.targets.tolist() == [[1], [0]]


def test_empty_set_and_unknown_in_a_list(folder: Path) -> None:
    """An empty list is the empty set; an empty cell or ? says nothing, and the notes say so."""
    make_images(folder, "c.jpg", "d.jpg")
    path = make_table(folder, "image,labels\na.jpg,sea;sky\nb.jpg,[]\nc.jpg,?\nd.jpg,\n")
    manifest = read_table(path)
    assert manifest.targets.tolist() == [[1, 1], [0, 0], [-1, -1], [-1, -1]]
    assert manifest.notes == (
        "2 cells of column 'labels' ('', '?') are taken as unknown; "
        "write [] for an image without labels, or use --blank absent",
    )


def test_spaces_without_separator_are_noted(folder: Path) -> None:
    """A space separates only if told; until then each cell is one label, and the notes say so."""
    manifest = read_table(make_table(folder, "image,labels\na.jpg,sea sky\n"))
    assert manifest.labels.names == ("sea sky",)
    assert "each cell is one label" in manifest.notes[0]


def test_listed_labels_outside_the_space_each_have_a_line(folder: Path) -> None:
    """Every tag that is no expected label is an error with its line and the closest name."""
    path = make_table(folder, "image,labels\na.jpg,sea;skyy\nb.jpg,dog;sea\n")
    assert faults(path, labels=LabelSpace(("sky", "sea"))) == [
        "t.csv:2: unknown label 'skyy'; did you mean 'sky'?",
        "t.csv:3: unknown label 'dog'",
    ]


def test_expected_labels_need_not_all_be_listed(folder: Path) -> None:
    """A label that no row lists is absent, and unlabelled rows are unknown."""
    path = make_table(folder, "image,labels\na.jpg,?\nb.jpg,?\n")
    manifest = read_table(path, ReadOptions(labels=LabelSpace(("sky", "sea"))))
    assert manifest.targets.tolist() == [[-1, -1], [-1, -1]]


def test_our_own_predictions_are_read(folder: Path) -> None:
    """Scores beside the list of labels are left out, and the notes name them."""
    text = "image,labels,p:sea,independent:sea,caption\na.jpg,sea;sky,0.9,1,A sea\n"
    manifest = read_table(make_table(folder, text))
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.facts[0] == "columns left out: caption, p:sea, independent:sea"


def test_a_second_path_column_is_left_out(folder: Path) -> None:
    """The first documented name of two columns of paths counts, and the other is no label."""
    manifest = read_table(make_table(folder, "path,image,sea\n/x/a.jpg,a.jpg,1\n"))
    assert manifest.images == (as_image(folder / "a.jpg"),)
    assert manifest.labels.names == ("sea",)


def test_an_empty_separator_is_refused(folder: Path) -> None:
    """A separator of no sign is a usage fault, not a crash."""
    with pytest.raises(SettingsError, match="separator is empty"):
        read_table(make_table(folder, "image,labels\na.jpg,sea\n"), ReadOptions(label_sep=""))


def test_paths_are_relative_to_the_table_or_the_image_root(tmp_path: Path) -> None:
    """The folder of the table is the root, unless another is given; `..` and absolute work."""
    make_images(tmp_path, "photos/a.jpg", "b.jpg")
    (tmp_path / "tables").mkdir()
    text = f"image,sea\n../photos/a.jpg,1\n{tmp_path}/b.jpg,0\n"
    manifest = read_table(make_table(tmp_path / "tables", text))
    assert [Path(image.key) for image in manifest.images] == [
        (tmp_path / "photos/a.jpg").resolve(),
        (tmp_path / "b.jpg").resolve(),
    ]
    path = make_table(tmp_path / "tables", "image,sea\na.jpg,1\n")
    assert read_table(path, ReadOptions(image_root=tmp_path / "photos")).images == (
        as_image(tmp_path / "photos/a.jpg"),
    )


def test_windows_paths_are_found(tmp_path: Path) -> None:
    """A backslash is taken as a slash where the path as written does not exist."""
    make_images(tmp_path, "photos/a.jpg")
    manifest = read_table(make_table(tmp_path, "image,sea\nphotos\\a.jpg,1\n"))
    assert manifest.images == (as_image(tmp_path / "photos/a.jpg"),)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    """A path that is a folder counts as missing."""
    (tmp_path / "a.jpg").mkdir()
    assert "missing image 'a.jpg'" in faults(make_table(tmp_path, "image,sea\na.jpg,1\n"))[0]


def test_json_lines_with_label_columns(folder: Path) -> None:
    """Numbers, booleans, text and null are 1, 0 and unknown; a missing key is unknown."""
    rows = [{"image": "a.jpg", "sea": True, "sky": 0.0}, {"image": "b.jpg", "sea": "0"}]
    path = make_table(folder, "\n".join(map(json.dumps, rows)), "t.jsonl")
    assert read_table(path).targets.tolist() == TARGETS


def test_json_lines_with_lists(folder: Path) -> None:
    """A list is what is present, an empty list the empty set, null unknown."""
    make_images(folder, "c.jpg")
    rows = [
        {"file_name": "a.jpg", "labels": ["sea", "sky"], "split": "train"},
        {"file_name": "b.jpg", "labels": [], "split": "test"},
        {"file_name": "c.jpg", "labels": None, "split": "val"},
    ]
    manifest = read_table(make_table(folder, "\n".join(map(json.dumps, rows)), "t.jsonl"))
    assert manifest.targets.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert manifest.splits == (Split.TRAIN, Split.TEST, Split.VALIDATION)


def test_json_lines_faults_have_lines(folder: Path) -> None:
    """Broken JSON, a value that is no object, a wrong list and a wrong path are each told."""
    lines = [
        '{"image": "a.jpg", "labels": ["sea", 1.5]}',
        '{"image": ',
        "[1]",
        "",
        '{"image": 7, "labels": {"sea": 1}}',
        '{"image": "b.jpg", "labels": ["sea"], "labels": ["sky"]}',
    ]
    found = faults(make_table(folder, "\n".join(lines), "t.jsonl"))
    assert found == [
        "t.jsonl:1: column 'labels': 1.5 in a list of labels is not a name",
        "t.jsonl:2: is not JSON: Expecting value; expected one JSON object per line",
        "t.jsonl:3: is not a JSON object; expected one JSON object per line",
        "t.jsonl:5: column 'image' contains int, expected a path as text",
        "t.jsonl:5: column 'labels': expected a list of labels, got \"{'sea': 1}\"; write one "
        "column per label, or a list of names",
        "t.jsonl:6: has the key 'labels' twice; keep one of them",
    ]


def test_parquet_with_label_columns(folder: Path) -> None:
    """Integers with nulls, floats, booleans and decimals are read as 1, 0 and unknown."""
    path = folder / "t.parquet"
    columns = {
        "image": ["a.jpg", "b.jpg"],
        "sea": [1, None],
        "sky": [float("nan"), 0.0],
        "dog": [True, False],
        "sun": [Decimal("1.00"), Decimal("0.00")],
    }
    pq.write_table(pa.table(columns), path)
    manifest = read_table(path)
    assert manifest.labels.names == ("sea", "sky", "dog", "sun")
    assert manifest.targets.tolist() == [[1, -1, 1, 1], [-1, 0, 0, 0]]


def test_parquet_with_lists(folder: Path) -> None:
    """A list column of Parquet is a column of labels; null is unknown."""
    make_images(folder, "c.jpg")
    path = folder / "t.parquet"
    names = ["a.jpg", "b.jpg", "c.jpg"]
    pq.write_table(pa.table({"image": names, "tags": [["sky", "sea"], [], None]}), path)
    assert read_table(path).targets.tolist() == [[1, 1], [0, 0], [-1, -1]]


def test_parquet_faults_name_the_row(folder: Path) -> None:
    """Parquet has no lines, so faults name the row, from 1."""
    path = folder / "t.parquet"
    pq.write_table(pa.table({"image": ["a.jpg", "a.jpg"], "sea": [1, 2]}), path)
    assert faults(path) == [
        "t.parquet: row 2: label 'sea' is '2'; "
        "expected 1, 0, or an empty cell, ? or -1 for unknown",
        "t.parquet: row 2: duplicate row: 'a.jpg' is on row 1 too, with other labels; keep one",
    ]


def test_broken_parquet_is_one_line(folder: Path) -> None:
    """A file that is not Parquet is told as such."""
    found = faults(make_table(folder, b"PAR1 nonsense", "t.parquet"))
    assert len(found) == 1
    assert found[0].startswith("t.parquet: cannot be read as Parquet: ")


def test_saved_manifest_is_read_back(tmp_path: Path) -> None:
    """Images, targets, labels with odd names and splits survive; paths inside are relative."""
    make_images(tmp_path, "in/a, b.jpg", "in/ c.jpg", "out.jpg")
    manifest = Manifest(
        images=tuple(as_image(tmp_path / name) for name in ("in/a, b.jpg", "in/ c.jpg", "out.jpg")),
        targets=np.array([[1, 0, -1], [-1, 1, 0], [0, 0, 0]], dtype=np.int8),
        labels=LabelSpace(('a "b", c', "label", "path")),
        splits=(Split.TRAIN, Split.TEST, Split.VALIDATION),
        name="t",
    )
    path = tmp_path / "in" / "t.csv"
    save_manifest(path, manifest)
    again = read_table(path)
    assert again.images == manifest.images
    assert again.targets.tolist() == manifest.targets.tolist()
    assert again.labels == manifest.labels
    assert again.splits == manifest.splits
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [
        '"a, b.jpg",train,1,0,',
        " c.jpg,test,,1,0",
        f"{tmp_path}/out.jpg,validation,0,0,0",
    ]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(
        NAMES.map(str.strip).filter(
            lambda name: (
                name
                and ";" not in name
                and name not in {"image", "split"}
                and not name.startswith(("p:", "independent:"))
            )
        ),
        min_size=2,
        max_size=4,
        unique_by=composed,
    ),
    data=st.data(),
)
def test_any_manifest_survives_saving(
    tmp_path: Path, names: list[str], data: st.DataObject
) -> None:
    """Whatever the labels are called and whatever is known of them, the table reads the same."""
    make_images(tmp_path)
    rows = st.lists(st.sampled_from([-1, 0, 1]), min_size=len(names), max_size=len(names))
    targets = np.array(data.draw(st.lists(rows, min_size=2, max_size=2)), dtype=np.int8)
    images = (as_image(tmp_path / "a.jpg"), as_image(tmp_path / "b.jpg"))
    manifest = Manifest(images, targets, LabelSpace(tuple(names)), None, "t")
    save_manifest(tmp_path / "t.csv", manifest)
    again = read_table(tmp_path / "t.csv", ReadOptions(labels=manifest.labels))
    assert again.labels == manifest.labels
    assert again.targets.tolist() == targets.tolist()
    assert again.images == images
    assert again.splits is None


@pytest.mark.parametrize("name", ["image", "split", "p:sea", "independent:sea"])
def test_labels_that_a_table_would_not_give_back_are_refused(tmp_path: Path, name: str) -> None:
    """A label named like another kind of column is an error when saving, not a loss later."""
    targets = np.zeros((1, 1), dtype=np.int8)
    manifest = Manifest((as_image(tmp_path / "a.jpg"),), targets, LabelSpace((name,)), None, "t")
    with pytest.raises(DataError, match="rename it"):
        save_manifest(tmp_path / "t.csv", manifest)
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "image,labels,abstained\na.jpg,sea,sky;sun;unheard\nb.jpg,sky,\n"),
        (
            "t.jsonl",
            '{"image": "a.jpg", "labels": ["sea"], "abstained": ["sky", "unheard"]}\n'
            '{"image": "b.jpg", "labels": ["sky"], "abstained": []}\n',
        ),
    ],
)
def test_labels_that_were_left_open_are_unknown(folder: Path, name: str, text: str) -> None:
    """As our own predictions with costs say them; not those of a column that is left out."""
    path = make_table(folder, text, name)
    manifest = read_table(path)
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.targets.tolist() == [[1, -1], [0, 1]]
    assert "labels left open by column 'abstained' are unknown: 1" in manifest.facts
    lost = "column 'abstained' leaves 'unheard' open, which is not a label here; rows: 1"
    assert lost in manifest.notes
    assert not [one for one in manifest.facts if one.startswith("columns left out")]
    ignoring = read_table(path, ReadOptions(ignore_columns=("abstained",)))
    assert "columns left out: abstained" in ignoring.facts
    assert ignoring.targets.tolist() == [[1, 0], [0, 1]]


def test_a_label_is_not_both_listed_and_left_open(folder: Path) -> None:
    text = "image,labels,abstained\na.jpg,sea;sky,sky\nb.jpg,sky;sea,\n"
    assert faults(make_table(folder, text)) == ["t.csv:2: label 'sky' is listed, and left open too"]
