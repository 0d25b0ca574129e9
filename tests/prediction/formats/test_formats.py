"""Predictions as files: wide, tidy, and what other programs import."""

import csv
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from pyarrow import parquet

from mlcrf.choices import Program
from mlcrf.errors import DataError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction import (
    Origin,
    OutputFormat,
    Prediction,
    PredictionWriter,
    Table,
    choose_format,
)

LABELS = LabelSpace(("sea", '<b> "x"', "naïve"))
ODD = [b"a\nb.jpg", b"=1+1 &'\".jpg", b"caf\xe9.jpg", "ü + %20?#.jpg".encode()]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [tmp_path / "photos" / os.fsdecode(name) for name in ODD]


def write(path: Path, photos: list[Path], output: OutputFormat | None = None) -> None:
    """The first photo has no label, the others have two; then one that failed."""
    with PredictionWriter(path, LABELS, output=output) as writer:
        for at, photo in enumerate(photos):
            chosen = ("sea", "naïve") if at else ()
            writer.write(
                Prediction(
                    as_image(photo), chosen, (0.75 if at else 0.25, 0.125, 1 / 3), (0.5,) * 3
                )
            )
        writer.write(Prediction(as_image("x.jpg"), error="x.jpg: broken"))


def test_tidy_csv(photos: list[Path], tmp_path: Path) -> None:
    """A row a photo and label, with names that keep their bytes."""
    path = tmp_path / "tags.csv"
    write(path, photos, Table(tidy=True))
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["image", "label", "present", "p", "independent"]
    assert [row[0] for row in rows[1:]] == [str(photo) for photo in photos for _ in LABELS]
    assert [row[1:] for row in rows[4:7]] == [
        ["sea", "1", "0.75", "0.5"],
        ['<b> "x"', "0", "0.125", "0.5"],
        ["naïve", "1", "0.333333", "0.5"],
    ]
    assert (tmp_path / "tags.errors.csv").read_text() == "image,error\nx.jpg,x.jpg: broken\n"


FORMULAS = ["=1+1.jpg", "+a.jpg", "-2.jpg", "@SUM.jpg", " =x.jpg", "\t=x.jpg", "\uff1d1.jpg"]


@pytest.mark.parametrize("tidy", [False, True])
def test_excel_safe(tmp_path: Path, tidy: bool) -> None:
    """What begins like a formula has an apostrophe before it; all else is as it is."""
    labels = LabelSpace(("=cmd|'x'!A1", "sea"))
    for name in ("plain", "safe"):
        form = choose_format(None, tidy=tidy, excel_safe=name == "safe")
        with PredictionWriter(tmp_path / f"{name}.csv", labels, output=form) as writer:
            for photo in (*FORMULAS, "a-b=c.jpg"):
                both = Prediction(as_image(photo), labels.names, (1e-7, 0.5), (0.5, 0.5))
                writer.write(both)
                writer.write(Prediction(as_image(photo), error=f"{photo}: broken"))
    for name in ("{}.csv", "{}.errors.csv"):
        plain, safe = (tmp_path / name.format(which) for which in ("plain", "safe"))
        assert safe.read_bytes().startswith(b"\xef\xbb\xbf")
        with plain.open(newline="", encoding="utf-8") as one:
            before = list(csv.reader(one))
        with safe.open(newline="", encoding="utf-8-sig") as other:
            after = list(csv.reader(other))
        risky = re.compile("\\s*[=+@\uff1d-]")
        parts = [part for row in after for cell in row for part in cell.split(";")]
        assert not any(risky.match(part) for part in parts)
        assert sum(part.startswith("'") for part in parts) >= len(FORMULAS)
        assert [[re.sub(r"(^|;)'", r"\1", cell) for cell in row] for row in after] == before


def test_tidy_holds_what_wide_does(photos: list[Path], tmp_path: Path) -> None:
    """In JSONL and Parquet, with types."""
    for tidy in (False, True):
        for ending in ("jsonl", "parquet"):
            write(tmp_path / ending / f"{tidy}.{ending}", photos, Table(tidy=tidy))
    wide, long = (
        [
            json.loads(line)
            for line in (tmp_path / "jsonl" / f"{tidy}.jsonl").read_text().splitlines()
        ]
        for tidy in (False, True)
    )
    again = [
        {"image": row["image"], "label": name, "present": name in row["labels"]}
        | {"p": row[f"p:{name}"], "independent": row[f"independent:{name}"]}
        for row in wide
        for name in LABELS
    ]
    assert again == long and len(long) == 12
    assert [os.fsencode(row["image"]) for row in wide] == [os.fsencode(photo) for photo in photos]
    table = parquet.read_table(tmp_path / "parquet" / "True.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "string", "bool"] + [
        "float"
    ] * 2
    assert table.column("present").to_pylist() == [row["present"] for row in long]
    assert table.column("p").to_pylist() == pytest.approx([row["p"] for row in long], abs=1e-6)
    assert table.column("image").to_pylist()[-4].endswith("caf\\xe9.jpg")


def test_label_studio(photos: list[Path], tmp_path: Path) -> None:
    """Tasks as its guide has them, addresses that lead back to the files, and its interface."""
    form = choose_format(
        Program.LABEL_STUDIO,
        origin=Origin("", "f" * 64),
        image_url="http://h/?d=",
        url_root=tmp_path,
    )
    path = tmp_path / "tasks.json"
    write(path, photos, form)
    tasks = json.loads(path.read_text())
    assert len(tasks) == len(photos)
    for task, name in zip(tasks, ODD, strict=True):
        assert set(task) == {"data", "predictions"} and set(task["data"]) == {"image"}
        address = task["data"]["image"]
        assert address.startswith("http://h/?d=photos/") and address.isascii()
        assert not set(address.removeprefix("http://h/?d=")) & set(" ?&#+\"'<>\n")
        assert unquote_to_bytes(address.removeprefix("http://h/?d=photos/")) == name
        (prediction,) = task["predictions"]
        assert prediction["model_version"].endswith(", model ffffffffffff")
        (result,) = prediction["result"]
        assert result["type"] == "choices"
    ids = [task["predictions"][0]["result"][0]["id"] for task in tasks]
    assert len(set(ids)) == len(ids)
    chosen = [task["predictions"][0]["result"][0]["value"] for task in tasks]
    assert chosen == [{"choices": []}, *[{"choices": ["sea", "naïve"]}] * 3]
    scores = [task["predictions"][0]["score"] for task in tasks]
    right = [(0.75 + 0.875 + 2 / 3) / 3, (0.75 + 0.875 + 1 / 3) / 3]
    assert scores == pytest.approx([right[0], *[right[1]] * 3], abs=1e-6)
    view = ElementTree.fromstring((tmp_path / "tasks.config.xml").read_text(encoding="utf-8"))
    image, choices = view
    assert image.attrib == {"name": result["to_name"], "value": "$image"}
    assert choices.attrib == {"name": result["from_name"], "toName": "image", "choice": "multiple"}
    assert [choice.attrib["value"] for choice in choices] == list(LABELS)


def test_label_studio_needs_photos_below_the_root(photos: list[Path], tmp_path: Path) -> None:
    """Else nothing is written; from the root of the file system on, every photo has an address."""
    form = choose_format(Program.LABEL_STUDIO, url_root=tmp_path / "photos" / ".." / "other")
    with pytest.raises(DataError, match=r"is not in --url-root .*, so it has no URL"):
        write(tmp_path / "tasks.json", photos[1:], form)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "tasks.json", photos, choose_format(Program.LABEL_STUDIO))
    first = json.loads((tmp_path / "tasks.json").read_text())[0]["data"]["image"]
    assert first == f"/data/local-files/?d={str(photos[0].parent)[1:]}/a%0Ab.jpg"


def test_a_file_beside_is_not_overwritten(photos: list[Path], tmp_path: Path) -> None:
    """A user's own interface stays unless --overwrite says otherwise."""
    (tmp_path / "tasks.config.xml").write_text("mine")
    with pytest.raises(DataError, match=r"tasks\.config\.xml: exists already"):
        write(tmp_path / "tasks.json", photos, choose_format(Program.LABEL_STUDIO))
    assert (tmp_path / "tasks.config.xml").read_text() == "mine"


def test_fiftyone(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes, and by absolute path lists of targets with confidence, as its guide has them."""
    monkeypatch.chdir(tmp_path)
    relative = [Path("photos/../photos") / photo.name for photo in photos]
    write(tmp_path / "labels.json", relative, choose_format(Program.FIFTYONE))
    dataset = json.loads((tmp_path / "labels.json").read_text())
    assert set(dataset) == {"classes", "labels"} and dataset["classes"] == list(LABELS)
    assert list(dataset["labels"]) == [str(photo) for photo in photos]
    empty, *others = dataset["labels"].values()
    assert empty == []
    for targets in others:
        assert [dataset["classes"][target["label"]] for target in targets] == ["sea", "naïve"]
        assert [target["confidence"] for target in targets] == [0.75, 0.333333]
        assert all(target["attributes"] == {"independent": 0.5} for target in targets)


@pytest.mark.parametrize("program", list(Program))
def test_no_photo_is_still_json(program: Program, tmp_path: Path) -> None:
    """An empty list, or classes without labels."""
    with PredictionWriter(tmp_path / "a.json", LABELS, output=choose_format(program)):
        pass
    empty = json.loads((tmp_path / "a.json").read_text())
    assert empty in ([], {"classes": list(LABELS), "labels": {}})


def test_choices_that_exclude_each_other(tmp_path: Path) -> None:
    """One line that says what goes with what."""
    with pytest.raises(SettingsError, match="--tidy is for tables; leave it out with --for fift"):
        choose_format(Program.FIFTYONE, tidy=True)
    with pytest.raises(SettingsError, match="--excel-safe is for tables; leave it out with"):
        choose_format(Program.FIFTYONE, excel_safe=True)
    for program in (None, Program.FIFTYONE):
        with pytest.raises(SettingsError, match="need --for label-studio"):
            choose_format(program, image_url="http://h/")
    for name, form in (
        ("a.json", Table(tidy=True)),
        ("a.csv", choose_format(Program.FIFTYONE)),
        ("a.jsonl", choose_format(None, excel_safe=True)),
    ):
        with pytest.raises(DataError, match=f"{name}: unknown ending; name the file with one of"):
            PredictionWriter(tmp_path / name, LABELS, output=form)
