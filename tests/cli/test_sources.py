"""Lists of images on standard input, and what commands over folders say they left out."""

import csv
import json
from pathlib import Path

import pytest
import typer

from mlcrf.cli.sources import ImageSource, split_names
from mlcrf.errors import DataError
from tests.images.raw_photos import dng
from tests.images.test_pixels import encoded, quarters
from tests.program import run_program
from tests.review.conftest import make_folder, small_run

__all__ = ["small_run"]

NAMES = ["a.jpg", " b ü.jpg ", "c\td.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n \r\n"])
@pytest.mark.parametrize("ends_with_newline", [True, False])
def test_lines(encoding: str, end: str, ends_with_newline: bool) -> None:
    """LF and CR LF, byte-order marks and blank lines; names keep their spaces."""
    text = end.join(NAMES) + end * ends_with_newline
    assert split_names(text.encode(encoding), null=False) == NAMES


def test_nul_bytes() -> None:
    """Between names with --null, where a name may have any other byte; else they are refused."""
    names = ["a\nb.jpg", "c\r", " ", "\udcff.jpg"]
    content = b"\0".join(name.encode("utf-8", "surrogateescape") for name in names)
    assert split_names(content, null=True) == names
    assert split_names(content + b"\0", null=True) == names
    with pytest.raises(DataError, match="standard input: contains NUL bytes; give --null if"):
        split_names(content, null=False)
    with pytest.raises(DataError, match="contains NUL bytes"):
        split_names("a.jpg\nb.jpg\n".encode("utf-16-le"), null=False)
    with pytest.raises(DataError, match="begins like UTF-16 but is not; save it as UTF-8"):
        split_names(b"\xff\xfea", null=False)
    assert split_names(b"", null=False) == split_names(b"\n \r\n", null=False) == []


def test_null_is_for_lists() -> None:
    """Refused for folders, where it would do nothing."""
    with pytest.raises(typer.BadParameter, match="--null is for names on standard input"):
        ImageSource.read(["photos"], null=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", ["a.jpg", "b.jpg", "c.jpg"])


def rows(table: Path) -> list[str]:
    with table.open(encoding="utf-8", newline="") as stream:
        return [row["image"] for row in csv.DictReader(stream)]


def test_a_list_gives_each_image_once(small_run: Path, photos: Path, tmp_path: Path) -> None:
    """Relative, absolute and quoted names; what is missing or no image is one error each."""
    (photos / "x.psd").write_bytes((photos / "a.jpg").read_bytes()[:20])
    listed = ["photos/a.jpg", f'"{photos}/b.jpg"', str(photos / "a.jpg"), "photos/../photos/a.jpg"]
    listed += ["photos/none.jpg", "photos", "photos/x.psd", "'photos/c.jpg'"]
    words = ["--model", small_run, "--out", tmp_path / "tags.csv", "--json"]
    done = run_program("predict", "-", *words, stdin="\r\n".join(listed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "tags.csv") == ["photos/a.jpg", f"{photos}/b.jpg", "photos/c.jpg"]
    assert rows(tmp_path / "tags.errors.csv") == ["photos/none.jpg", "photos", "photos/x.psd"]
    said = json.loads(done.stdout)
    assert (said["tagged"], said["failed"], said["left_out"]) == (3, 3, {"repeated": 2})
    assert (
        "photos/x.psd: cannot be read as an image: in a format that is not supported" in done.stderr
    )
    assert "photos: cannot be read as an image: a folder, not an image" in done.stderr
    empty = run_program("predict", "-", *words, "--overwrite", stdin="\n", cwd=tmp_path)
    assert empty.stderr == "error: standard input: no images found\n"
    quoted = photos / '"d.jpg"'
    quoted.write_bytes((photos / "a.jpg").read_bytes())
    stdin = f"{quoted}\0photos/a.jpg"
    done = run_program("tag", "-", "-0", "--txt", "--dry-run", stdin=stdin, cwd=tmp_path)
    assert done.stdout.endswith("2 photos tagged\ntag files: 2 new\n"), done.stderr


def test_commands_say_what_was_left_out(small_run: Path, photos: Path, tmp_path: Path) -> None:
    """In the last line; a folder without images in its error; a named file never."""
    for name in ("x.psd", "y.svg", "clip.mov", "@eaDir/a.jpg", ".git/b.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"?")
    line = (
        "left out: 1 video, 2 images in other formats, 1 file or folder of thumbnails, "
        "1 hidden folder\n"
    )
    words = [photos, "--model", small_run]
    done = run_program("predict", *words, "--out", tmp_path / "tags.csv", "--strict")
    assert done.stdout == f"3 photos tagged: {tmp_path / 'tags.csv'}\n{line}"
    done = run_program("tag", *words, "--txt")
    assert done.stdout == f"3 photos tagged\ntag files: 3 new\n{line}", done.stderr
    done = run_program("tag", photos, "--txt", "--undo")
    assert done.stdout == f"tag files: 3 deleted\n{line}"
    shard = ("--shard", "1/1", "--out", tmp_path / "parts")
    named = run_program("predict", *words, photos / "x.psd", *shard)
    assert "x.psd: cannot be read as an image: in a format that is not supported" in named.stderr
    assert "left out of all shards: 1 video, 1 image in another format" in named.stdout
    for path in photos.glob("*.jpg"):
        path.write_bytes(b"?")
    none = run_program("tag", *words, "--txt")
    assert none.stderr.startswith("error: no image could be tagged\n"), none.stderr
    assert none.stderr.endswith(line)
    for path in photos.glob("*.jpg"):
        path.unlink()
    none = run_program("predict", *words, "--out", tmp_path / "none.csv")
    assert none.stderr == (
        f"error: {photos}: no images found; {line.strip()}; a folder that you name is walked all "
        "the same\n"
    )


def test_a_raw_file_and_its_jpeg(small_run: Path, tmp_path: Path) -> None:
    """One photo, whose keywords go to the sidecar of the JPEG; or two; all is undone."""
    pytest.importorskip("rawpy", reason="needs the extra raw")
    content, size = encoded(quarters().resize((480, 320)), "JPEG"), (480, 320)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(content)
    (folder / "a.DNG").write_bytes(dng(content, size))

    (tmp_path / "names.csv").write_text("<b>bird</b>,bird\n")  # a / separates levels

    def sidecars() -> set[str]:
        return {path.name for path in folder.glob("*.xmp")}

    words = ["tag", folder, "--model", small_run, "--xmp", "--decode", "top-k", "--top-k", "2"]
    words += ["--rename", tmp_path / "names.csv"]
    done = run_program(*words)
    assert done.stdout == (
        "1 photo tagged\nsidecars: 1 new\nleft out: 1 RAW file beside its JPEG\n"
    ), done.stderr
    assert sidecars() == {"a.jpg.xmp"}
    done = run_program(*words, "--raw-pairs", "both")
    assert done.stdout.startswith("2 photos tagged\nsidecars: 1 new"), done.stderr
    assert sidecars() == {"a.jpg.xmp", "a.DNG.xmp"}
    done = run_program("tag", folder, "--xmp", "--undo")
    assert done.returncode == 0 and sidecars() == set(), done.stderr
