"""`mlcrf predict` with sidecars, tag files and chosen labels, in one process."""

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


def predict(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--engine", "torch", *map(str, words)])


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
    words = [photos, "--model", run, "--rename", names, "--min-prob", 0.05, "--threshold", 0.05]
    words += ["--xmp", "--txt"]
    dry = predict(*words, "--out", out, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert set(photos.rglob("*")) == before and not out.exists()
    done = predict(*words, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"4 photos tagged: {out}\nsidecars: 4 new\ntag files: 4 new\n" == done.stdout
    assert [line for line in dry.stdout.splitlines() if ": new; +" in line]
    rows = pd.read_csv(out)
    assert "p:Etwas & mehr" in rows and f"p:{first}" not in rows
    for row in rows.to_dict("records"):
        image = Path(row["image"])
        tags = row["labels"].split(";")
        assert (
            Packet(image.with_name(f"{image.name}.xmp").read_bytes()).values(
                Property("dc", "subject")
            )
            == tags
        )
        assert image.with_suffix(".txt").read_text().splitlines() == tags
        assert all(row[f"p:{tag}"] >= 0.05 for tag in tags)
    assert any("Etwas & mehr" in tags.split(";") for tags in rows["labels"])
    undone = predict(photos, "--undo", "--json")
    assert json.loads(undone.stdout) == {
        "failed": 0,
        "sidecars": {"deleted": 4},
        "tag files": {"deleted": 4},
    }
    assert set(photos.rglob("*")) == before


def test_a_parallel_tree_known_keywords_and_confirmed_tags(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """The photos' folder is left alone; what was --given is a person's own."""
    one = sorted(photos.glob("*.jpg"))[0]
    one.with_suffix(".xmp").write_bytes(xmp_of("Dog", "Grandma"))
    tree = tmp_path / "tree"
    words = [photos, "--model", run, "--xmp", "--sidecar-dir", tree, "--known-keywords"]
    words += ["--given", "night=1", "--only", "dog,night", "--json"]
    result = predict(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sidecars"] == {"new": 4}
    found = subjects(tree)
    assert sorted(name.count("/") for name in found) == [0, 0, 0, 1]
    assert "dog" in found[f"{one.name}.xmp"]
    assert all("night" in tags and set(tags) <= {"dog", "night"} for tags in found.values())
    assert list(photos.rglob("*.xmp")) == [one.with_suffix(".xmp")]
    assert predict(photos, "--undo", "--sidecar-dir", tree).exit_code == 0
    assert read_keywords(as_image(one), one.with_suffix(".xmp")) == ("Dog", "Grandma")
    assert list(subjects(tree).values()) == [["night"]] * 4


def test_damaged_sidecar(run: Path, photos: Path) -> None:
    """One error, status 1 if --strict; the others are written, it is not touched."""
    one = sorted(photos.glob("*.jpg"))[0]
    broken = one.with_name(f"{one.name}.xmp")
    broken.write_bytes(b"<x:xmpmeta>")
    words = [photos, "--model", run, "--xmp", "--known-keywords", "--given", "night=1"]
    result = predict(*words)
    assert result.exit_code == 0
    assert result.stderr.count(f"error: {broken}: cannot be read as a sidecar") == 1
    assert f"note: {broken}" in result.stderr
    assert result.stdout == "3 photos tagged; 1 with errors\nsidecars: 3 new\n"
    assert broken.read_bytes() == b"<x:xmpmeta>"
    assert predict(*words, "--strict").exit_code == 1
    assert predict(photos, "--undo", "--strict").exit_code == 1


def test_photos_within_a_container(run: Path, photos: Path, tmp_path: Path) -> None:
    """Nothing can stand beside them, so a parallel tree is asked for before the work."""
    images = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    folder = tmp_path / "shards"
    tar = make_tar(folder / "a.tar", {"1.jpg": images[0], "2.jpg": images[1], "2.png": images[1]})
    table = make_parquet(folder / "b.parquet", [{"image": images[2]}, {"image": b"?"}])
    for words in (["--xmp", "--model", run], ["--txt", "--model", run], ["--undo"]):
        for place, name in ((tar, "a.tar"), (table, "b.parquet")):
            result = predict(place, *words)
            assert isinstance(result.exception, DataError)
            says = rf"/\S+\.jpg: is inside {name}, where no file .*; give --sidecar-dir DIR$"
            assert re.search(says, str(result.exception))
    tree = tmp_path / "tree"
    words = [folder, "--model", run, "--xmp", "--txt", "--threshold", 0.05]
    words += ["--sidecar-dir", tree, "--out", tmp_path / "tags.csv"]
    result = predict(*words)
    assert result.exit_code == 0, result.output
    assert "4 photos tagged" in result.stdout and "tag files: 2 new" in result.stdout
    assert sorted(subjects(tree)) == [
        *(f"a.tar/{name}.xmp" for name in ("1.jpg", "2.jpg", "2.png")),
        "b.parquet/0000000.jpg.xmp",
    ]
    errors = pd.read_csv(tmp_path / "tags.errors.csv")
    names = [f"{folder}/{name}" for name in ("a.tar/2.jpg", "a.tar/2.png", "b.parquet/0000001.jpg")]
    assert errors["image"].tolist() == names
    assert predict(folder, "--undo", "--sidecar-dir", tree).exit_code == 0
    assert not [path for path in tree.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to write: give --out FILE, --xmp or --txt"),
        (["--out", "a.csv", "--dry-run"], "--dry-run is for --xmp, --txt and --undo"),
        (["--undo", "--out", "a.csv"], "--undo tags nothing"),
    ],
)
def test_usage_errors(photos: Path, words: list[str], says: str) -> None:
    """Status 2, and nothing done."""
    result = predict(photos, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "dgo"], "unknown label 'dgo'; did you mean 'dog'"),
        (["--never", "dog,"], "unknown label ''"),
        (["--min-prob", "2"], "--min-prob: expected 0 to 1"),
        (["--rename", "absent.csv"], "absent.csv"),
    ],
)
def test_bad_input(run: Path, photos: Path, words: list[str], says: str) -> None:
    """An error of ours, which the program prints as one line; nothing is written."""
    before = set(photos.rglob("*"))
    result = predict(photos, "--model", run, "--xmp", "--txt", *words)
    assert isinstance(result.exception, MlcrfError)
    assert says in str(result.exception)
    assert set(photos.rglob("*")) == before


def test_parts_and_their_merging(run: Path, photos: Path, tmp_path: Path) -> None:
    """As the whole would be; a part that is finished is not made again."""
    (photos / "broken.jpg").write_bytes(b"no picture")
    whole, merged, parts = tmp_path / "whole.csv", tmp_path / "merged.csv", tmp_path / "parts"
    words = [photos, "--model", run, "--threshold", 0.05]
    assert predict(*words, "--out", whole).exit_code == 0
    for number in (1, 2, 3):
        done = predict(*words, "--shard", f"{number}/3", "--out", parts, "--txt")
        assert done.exit_code == 0, done.output
    again = predict(*words, "--shard", "2/3", "--out", parts, "--txt")
    assert again.stdout == f"nothing to do: {parts}/part-00002-of-00003.parquet is finished\n"
    done = CliRunner().invoke(app, ["merge", str(parts), "--out", str(merged)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"4 photos tagged: {merged}; 1 with errors")
    pd.testing.assert_frame_equal(pd.read_csv(whole), pd.read_csv(merged), rtol=0, atol=2e-6)
    errors = [path.with_suffix(".errors.csv").read_text() for path in (whole, merged)]
    assert errors[0] == errors[1] and "broken.jpg" in errors[0]
    bare = predict(*words, "--shard", "2/3", "--out", parts)
    assert "was made with another txt: True, now False" in str(bare.exception)
    other = predict(photos, "--model", run, "--shard", "2/3", "--out", parts, "--txt")
    assert isinstance(other.exception, MlcrfError)
    assert "was made with another decoder" in str(other.exception)
    for wrong in (["--tidy"], ["--excel-safe"], ["--for", "fiftyone"]):
        assert predict(*words, "--shard", "1/3", "--out", parts, *wrong).exit_code == 2
    strict = CliRunner().invoke(app, ["merge", str(parts), "--out", str(merged), "--strict"])
    assert isinstance(strict.exception, MlcrfError) and "exists already" in str(strict.exception)
