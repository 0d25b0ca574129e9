"""Tables as public data sets and other programs write them."""

from pathlib import Path

import pytest

from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace
from tests.data.plausibility.making import NAMES, labels_of, make_files, read


def write(folder: Path, header: str, *rows: str) -> Path:
    """Write a row for each image, the rows by turns; `{}` is the image, `{at}` its number."""
    lines = [
        rows[at % len(rows)].replace("{}", name).replace("{at}", str(at))
        for at, name in enumerate(NAMES)
    ]
    (folder / "t.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return folder / "t.csv"


def said(manifest: Manifest) -> str:
    return " ".join((*manifest.notes, *manifest.facts))


@pytest.mark.parametrize(
    "header",
    ["", "Unnamed: 0", "index", "X", '""'],  # of pandas and R
)
def test_an_index_is_left_out(folder: Path, header: str) -> None:
    """A column that counts the rows is no label, whatever its name, and is told."""
    manifest = read(write(folder, f"{header},image,sea", "{at},{},1", "{at},{},0"))
    assert manifest.labels.names == ("sea",)
    assert f"columns left out: {header.strip(chr(34)) or 'Unnamed: 0'}" in manifest.facts


def test_two_rows_count_only_without_a_name(tmp_path: Path) -> None:
    """A label of 0 and 1 is not taken for an index."""
    make_files(tmp_path, *NAMES[:2])
    (tmp_path / "t.csv").write_text(",image,sea\n0,00.jpg,0\n1,01.jpg,1\n")
    manifest = read(tmp_path / "t.csv")
    assert manifest.labels.names == ("sea",)
    assert manifest.targets.tolist() == [[0], [1]]


def test_columns_without_name_and_content_are_left_out(folder: Path) -> None:
    """Excel and ChestX-ray14 end lines with commas; content without a name is refused."""
    path = write(folder, "image,sea,,", "{},1,,", "{},0,,")
    assert "columns left out: Unnamed: 2, Unnamed: 3" in read(path).facts
    path = write(folder, "image,sea,", "{},1,0", "{},0,1")
    with pytest.raises(DataError, match=r"'Unnamed: 2' has no name.*--ignore-columns 'Unnamed: 2'"):
        read(path)
    assert read(path, ignore_columns=("Unnamed: 2",)).labels.names == ("sea",)


@pytest.mark.parametrize(
    "name", ["Filename", "image_name", "ImageID", "Image Index", "img-path", "File Name"]
)
def test_names_of_the_column_of_images(folder: Path, name: str) -> None:
    """Names of images without suffix are found by the name of their column."""
    rows = [f"{at:02},{at % 2}" for at in range(len(NAMES))]
    (folder / "t.csv").write_text("\n".join([f"{name},sea", *rows, ""]))
    manifest = read(folder / "t.csv")
    assert f"images from column {name!r}" in manifest.facts
    assert [image.file_name for image in manifest.images] == NAMES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["16 0", "7 1 2", "5"], "--label-sep ' '"),
        (["sea<br>sky", "sky<br>dog", "sea<br>dog"], "--label-sep '<br>'"),
        (["(sea:1.2)", "sea"], "--accept label-names"),
        (["1E+05", "sea"], "--accept label-names"),
        (["#NAME?", "sea"], "--accept missing-words"),
        (["#DIV/0!", "sea"], "--accept missing-words"),
        (["unlabelled", "sea"], "--accept missing-words"),
        (['"{sea,sky}"', "sea"], "put the names in quotes, or leave out the brackets"),
    ],
)
def test_cells_that_are_refused(folder: Path, values: list[str], message: str) -> None:
    with pytest.raises(DataError) as refused:
        read(write(folder, "image,labels", *(f"{{}},{value}" for value in values)))
    assert message in str(refused.value)


@pytest.mark.parametrize("values", [["sea.", "sea"], ["#sea", "sea"], ["sea;#sky", "sky"]])
def test_spellings_with_a_sign(folder: Path, values: list[str]) -> None:
    path = write(folder, "image,labels", *(f"{{}},{value}" for value in values))
    assert "--fold-case" in said(read(path))
    assert len(read(path, fold_case=True).labels) == len(read(path).labels) - 1


@pytest.mark.parametrize("tags", [[":d", ":p"], ["...", "."], ["c#", "c"], ["#1", "#2"]])
def test_names_of_signs_stay_apart(folder: Path, tags: list[str]) -> None:
    path = write(folder, "image,labels", *(f"{{}},{tag}|sky" for tag in tags))
    assert "--fold-case" not in said(read(path))


@pytest.mark.parametrize("header", ["ImageID,LabelName,Confidence", "image,label,score"])
def test_scores_in_a_table_of_one_row_per_label(folder: Path, header: str) -> None:
    """A row of Open Images with 0 says that its label is absent, which is not read."""
    names = header.split(",")
    scores = ("0.25", "0.75") if names[2] == "score" else ("1", "0")
    lines = [
        f"{image},{label},{scores[(at + step) % 2]}"
        for at, image in enumerate(NAMES)
        for step, label in enumerate(("sea", "sky"))
    ]
    (folder / "t.csv").write_text("\n".join([header, *lines, ""]))
    if scores == ("1", "0") and names[1] == "label":
        with pytest.raises(DataError, match="first remove the rows where it is not"):
            read(folder / "t.csv")
    manifest = read(folder / "t.csv", label_columns=(names[1],))
    assert f"present whatever column {names[2]!r} says" in said(manifest)


def test_verdicts_beside_a_list(folder: Path) -> None:
    """A rejected label of Prodigy is not learned."""
    path = write(folder, "image,label,answer", "{},sea,accept", "{},sky,reject")
    with pytest.raises(DataError, match="first remove the rows where it is not"):
        read(path)


@pytest.mark.parametrize("name", ["genre", "Finding Labels"])
@pytest.mark.parametrize("values", [["sea|sky", "sea"], ["sea|sky", "sea", "dog", "sky|dog"]])
def test_a_list_under_another_name(folder: Path, name: str, values: list[str]) -> None:
    """The message says how to read it without a change of the table."""
    path = write(folder, f"image,{name}", *(f"{{}},{value}" for value in values))
    option = "--label-columns genre" if name == "genre" else "--label-columns 'Finding Labels'"
    with pytest.raises(DataError) as refused:
        read(path)
    assert option in str(refused.value)
    manifest = read(path, label_columns=(name,))
    assert labels_of(manifest)[NAMES[0]] == {"sea", "sky"}


def test_minus_one_is_told(folder: Path) -> None:
    """It is unknown, as in CheXpert, unless the user says that it is absent, as in CelebA."""
    path = write(folder, "image_id,Bald,Smiling", "{},-1,1", "{},1,0")
    assert "cells read: '-1' as unknown" in read(path).facts
    told = read(path, false_words=("-1",))
    assert "cells read: '-1' as 0" in told.facts
    assert told.targets[0].tolist() == [0, 1]


@pytest.mark.parametrize(("present", "absent"), [("Positive", "Negative"), ("pos", "neg")])
def test_medical_words(folder: Path, present: str, absent: str) -> None:
    manifest = read(write(folder, "image,sea", f"{{}},{present}", f"{{}},{absent}"))
    assert manifest.targets[:2].tolist() == [[1], [0]]


def test_a_split_of_numbers_is_one_line(folder: Path) -> None:
    path = write(folder, "image,partition,sea", "{},0,1", "{},1,0", "{},2,1")
    with pytest.raises(DataError, match="unknown split '0'; expected train") as refused:
        read(path, split_column="partition")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["t.xlsx"], "t.xlsx", "is a spreadsheet; save it as .csv, in UTF-8"),
        (["t.txt"], "t.txt", "if it is a table, name it .csv or .tsv"),
        (["t.csv.gz"], "t.csv.gz", "use the folder or file in it"),
        (["train/a.jpg", "train/_classes.csv"], ".", "contains the table train/_classes.csv"),
        (["cat/a.jpg", "dog/b.jpg"], ".", "Write a table of them, with the columns image and"),
    ],
)
def test_what_is_read_instead_is_named(
    tmp_path: Path, files: list[str], given: str, message: str
) -> None:
    make_files(tmp_path, *files)
    with pytest.raises(DataError) as refused:
        read(tmp_path / given)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"image_id": 1, "category_id": 1, "score": 0.5}', "results of a detector"),
        ('{"image_id": 1, "objects": []}', "of Visual Genome"),
        ('{"SourceFile": "a.jpg", "Subject": ["sea"]}', "of exiftool"),
    ],
)
def test_lists_of_json_are_refused_by_name(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "t.json").write_text(f"[{row}]")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.json")


@pytest.mark.parametrize("name", ["fold", "SET", "test", "Unnamed: 0"])
def test_a_label_named_like_another_column(folder: Path, name: str) -> None:
    """A label that is expected is one, so that a run that learned it can be evaluated."""
    path = write(folder, f"image,{name},sea", "{},0,1", "{},1,0")
    with pytest.raises(DataError, match=name):
        read(path)
    manifest = read(path, labels=LabelSpace((name, "sea")))
    assert manifest.splits is None
    assert manifest.targets[:2].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "value",
    [
        *("sea\u060c sky", "sea\uff5csky", '"\u201csea\u201d, \u201csky\u201d"'),
        *("\u00absea\u00bb; \u00absky\u00bb", "\u300csea\u300d\u3001\u300csky\u300d"),
    ],
)
def test_signs_of_other_scripts(folder: Path, value: str) -> None:
    manifest = read(write(folder, "image,labels", f"{{}},{value}", "{},sky"))
    assert labels_of(manifest)[NAMES[0]] == {"sea", "sky"}


@pytest.mark.parametrize("name", ["caf\u00c3\u00a9", "caf\ufffd"])
def test_damaged_names_are_noted(folder: Path, name: str) -> None:
    manifest = read(write(folder, "image,labels", f"{{}},{name}", "{},caf\u00e9"))
    assert f"label {name!r} looks damaged by a wrong encoding" in said(manifest)
    assert said(manifest).count("looks damaged") == 1


def test_signs_of_no_width_are_noted(folder: Path) -> None:
    manifest = read(write(folder, "image,labels", "{},\u200bsky", "{},sky"))
    assert "differ in spelling only" in said(manifest)


@pytest.mark.parametrize(("present", "absent"), [("1.00", "0.00"), ("\uff11", "\uff10")])
def test_digits(folder: Path, present: str, absent: str) -> None:
    manifest = read(write(folder, "image,sea", f"{{}},{present}", f"{{}},{absent}"))
    assert manifest.targets[:2].tolist() == [[1], [0]]


def test_bars_between_columns(folder: Path) -> None:
    manifest = read(write(folder, "image|labels", "{}|sea,sky", "{}|sky"))
    assert labels_of(manifest)[NAMES[0]] == {"sea", "sky"}
