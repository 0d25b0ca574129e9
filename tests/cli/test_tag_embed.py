"""`mlcrf tag --embed` as a user runs it, on photos of all sorts in one folder."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mlcrf.errors import SettingsError
from mlcrf.images import as_image
from mlcrf.keywords.photo_keywords import read_keywords
from tests.cli.test_tag import tag
from tests.keywords.pictures import xmp_of

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)
ODD = os.fsdecode(b"caf\xe9.jpg")  # Latin-1
TAGGED = {"-dash.jpg", "keywords.jpg", "plain.png", ODD}
ALONE = {
    "damaged.jpg": "its segments are damaged; use --xmp",
    "kind.gif": "left unchanged: --embed does not write to files of this kind; use --xmp",
    "link.jpg": "is a link and left unchanged",
    "locked.jpg": "is read-only and left unchanged",
}


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    """A folder of photos that are tagged, and of others that are not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sources = sorted((drawn / "images").iterdir())
    for name, source in zip(sorted(TAGGED | ALONE.keys()), sources, strict=False):
        with Image.open(source) as image:
            more = {"xmp": xmp_of("boat")} if name == "keywords.jpg" else {}
            image.convert("RGB").save(folder / name, **more)
    whole = (folder / "damaged.jpg").read_bytes()  # its pixels are read in spite of the damage
    (folder / "damaged.jpg").write_bytes(whole[:20] + b"\0" * 4 + whole[20:])
    (folder / "link.jpg").unlink()
    shutil.copy(folder / "plain.png", tmp_path / "elsewhere.png")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere.png")
    (folder / "locked.jpg").chmod(0o444)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_photos_of_all_sorts(photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tagged or has one line; undo gives back the same bytes, and leaves nothing behind."""
    monkeypatch.chdir(photos)
    before = contents(photos)
    done = tag(".", "--model", run, "--threshold", 0.05, "--embed")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("4 photos tagged; 4 with errors\nphotos: 4 changed\n")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(ALONE)
    for name, message in ALONE.items():
        assert any(name in line and line.endswith(message) for line in errors), (name, errors)
    after = contents(photos)
    assert {name for name in before if after[name] != before[name]} == TAGGED
    assert read_keywords(as_image(photos / "keywords.jpg")) == ("boat",)
    undone = tag(".", "--embed", "--undo")
    assert undone.exit_code == 0, undone.output
    assert undone.stdout.startswith("photos: 4 changed\n")
    assert contents(photos) == before and not (photos / ".mlcrf-before").exists()


def test_an_edit_before_undo(photos: Path, run: Path) -> None:
    """The edit stays; a note says where the original of a cropped photo is."""
    edited = photos / "-dash.jpg"
    before = edited.read_bytes()
    assert tag(edited, "--model", run, "--threshold", 0.05, "--embed").exit_code == 0
    with Image.open(edited) as image:
        image.crop((0, 0, 20, 20)).save(edited, xmp=image.info["xmp"])
    undone = tag(photos, "--embed", "--undo")
    assert undone.stdout.startswith("photos: 1 changed\n"), undone.output
    assert "1 of the photos as they were before --embed" in " ".join(undone.stderr.split())
    with Image.open(edited) as image:
        assert image.size == (20, 20) and "xmp" not in image.info
    (kept,) = (path for path in (photos / ".mlcrf-before").rglob("*") if path.is_file())
    assert kept.read_bytes() == before


def test_without_exiftool(photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, before any work."""
    before = contents(photos)
    monkeypatch.setenv("PATH", "")
    done = tag(photos, "--model", run, "--embed")
    assert done.exit_code == 1
    assert isinstance(done.exception, SettingsError)
    assert str(done.exception).startswith("--embed needs exiftool, which is not installed: apt")
    assert contents(photos) == before
