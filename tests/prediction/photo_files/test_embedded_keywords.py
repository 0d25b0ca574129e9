"""Keywords inside images: pixels and a person's metadata stay; undo gives back the same file."""

import json
import os
import random
import shutil
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, ImageSequence

from mlcrf.errors import DataError, MlcrfError, MlcrfWarning
from mlcrf.images import as_image
from mlcrf.images.opening import open_image
from mlcrf.keywords.exiftool import ExifTool
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author
from mlcrf.labels import LabelSpace, fold
from mlcrf.prediction import Prediction
from mlcrf.prediction.photo_files.embedded_keywords import EmbeddedKeywords
from mlcrf.prediction.photo_files.photo_file_set import Action
from mlcrf.prediction.photo_files.tag_files import BEFORE
from mlcrf.rules import Rules
from tests.images.raw_photos import dng
from tests.images.test_raw_files import GREEN
from tests.keywords.pairs import draw_photo
from tests.keywords.pictures import iptc_of, make_photo, segment_of, xmp_of

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)
LABELS = LabelSpace(("people", "child", "sea", "straße"))
RULES = Rules.from_names((("child", "people"),), LABELS)
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


@cache
def _shared() -> ExifTool:
    return ExifTool()


def exiftool(*words: object) -> str:
    return _shared().run(*map(str, words))


def metadata(path: Path) -> dict[str, Any]:
    found = json.loads(exiftool("-json", "-G1", "-a", "-struct", path))[0]
    kept = ("IFD0", "IPTC", "XMP-dc", "XMP-lr", "XMP-digiKam", "XMP-mlcrf")
    return {name: value for name, value in found.items() if name.startswith(kept)}


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


@needs_exiftool
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg: left unchanged: not a regular file"):
        undo(tmp_path / "pipe.jpg")


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
    assert not [name for name in left if name.startswith("XMP")]


@needs_exiftool
def test_exif_that_exiftool_would_tidy_up(tmp_path: Path) -> None:
    """Cameras leave gaps around their notes; exiftool closes them if it looks for XMP in EXIF."""
    photo = tmp_path / "a.jpg"
    entry = struct.pack("<HHI4s", 0x013B, 2, 4, b"Ann\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<I8xH", 16, 1) + entry + bytes(4)
    Image.new("RGB", (8, 8)).save(photo, exif=exif)
    raw = photo.read_bytes()
    assert exif in raw and embed(photo) == [Action.CHANGED]
    assert exif in photo.read_bytes()
    undo(photo)
    assert photo.read_bytes() == raw


@needs_exiftool
def test_photos_as_programs_leave_them(tmp_path: Path) -> None:
    """XMP in every form and encoding, IPTC and EXIF: no keyword of the person is lost."""
    photos = [tmp_path / f"{number}.jpg" for number in (1, 4, 14, 18, 80, 82, 85, 109)]
    for path in photos:
        draw_photo(random.Random(int(path.stem)), path)
    before = {path: path.read_bytes() for path in photos}
    theirs = [{fold(one) for one in read_keywords(as_image(path))} for path in photos]
    embed(*photos)
    for path in photos:
        assert set(map(fold, TAGS)) <= set(map(fold, metadata(path)["XMP-dc:Subject"]))
    tagged = {path: path.read_bytes() for path in photos}
    undo(*photos)
    assert {path: path.read_bytes() for path in photos} == before
    for edit in ("-IFD0:Artist=Ben", "-XMP-dc:Subject+=mine"):
        for path, content in tagged.items():
            path.write_bytes(content)
        exiftool("-overwrite_original", edit, *photos)
        undo(*photos)
        left = [{fold(one) for one in read_keywords(as_image(path))} for path in photos]
        assert [names - {"mine"} for names in left] == theirs


def _make(path: Path) -> Path:
    """An image of the kind that its name says, with an artist in EXIF; of two pages if it can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dng":
        pytest.importorskip("rawpy", reason="the extra `raw` is not installed")
        path.write_bytes(dng(GREEN, (60, 40), size=(120, 80)))
        return path
    reader = {".heic": "pillow_heif", ".jxl": "pylibjxl"}.get(path.suffix)
    if reader is not None:
        module = pytest.importorskip(reader, reason=f"{reader} is not installed")
        (module.register_pillow if reader == "pylibjxl" else module.register_heif_opener)()
    image = Image.linear_gradient("L").convert("RGB").resize((48, 32))
    exif = Image.Exif()
    exif[0x013B] = "Ann"
    pages = path.suffix in {".tif", ".png", ".heic"}
    more: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(90)]} if pages else {}
    image.save(path, exif=exif.tobytes(), **more)
    return path


def _pages(path: Path) -> list[Any]:
    if path.suffix == ".dng":
        with pytest.importorskip("rawpy").imread(str(path)) as raw:
            return [raw.raw_image.copy()]
    with open_image(as_image(path), for_pixels=True) as image:
        return [np.asarray(page) for page in ImageSequence.Iterator(image)]


@needs_exiftool
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".heic", ".avif", ".jxl", ".dng"])
def test_other_kinds(tmp_path: Path, suffix: str) -> None:
    """As in a JPEG, also after an edit of the title in between; the artist stays."""
    photo = _make(tmp_path / f"a{suffix}")
    raw, seen = photo.read_bytes(), _pages(photo)
    assert embed(photo, photo) == [Action.CHANGED, Action.UNCHANGED]
    shown = metadata(photo)
    assert shown["XMP-dc:Subject"] == list(TAGS)
    assert shown["XMP-lr:HierarchicalSubject"] == ["people|child", "sea", "straße"]
    assert shown.get("IFD0:Artist") == (None if suffix in {".dng", ".jxl"} else "Ann")
    assert all(np.array_equal(*both) for both in zip(_pages(photo), seen, strict=True))
    tagged = photo.read_bytes()
    undo(photo)
    assert photo.read_bytes() == raw and list(tmp_path.iterdir()) == [photo]
    photo.write_bytes(tagged)
    exiftool("-overwrite_original", "-XMP-dc:Title=Dawn", "-XMP-dc:Subject+=mine", photo)
    undo(photo)
    left = metadata(photo)
    assert (left["XMP-dc:Title"], left["XMP-dc:Subject"]) == ("Dawn", ["mine"])
    assert not [name for name in left if name.startswith(("XMP-mlcrf", "XMP-lr"))]
    assert all(np.array_equal(*both) for both in zip(_pages(photo), seen, strict=True))


@needs_exiftool
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.NEF", b"MM\0*" + b"0" * 20, "--embed leaves RAW files of cameras alone; use --xmp"),
        ("a.arw", b"\xff\xd8\xff\xe0", "--embed leaves RAW files of cameras alone; use --xmp"),
        ("a.gif", b"GIF89a" + b"0" * 20, "--embed does not write to files of this kind; use --xmp"),
    ],
)
def test_kinds_that_are_not_written(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """One line says what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: left unchanged: {message}"):
        embed(path)
    assert path.read_bytes() == content and undo(path) == []


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
    assert list(photo.parent.iterdir()) == [photo]


@needs_exiftool
def test_a_copy_of_a_photo_with_other_pixels_stays(photo: Path) -> None:
    """It may be the only original; a note says where it is. One of an edited title goes."""
    other = photo.with_name("b.jpg")
    shutil.copy(photo, other)
    raw = photo.read_bytes()
    embed(photo, other)
    with Image.open(photo) as image:
        ImageOps.invert(image).save(photo, xmp=image.info["xmp"])
    exiftool("-overwrite_original", "-XMP-dc:Title=Dusk", other)
    undo(photo, other)
    (kept,) = (one for one in (photo.parent / BEFORE).rglob("*") if one.is_file())
    assert kept.name == "a.jpg" and kept.read_bytes() == raw
    with pytest.warns(
        MlcrfWarning,
        match=r"photos/\.mlcrf-before: still holds, .* 1 of the photos as they were before",
    ):
        assert not list(EmbeddedKeywords().leftovers(photo.parent.parent))


@needs_exiftool
def test_renumbered_photos_are_brought_back(photo: Path) -> None:
    """A copy has the name that another photo has now."""
    other = make_photo(photo.with_name("b.jpg"), xmp=xmp_of("harbour"))
    contents = [photo.read_bytes(), other.read_bytes()]
    embed(photo, other)
    moved = [other.rename(photo.with_name("c.jpg")), photo.rename(other)][::-1]
    undo(*moved)
    assert [path.read_bytes() for path in moved] == contents
    assert sorted(photo.parent.iterdir()) == moved


@needs_exiftool
def test_a_photo_that_changes_meanwhile_is_left_alone(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other program wrote stays, and no copy."""
    raw, run = photo.read_bytes(), ExifTool.run

    def while_another_writes(self: ExifTool, *words: str) -> str:
        photo.write_bytes(raw + b"more")
        return run(self, *words)

    monkeypatch.setattr(ExifTool, "run", while_another_writes)
    with pytest.raises(DataError, match="left unchanged: another program has changed it mean"):
        embed(photo)
    assert photo.read_bytes() == raw + b"more" and list(photo.parent.iterdir()) == [photo]


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


def _hidden_data(photo: Path) -> Path:
    """A TIFF with 4 KB that no tag tells of, as ImageJ keeps further slices."""
    path = photo.with_name("b.tif")
    Image.new("L", (8, 8)).save(path)
    raw = path.read_bytes()
    directory = int.from_bytes(raw[4:8], "little")
    moved = (directory + 4096).to_bytes(4, "little")
    path.write_bytes(raw[:4] + moved + raw[8:directory] + bytes(4096) + raw[directory:])
    return path


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
        (_hidden_data, "left unchanged: exiftool would change more than keywords"),
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
