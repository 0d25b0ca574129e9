"""`mlcrf tag`: sidecars, tag files and chosen labels, from the model and from tables."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mlcrf.cli import app
from mlcrf.errors import DataError, MlcrfError
from mlcrf.images import as_image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.xmp import Packet, Property
from tests.data.readers.test_parquet_images import make_parquet
from tests.data.readers.test_webdataset import make_tar
from tests.keywords.pictures import xmp_of


def run_command(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def tag(*words: object) -> Result:
    return run_command("tag", "--engine", "torch", *words)


def predict(*words: object) -> Result:
    return run_command("predict", "--engine", "torch", *words)


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    """Four drawn scenes, one of them deep."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for at, image in enumerate(sorted((drawn / "images").iterdir())[:4]):
        place = folder / ("deep" if at == 3 else "") / image.name
        place.write_bytes(image.read_bytes())
    return folder


def subjects(folder: Path) -> dict[str, list[str]]:
    return {
        path.relative_to(folder).as_posix(): Packet(path.read_bytes()).values(
            Property("dc", "subject")
        )
        for path in sorted(folder.rglob("*.xmp"))
    }


def test_table_sidecars_and_tag_files_say_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    """By the user's names, limited in the same way; undone nothing is left but the table."""
    before = set(photos.rglob("*"))
    names, out = tmp_path / "names.csv", tmp_path / "tags.csv"
    first = (run / "labels.txt").read_text().split()[0]
    names.write_text(f"label,name\n{first},Etwas & mehr\n")
    selected = ["--rename", names, "--min-prob", 0.05]
    words = [photos, "--model", run, *selected, "--threshold", 0.05, "--xmp", "--txt"]
    dry = tag(*words, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert set(photos.rglob("*")) == before
    done = tag(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout == "4 photos tagged\nsidecars: 4 new\ntag files: 4 new\n"
    assert [line for line in dry.stdout.splitlines() if ": new; +" in line]
    whole = tmp_path / "all.csv"
    asked = predict(photos, "--model", run, "--threshold", 0.05, "--out", whole)
    assert asked.exit_code == 0, asked.output
    assert run_command("convert", whole, "--out", out, *selected).exit_code == 0
    rows = pd.read_csv(out)
    assert "p:Etwas & mehr" in rows and f"p:{first}" not in rows
    for row in rows.to_dict("records"):
        image = Path(row["image"])
        tags = row["labels"].split(";")
        sidecar = image.with_name(f"{image.name}.xmp").read_bytes()
        assert Packet(sidecar).values(Property("dc", "subject")) == tags
        assert image.with_suffix(".txt").read_text().splitlines() == tags
        assert all(row[f"p:{name}"] >= 0.05 for name in tags)
    assert any("Etwas & mehr" in tags.split(";") for tags in rows["labels"])
    again = tag(photos, "--from", out, "--xmp", "--txt")
    assert again.stdout == "4 photos tagged\nsidecars: 4 changed\ntag files: 4 unchanged\n"
    undone = tag(photos, "--undo", "--json")
    assert json.loads(undone.stdout) == {
        "failed": 0,
        "sidecars": {"deleted": 4},
        "tag files": {"deleted": 4},
        "left_out": {},
    }
    assert set(photos.rglob("*")) == before


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    """A table of these images, as a spreadsheet with semicolons and decimal commas saves it."""
    path = tmp_path / "edited.csv"
    labels = ["sea;=1+1", "", "sky", "'=1+1"]
    cells = [
        f'{image};"{text}";0,75;0,5;1;1;0,5;0,25'
        for image, text in zip(sorted(photos.rglob("*.jpg")), labels, strict=True)
    ]
    header = "image;labels;p:sea;independent:sea;p:sky;independent:sky;p:=1+1;independent:=1+1"
    path.write_text("\r\n".join([header, *cells]) + "\r\n", encoding="utf-8-sig", newline="")
    return path


def test_labels_of_an_edited_table(photos: Path, table: Path, tmp_path: Path) -> None:
    """Written as they are in it; images are found from another folder, too."""
    images = sorted(photos.rglob("*.jpg"))
    done = tag(photos, "--from", table, "--txt")
    assert done.exit_code == 0 and done.stderr == "", done.output
    said = [image.with_suffix(".txt").read_text().split() for image in images]
    assert said == [["sea", "=1+1"], [], ["sky"], ["=1+1"]]
    selected = tag(photos, "--from", table, "--xmp", "--min-prob", 0.7)
    assert "does not state which labels imply others" in selected.stderr
    assert list(subjects(photos).values()) == [["sea"], ["sky"]]
    absolute = tmp_path / "link"
    absolute.symlink_to(photos)
    less = tag(absolute / images[0].name, images[1], "--from", table, "--txt")
    assert less.exit_code == 0 and "note: 2 rows (such as" in less.stderr
    other = tmp_path / "other.jpg"
    other.write_bytes(images[0].read_bytes())
    more = tag(photos, other, "--from", table, "--txt")
    assert f"note: 1 image (such as {other}) without a row in {table}" in more.stderr
    assert not other.with_suffix(".txt").exists()
    none = tag(other, "--from", table, "--txt")
    assert isinstance(none.exception, DataError) and "has no row for these" in str(none.exception)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sea;=1+1", "sae", r"edited.csv:2: unknown label 'sae'; did you mean 'sea'\?$"),
        ("image;", "picture;", "edited.csv:1: has no column `image`"),
        (";labels;", ";tags;", "edited.csv:1: has no column `labels`"),
        (";p:sky;independent:sky", ";p:sea;x", "edited.csv:1: column 'p:sea' occurs more than"),
        ("p:", "q:", "edited.csv:1: has no columns p:LABEL .*; give --model"),
    ],
)
def test_tables_that_are_wrong(photos: Path, table: Path, old: str, new: str, says: str) -> None:
    """One line that says where, and nothing is written."""
    text = table.read_text(encoding="utf-8-sig")
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8-sig")
    before = set(photos.rglob("*"))
    result = tag(photos, "--from", table, "--txt", "--xmp")
    assert isinstance(result.exception, MlcrfError)
    assert re.search(says, str(result.exception))
    assert set(photos.rglob("*")) == before


def test_tables_in_every_form(run: Path, photos: Path, tmp_path: Path) -> None:
    """Wide and tidy, CSV, JSONL and Parquet, safe for Excel: the same labels."""
    words = [photos, "--model", run, "--threshold", 0.05]
    assert predict(*words, "--out", tmp_path / "tags.parquet").exit_code == 0
    assert tag(*words, "--txt", "--xmp").exit_code == 0
    for name, more in (
        *(
            (f"{kind}.{ending}", more)
            for ending in ("csv", "jsonl", "parquet")
            for kind, more in (("wide", []), ("tidy", ["--tidy"]))
        ),
        ("safe.csv", ["--excel-safe"]),
    ):
        out = tmp_path / name
        made = run_command("convert", tmp_path / "tags.parquet", "--out", out, *more)
        assert made.exit_code == 0, made.output
        done = tag(photos, "--from", out, "--txt", "--strict")
        assert done.stdout.endswith("tag files: 4 unchanged\n"), done.output
    done = tag(photos, "--from", tmp_path / "tags.parquet", "--xmp")
    assert done.stdout.endswith("sidecars: 4 unchanged\n"), done.output


def test_a_parallel_tree_known_keywords_and_confirmed_tags(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """The photos' folder is left alone; what was --given is a person's own."""
    one = sorted(photos.glob("*.jpg"))[0]
    one.with_suffix(".xmp").write_bytes(xmp_of("Dog", "Grandma"))
    tree = tmp_path / "tree"
    words = [photos, "--model", run, "--xmp", "--sidecar-dir", tree, "--known-keywords"]
    words += ["--given", "night=1", "--only", "dog,night", "--json"]
    result = tag(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sidecars"] == {"new": 4}
    found = subjects(tree)
    assert sorted(name.count("/") for name in found) == [0, 0, 0, 1]
    assert "dog" in found[f"{one.name}.xmp"]
    assert all("night" in tags and set(tags) <= {"dog", "night"} for tags in found.values())
    assert list(photos.rglob("*.xmp")) == [one.with_suffix(".xmp")]
    assert tag(photos, "--undo", "--sidecar-dir", tree).exit_code == 0
    assert read_keywords(as_image(one), one.with_suffix(".xmp")) == ("Dog", "Grandma")
    assert list(subjects(tree).values()) == [["night"]] * 4


def test_damaged_sidecar(run: Path, photos: Path) -> None:
    """One error, status 1 if --strict; the others are written, it is not touched."""
    one = sorted(photos.glob("*.jpg"))[0]
    broken = one.with_name(f"{one.name}.xmp")
    broken.write_bytes(b"<x:xmpmeta>")
    words = [photos, "--model", run, "--xmp", "--known-keywords", "--given", "night=1"]
    result = tag(*words)
    assert result.exit_code == 0
    assert result.stderr.count(f"error: {broken}: cannot be read as a sidecar") == 1
    assert f"note: {broken}" in result.stderr
    assert result.stdout == "3 photos tagged; 1 with errors\nsidecars: 3 new\n"
    assert broken.read_bytes() == b"<x:xmpmeta>"
    assert tag(*words, "--strict").exit_code == 1
    assert tag(photos, "--undo", "--strict").exit_code == 1


def test_undo_of_a_folder_whose_photos_are_gone(run: Path, photos: Path) -> None:
    """Its sidecars are found without them; a single photo that is not there is an error."""
    assert tag(photos, "--model", run, "--given", "night=0,sea=1", "--xmp").exit_code == 0
    images = sorted(photos.rglob("*.jpg"))
    for image in images:
        image.unlink()
    undone = tag(photos, "--undo")
    assert undone.exit_code == 0 and "sidecars: " in undone.stdout, undone.output
    assert all(names == ["sea"] for names in subjects(photos).values())
    assert isinstance(tag(images[0], "--undo").exception, DataError)


def test_photos_within_a_container(run: Path, photos: Path, tmp_path: Path) -> None:
    """Nothing can stand beside them, so a parallel tree is asked for before the work."""
    images = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    folder = tmp_path / "shards"
    tar = make_tar(folder / "a.tar", {"1.jpg": images[0], "2.jpg": images[1], "2.png": images[1]})
    table = make_parquet(folder / "b.parquet", [{"image": images[2]}, {"image": b"?"}])
    for words in (["--xmp", "--model", run], ["--txt", "--model", run], ["--undo"]):
        for place, name in ((tar, "a.tar"), (table, "b.parquet")):
            result = tag(place, *words)
            assert isinstance(result.exception, DataError)
            says = rf"/\S+\.jpg: is inside {name}, so no file .*; use --sidecar-dir DIR$"
            assert re.search(says, str(result.exception))
    tree = tmp_path / "tree"
    words = [folder, "--model", run, "--xmp", "--txt", "--threshold", 0.05]
    words += ["--sidecar-dir", tree]
    result = tag(*words)
    assert result.exit_code == 0, result.output
    assert "2 photos tagged; 3 with errors" in result.stdout and "tag files: 2 new" in result.stdout
    assert sorted(subjects(tree)) == [
        *(f"a.tar/{name}.xmp" for name in ("1.jpg", "2.jpg", "2.png")),
        "b.parquet/0000000.jpg.xmp",
    ]
    for name in ("tag file of 2.png too", "tag file of 2.jpg too", "b.parquet/0000001.jpg"):
        assert name in result.stderr
    assert tag(folder, "--undo", "--sidecar-dir", tree).exit_code == 0
    assert not [path for path in tree.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to write: give --xmp, --txt, --embed or --undo"),
        (["--undo", "--from", "a.csv"], "--undo needs no labels"),
        (["--txt", "--from", "a.csv", "--given", "sea=1"], "--from replaces the model"),
        (["--txt", "--min-prob", "2"], "expected a number from 0 to 1, got '2'"),
        (["--xmp", "--parent", " | "], "names no keyword; give one, such as AI"),
    ],
)
def test_usage_errors(photos: Path, words: list[str], says: str) -> None:
    """Status 2, and nothing done."""
    result = tag(photos, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("below", ["", "new/deeper"])
def test_a_parallel_tree_that_is_a_file(
    run: Path, photos: Path, tmp_path: Path, below: str
) -> None:
    """One line before any photo, with --undo too; the file stays."""
    place = tmp_path / "notes.txt"
    place.write_text("mine")
    for words in (["--xmp", "--model", run], ["--undo"]):
        done = tag(photos, *words, "--sidecar-dir", place / below)
        said = f"{place}: is a file; --sidecar-dir takes a folder, there or new"
        assert isinstance(done.exception, MlcrfError) and str(done.exception) == said
    assert place.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "dgo"], "--only: unknown label 'dgo'; did you mean 'dog'"),
        (["--never", "dog,"], "unknown label ''"),
        (["--rename", "absent.csv"], "absent.csv"),
    ],
)
def test_bad_input(run: Path, photos: Path, words: list[str], says: str) -> None:
    """An error of ours, which the program prints as one line; nothing is written."""
    before = set(photos.rglob("*"))
    result = tag(photos, "--model", run, "--xmp", "--txt", *words)
    assert isinstance(result.exception, MlcrfError)
    assert says in str(result.exception)
    assert set(photos.rglob("*")) == before
