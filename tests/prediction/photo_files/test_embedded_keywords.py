"""Keywords inside JPEGs: pixels and a person's metadata stay, and undo gives back the same file."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlcrf.errors import DataError, MlcrfError
from mlcrf.images import as_image
from mlcrf.implications import Implications
from mlcrf.keywords.exiftool import ExifTool
from mlcrf.keywords.jpeg_keywords import JpegParts, is_jpeg
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Prediction
from mlcrf.prediction.photo_files.embedded_keywords import EmbeddedKeywords
from mlcrf.prediction.photo_files.photo_file_set import Action
from mlcrf.prediction.photo_files.tag_files import BEFORE
from tests.keywords.pictures import iptc_of, make_photo, segment_of, xmp_of

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)
LABELS = LabelSpace(("people", "child", "sea", "straße"))
RULES = Implications.from_names((("child", "people"),), LABELS)
TAGS = ("people", "child", "sea", "straße")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo with a title in XMP, keywords in XMP and IPTC, and an artist in EXIF."""
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ann", 6
    packet = xmp_of("boat").replace(b'rdf:about=""', b'rdf:about="" dc:format="Dawn"')
    path = make_photo(
        tmp_path / "photos" / "a.jpg", xmp=packet, iptc=iptc_of(b"boat", b"harbour"), exif=exif
    )
    os.utime(path, (1e9, 1e9))
    return path


def embed(*photos: Path, tags: tuple[str, ...] = TAGS, **settings: Any) -> list[Action]:
    writer = EmbeddedKeywords(Author("model", "c0ffee"), LABELS, RULES, **settings)
    try:
        return [writer.write(Prediction(as_image(one), tags)).action for one in photos]
    finally:
        writer.close()


def undo(*photos: Path) -> list[Action]:
    writer = EmbeddedKeywords()
    try:
        return [change.action for one in photos for change in writer.undo(as_image(one))]
    finally:
        writer.close()


def exiftool(*words: object) -> str:
    result = subprocess.run(
        ["exiftool", *map(str, words)], capture_output=True, text=True, check=True
    )
    return result.stdout


def metadata(path: Path) -> dict[str, Any]:
    found = json.loads(exiftool("-json", "-G1", "-a", "-struct", path))[0]
    kept = ("IFD0", "IPTC", "XMP-dc", "XMP-lr", "XMP-digiKam", "XMP-mlcrf")
    return {name: value for name, value in found.items() if name.startswith(kept)}


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


@needs_exiftool
def test_every_list_has_both_and_undo_gives_the_same_file(photo: Path) -> None:
    """The same inode with its times; in between, pixels and all else are as they were."""
    raw, status, before, seen = photo.read_bytes(), photo.stat(), metadata(photo), pixels(photo)
    photo.chmod(0o640)
    assert embed(photo) == [Action.CHANGED]
    after = metadata(photo)
    assert np.array_equal(pixels(photo), seen)
    assert after["XMP-dc:Subject"] == ["boat", "people", "child", "sea", "straße"]
    assert after["XMP-lr:HierarchicalSubject"] == ["boat", "people|child", "sea", "straße"]
    assert after["IPTC:Keywords"] == ["boat", "harbour", "people", "child", "sea"]
    changed = {"XMP-dc:Subject", "IPTC:Keywords"}
    assert {name: after[name] for name in before if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    assert photo.stat().st_mode & 0o777 == 0o640
    assert read_keywords(as_image(photo)) == ("boat", "harbour")
    assert embed(photo) == [Action.UNCHANGED]
    assert undo(photo) == [Action.CHANGED]
    assert photo.read_bytes() == raw
    assert (photo.stat().st_ino, photo.stat().st_mtime) == (status.st_ino, status.st_mtime)
    assert list(photo.parent.iterdir()) == [photo]
    assert undo(photo) == []


@needs_exiftool
@pytest.mark.parametrize("iptc", [b"", iptc_of(b"sea", b"boat"), iptc_of(b"Meer", utf8=True)])
def test_photos_without_xmp(tmp_path: Path, iptc: bytes) -> None:
    """New XMP has the keywords of IPTC, which stay a person's; undone after an edit, too."""
    photo = make_photo(tmp_path / "a.jpg", iptc=iptc)
    theirs = read_keywords(as_image(photo))
    before = metadata(photo)
    embed(photo)
    subjects = metadata(photo)["XMP-dc:Subject"]
    assert set(subjects) == {*theirs, *TAGS} and len(subjects) == len(set(subjects))
    assert read_keywords(as_image(photo)) == theirs
    exiftool("-overwrite_original", "-IFD0:Artist=Ben", photo)
    assert undo(photo) == [Action.CHANGED]
    left = metadata(photo)
    assert left.pop("IFD0:Artist") == "Ben"
    assert {name: left.get(name) for name in before} == before
    assert left.get("XMP-dc:Subject", []) in ([*theirs], theirs[0] if theirs else [])
    assert not [name for name in left if name.startswith("XMP-mlcrf")]


@needs_exiftool
def test_another_run_keeps_the_first_photo(photo: Path) -> None:
    """Its keywords replace ours; one copy is kept, and found after the photo is renamed."""
    raw = photo.read_bytes()
    embed(photo)
    embed(photo, tags=("sea",))
    assert metadata(photo)["XMP-dc:Subject"] == ["boat", "sea"]
    assert metadata(photo)["IPTC:Keywords"] == ["boat", "harbour", "sea"]
    (kept,) = (one for one in (photo.parent / BEFORE).rglob("*") if one.is_file())
    assert kept.read_bytes() == raw
    renamed = photo.rename(photo.with_name("b.jpg"))
    undo(renamed)
    assert renamed.read_bytes() == raw
    assert list(renamed.parent.iterdir()) == [renamed]


@needs_exiftool
def test_an_edit_between_two_runs_stays(photo: Path) -> None:
    """Undo removes our keywords of both runs, and none of the person's."""
    before = metadata(photo)
    embed(photo)
    exiftool("-overwrite_original", "-XMP-dc:Subject+=mine", "-IPTC:Keywords+=mine", photo)
    embed(photo, tags=("sea",))
    undo(photo)
    after = metadata(photo)
    assert set(after.pop("XMP-dc:Subject")) == {"boat", "mine"}
    assert after["IPTC:Keywords"] == ["boat", "harbour", "mine"]
    assert after["IFD0:Artist"] == before["IFD0:Artist"]
    assert not [name for name in after if name.startswith("XMP-mlcrf")]


@needs_exiftool
def test_a_digest_of_iptc_stays_true(photo: Path) -> None:
    """Programs that find it false would prefer all of IPTC to XMP."""
    exiftool("-overwrite_original", "-IPTCDigest=new", photo)
    embed(photo)
    noted = json.loads(exiftool("-json", "-IPTCDigest", "-CurrentIPTCDigest", photo))[0]
    assert noted["IPTCDigest"] == noted["CurrentIPTCDigest"]


@needs_exiftool
def test_several_images_in_one_file(tmp_path: Path) -> None:
    """The second image of a phone's JPEG, and the index that finds it, stay as they are."""
    photo = tmp_path / "a.jpg"
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (32, 24), "blue")
    first.save(photo, format="MPO", save_all=True, append_images=[second])
    raw = photo.read_bytes()
    assert embed(photo) == [Action.CHANGED]
    with Image.open(photo) as image:
        image.seek(1)
        assert image.convert("RGB").getpixel((5, 5))[2] > 200
    undo(photo)
    assert photo.read_bytes() == raw


@needs_exiftool
def test_dry_run_changes_nothing(photo: Path) -> None:
    """It says what would change."""
    raw = photo.read_bytes()
    assert embed(photo, dry_run=True) == [Action.CHANGED]
    assert photo.read_bytes() == raw and list(photo.parent.iterdir()) == [photo]


def _link(photo: Path) -> Path:
    link = photo.with_name("link.jpg")
    link.symlink_to(photo)
    return link


def _read_only(photo: Path) -> Path:
    photo.chmod(0o444)
    return photo


def _png(photo: Path) -> Path:
    return make_photo(photo.with_name("b.png"))


def _extended(photo: Path) -> Path:
    raw = photo.read_bytes()
    segment = segment_of(b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 50, 1)
    photo.write_bytes(raw[:2] + segment + raw[2:])
    return photo


def _truncated(photo: Path) -> Path:
    photo.write_bytes(photo.read_bytes()[:300])
    return photo


@needs_exiftool
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_link, "is a link and left unchanged"),
        (_read_only, "is read-only and left unchanged"),
        (_png, "is no JPEG, and --embed changes only these; use --xmp"),
        (_extended, "left unchanged: it has XMP in several segments; use --xmp"),
        (_truncated, "left unchanged: its segments are damaged; use --xmp"),
    ],
)
def test_photos_that_are_left_alone(photo: Path, prepare: Any, message: str) -> None:
    """One line says why; nothing is kept."""
    path = prepare(photo)
    raw, there = path.read_bytes(), set(photo.parent.iterdir())
    with pytest.raises((DataError, MlcrfError), match=message):
        embed(path)
    assert path.read_bytes() == raw and set(photo.parent.iterdir()) == there


@needs_exiftool
def test_a_change_of_anything_else_is_refused(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exiftool returns is compared with the photo before it replaces it."""
    raw, run = photo.read_bytes(), ExifTool.run

    def also_artist(self: ExifTool, *words: str) -> str:
        return run(self, *(("-IFD0:Artist=Eve",) if "-overwrite_original" in words else ()), *words)

    monkeypatch.setattr(ExifTool, "run", also_artist)
    with pytest.raises(MlcrfError, match="exiftool would change more than keywords"):
        embed(photo)
    assert photo.read_bytes() == raw and list(photo.parent.iterdir()) == [photo]


def test_parts_of_a_jpeg(photo: Path) -> None:
    """XMP and IPTC apart from the rest."""
    raw = photo.read_bytes()
    parts = JpegParts.read(raw)
    assert is_jpeg(raw) and parts.has_iptc and parts.xmp is not None and b"boat" in parts.xmp
    assert parts.others[-1].startswith(b"\xff\xda") and raw.endswith(parts.others[-1])
    assert not any(b"boat" in one for one in parts.others)
