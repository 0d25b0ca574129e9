"""Sidecars and tag files of predictions: written, run again, undone, and refused."""

import os
from collections import Counter
from pathlib import Path
from threading import Event, active_count
from typing import Any

import pytest

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.readers.tag_files import read_tag_folder
from mlcrf.errors import DataError, MlcrfError, MlcrfWarning, SettingsError
from mlcrf.images import LocalImage, as_image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author, Tag, retag
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.keywords.xmp import Packet, Property
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Change, PhotoFileOptions, PhotoFileSet, Prediction, PredictionWriter
from mlcrf.prediction.photo_files.sidecars import Sidecars
from mlcrf.prediction.photo_files.tag_files import BEFORE, LOG, TagFiles
from mlcrf.rules import Rules
from tests.keywords.pictures import make_photo, xmp_of
from tests.making import images_of

LABELS = LabelSpace(("people", "child", "pet", "dog", "sky"))
RULES = (("child", "people"), ("dog", "pet"))
AUTHOR = Author("model", "c0ffee")


def sidecars(**settings: Any) -> Sidecars:
    places = settings.pop("places", PhotoPlaces())
    return Sidecars(
        places,
        AUTHOR,
        LABELS,
        Rules.from_names(settings.pop("rules", RULES), LABELS),
        **settings,
    )


def levels(path: Path) -> list[str]:
    return Packet(path.read_bytes()).values(Property("lr", "hierarchicalSubject"))


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


ODD = [
    "a.jpg",
    "b\nc.jpg",
    "d\"'<&>.jpg",
    "=1+1.jpg",
    "-e.jpg",
    b"\xff.jpg".decode("utf-8", "surrogateescape"),
]


@pytest.mark.parametrize("name", ODD)
def test_sidecar_of_a_photo_of_any_name(tmp_path: Path, name: str) -> None:
    """New, unchanged, changed, gone, whatever the photo is called."""
    photo = make_photo(tmp_path / name)
    before = everything(tmp_path)
    first = sidecars().write(Prediction(as_image(photo), ("people", "child", "sky")))
    assert (first.action, first.path.name) == ("new", f"{name}.xmp")
    assert levels(first.path) == ["people|child", "sky"]
    assert (
        sidecars().write(Prediction(as_image(photo), ("people", "child", "sky"))).action
        == "unchanged"
    )
    second = sidecars().write(Prediction(as_image(photo), ("sky", "pet", "dog")))
    assert str(second).endswith(": changed; +pet, +dog, -people, -child")
    assert str(second).isprintable()
    assert [one.action for one in sidecars(dry_run=True).undo(as_image(photo))] == ["deleted"]
    assert [one.action for one in sidecars().undo(as_image(photo))] == ["deleted"]
    assert everything(tmp_path) == before
    assert sidecars().undo(as_image(photo)) == []
    assert sidecars().write(Prediction(as_image(photo))).action == "none"


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    """It says the same as the run that follows."""
    photos = [make_photo(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "b.xmp").write_bytes(xmp_of("own"))
    before = everything(tmp_path)
    predictions = [Prediction(as_image(photo), ("sky",)) for photo in photos]
    said = [sidecars(dry_run=True).write(one) for one in predictions]
    said += [TagFiles(PhotoPlaces(), LABELS, dry_run=True).write(one) for one in predictions]
    assert everything(tmp_path) == before
    done = [sidecars().write(one) for one in predictions]
    done += [TagFiles(PhotoPlaces(), LABELS).write(one) for one in predictions]
    assert said == done
    assert [change.action for change in done] == ["new", "changed", "new", "new"]


def test_transitive_rules_make_one_path(tmp_path: Path) -> None:
    """A rule that follows from others adds no path of its own."""
    rules = (("dog", "pet"), ("pet", "people"), ("dog", "people"))
    photo = make_photo(tmp_path / "a.jpg")
    labels = ("people", "pet", "dog")
    change = sidecars(rules=rules).write(Prediction(as_image(photo), labels))
    assert levels(change.path) == ["people|pet|dog"]


def test_a_damaged_sidecar_is_one_error_and_stays(tmp_path: Path) -> None:
    """The photo has its row and its error; the others have their sidecars."""
    photos = [make_photo(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    (tmp_path / "b.jpg.xmp").write_bytes(b"<x:xmpmeta>")
    out = tmp_path / "out" / "tags.csv"
    seen: list[Change] = []
    photo_files = PhotoFileSet([sidecars()], seen.append)
    with PredictionWriter(out, LABELS, photo_files=photo_files) as writer:
        for photo in photos:
            writer.write(Prediction(as_image(photo), ("sky",), (0.5,) * 5, (0.5,) * 5))
        writer.require_one()
    assert (writer.written, writer.failed) == (3, 1)
    assert "b.jpg.xmp: cannot be read as a sidecar: it is not XML" in writer.first_errors()[0]
    assert (tmp_path / "b.jpg.xmp").read_bytes() == b"<x:xmpmeta>"
    assert "b.jpg.xmp" in (out.parent / "tags.errors.csv").read_text()
    assert len(out.read_text().splitlines()) == 4
    assert [change.path.name for change in seen] == ["a.jpg.xmp", "c.jpg.xmp"]
    assert photo_files.counts == {"sidecars": Counter({"new": 2})}
    with PredictionWriter(None, LABELS, photo_files=photo_files) as writer:
        writer.write(Prediction(as_image(photos[1]), ("sky",)))
        with pytest.raises(DataError, match=r"no image could be tagged\n.*b\.jpg\.xmp"):
            writer.require_one()
    _, faults = PhotoFileOptions(xmp=True).undo(images_of(photos), PhotoPlaces())
    assert len(faults) == 1 and "b.jpg.xmp" in faults[0]
    with pytest.raises(DataError, match="nothing could be undone"):
        PhotoFileOptions(xmp=True).undo(images_of(photos[1:2]), PhotoPlaces())


def test_photos_that_share_a_sidecar_are_written_in_order(tmp_path: Path) -> None:
    """The later photo's labels stay, though several threads write."""
    shared = [tmp_path / f"{number}.xmp" for number in range(30)]
    with PredictionWriter(None, LABELS, photo_files=PhotoFileSet([sidecars()])) as writer:
        for sidecar in shared:
            packet = Packet(xmp_of("own"))
            packet.set_text(Property("photoshop", "SidecarForExtension"), "JPG")
            sidecar.write_bytes(packet.to_bytes())
            photos = [sidecar.with_suffix(suffix) for suffix in (".jpeg", ".jpg")]
            for photo, label in zip(photos, ("sky", "people"), strict=True):
                writer.write(Prediction(as_image(make_photo(photo)), (label,)))
    assert [levels(sidecar)[-1] for sidecar in shared] == ["people"] * 30


class _Slow(TagFiles):
    """A writer that waits before it fails."""

    def __init__(self, go: Event) -> None:
        super().__init__(PhotoPlaces(), LABELS)
        self._go = go

    def write(self, prediction: Prediction) -> Change:
        self._go.wait()
        raise MlcrfError(f"{prediction.image}: no")


def test_a_photo_counts_once_its_files_are_written(tmp_path: Path) -> None:
    """And errors come in the order of the photos."""
    go, images = Event(), [as_image(tmp_path / f"{number}.jpg") for number in range(30)]
    with PredictionWriter(None, LABELS, photo_files=PhotoFileSet([_Slow(go)])) as writer:
        for image in images:
            writer.write(Prediction(image, ("sky",)))
        assert writer.failed == 0
        go.set()
    assert writer.first_errors() == [f"{image}: no" for image in images]


def test_a_stop_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Sidecars that were begun are whole; no temporary file stays, and no thread."""
    photos = [make_photo(tmp_path / f"{number}.jpg") for number in range(60)]
    before = active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        PredictionWriter(None, LABELS, photo_files=PhotoFileSet([sidecars()])) as writer,
    ):
        for photo in photos:
            writer.write(Prediction(as_image(photo), ("sky",)))
        raise KeyboardInterrupt
    assert active_count() == before
    written = [path for path in tmp_path.iterdir() if path not in photos]
    assert {path.suffix for path in written} <= {".xmp"}
    assert all(levels(path) == ["sky"] for path in written)


@pytest.mark.parametrize("xmp", [b"", xmp_of("own")])
def test_photos_of_equal_metadata_get_the_sidecar_of_each_alone(xmp: bytes, tmp_path: Path) -> None:
    """It is computed once."""
    photos = [make_photo(tmp_path / name, xmp=xmp) for name in ("a.jpg", "b.jpg")]
    predictions = [Prediction(as_image(photo), ("people", "child")) for photo in photos]
    together = sidecars()
    contents = [together.write(one).path.read_bytes() for one in predictions]
    sidecars().undo(predictions[1].image)
    assert contents == [sidecars().write(predictions[1]).path.read_bytes()] * 2


def test_a_sidecar_that_cannot_be_written(tmp_path: Path) -> None:
    """One line that names it; what stood in the way is untouched."""
    photo = make_photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").mkdir()
    with pytest.raises(MlcrfError, match=r"a\.jpg\.xmp: cannot be written"):
        sidecars().write(Prediction(as_image(photo), ("sky",)))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_name_that_is_too_long_with_its_suffix(dry_run: bool, tmp_path: Path) -> None:
    """One error beside the row of its photo; the other files and photos go on."""
    names = [f"{'a' * 247}.jpg", f"{'b' * 251}.jpg", "c.jpg"]  # 255 bytes is the limit
    images = [as_image(make_photo(tmp_path / name)) for name in names]
    kinds = [sidecars(dry_run=dry_run), TagFiles(PhotoPlaces(), LABELS, dry_run=dry_run)]
    photo_files = PhotoFileSet(kinds)
    writer = PredictionWriter(tmp_path / "tags.csv", LABELS, photo_files=photo_files)
    with writer:
        for image in images:
            writer.write(Prediction(image, ("sky",), (0.1,) * 5, (0.1,) * 5))
    assert (writer.written, writer.failed) == (3, 1)
    (error,) = writer.first_errors()
    assert error == f"{tmp_path / names[1]}.xmp: its name is too long; rename the image"
    assert photo_files.counts["sidecars"].total() == 2
    assert photo_files.counts["tag files"].total() == 3
    for image in images:
        photo_files.undo(image)
    assert not list(tmp_path.glob("*.xmp")) and not list(tmp_path.glob("*.txt"))


def test_undo_finds_ours_wherever_it_was_written(tmp_path: Path) -> None:
    """Also in `photo.xmp` once a raw file has come beside the photo, or another sidecar."""
    photo = make_photo(tmp_path / "a.jpg")
    (tmp_path / "a.xmp").write_bytes(xmp_of("own"))
    assert sidecars().write(Prediction(as_image(photo), ("sky",))).path.name == "a.xmp"
    (tmp_path / "a.CR2").touch()
    assert sidecars().write(Prediction(as_image(photo), ("pet",))).path.name == "a.jpg.xmp"
    assert [one.action for one in sidecars().undo(as_image(photo))] == ["deleted", "changed"]
    assert Packet((tmp_path / "a.xmp").read_bytes()).values(Property("dc", "subject")) == ["own"]


def test_tag_files_are_what_training_reads(tmp_path: Path) -> None:
    """One tag a line, empty for none; run again they are replaced, undone they are gone."""
    photos = [make_photo(tmp_path / name) for name in ("a.jpg", "b\nc.jpg", "sub/d.jpg")]
    before = everything(tmp_path)
    chosen: list[tuple[str, ...]] = [("people", "child"), (), ("sky",)]
    for photo, labels in zip(photos, chosen, strict=True):
        assert (
            TagFiles(PhotoPlaces(), LABELS).write(Prediction(as_image(photo), labels)).action
            == "new"
        )
    manifest = read_tag_folder(tmp_path, ReadOptions(labels=LABELS))
    assert manifest.targets.tolist() == [[1, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 0, 1]]
    files = TagFiles(PhotoPlaces(), LABELS)
    change = files.write(Prediction(as_image(photos[0]), ("people", "sky")))
    assert str(change).endswith("a.txt: changed; +sky, -child")
    assert files.write(Prediction(as_image(photos[0]), ("people", "sky"))).action == "unchanged"
    files = TagFiles(PhotoPlaces())
    undone = [one.action for photo in photos for one in files.undo(as_image(photo))]
    assert undone == ["deleted"] * 3
    files.close()
    assert everything(tmp_path) == before


def test_tag_files_of_a_person_stay(tmp_path: Path) -> None:
    """One that was there, and one of ours that was edited."""
    old, edited, ours = (make_photo(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg"))
    (tmp_path / "a.txt").write_text("grandma\n")
    files = TagFiles(PhotoPlaces(), LABELS)
    files.write(Prediction(as_image(edited), ("sky",)))
    files.write(Prediction(as_image(ours), ("sky",)))
    (tmp_path / "b.txt").write_text("sky\ngrandpa\n")
    (tmp_path / "copy.txt").write_bytes((tmp_path / "c.txt").read_bytes())
    for photo in (old, edited):
        with pytest.raises(
            DataError, match="exists and is not by mlcrf; --replace-txt replaces it"
        ):
            files.write(Prediction(as_image(photo), ("pet",)))
    assert (tmp_path / LOG).exists()
    undoing = TagFiles(PhotoPlaces())
    photos = (old, edited, ours, tmp_path / "copy.jpg")
    actions = [one.action for photo in photos for one in undoing.undo(as_image(photo))]
    assert actions == ["unchanged", "unchanged", "deleted", "unchanged"]
    undoing.close()
    assert not (tmp_path / LOG).exists()
    assert (tmp_path / "a.txt").read_text() == "grandma\n"
    for photo in (old, edited):
        TagFiles(PhotoPlaces(), LABELS, replace=True).write(Prediction(as_image(photo), ("pet",)))
    assert (tmp_path / "b.txt").read_text() == "pet\n"


def test_replaced_tag_files_come_back(tmp_path: Path) -> None:
    """The same file, with its time; an earlier copy is never replaced by a later one."""
    photo = make_photo(tmp_path / "a.jpg")
    path = tmp_path / "a.txt"
    path.write_text("grandma\n")
    before, old = everything(tmp_path), path.stat()
    files = TagFiles(PhotoPlaces(), LABELS, replace=True)
    for label in ("pet", "sky"):
        files.write(Prediction(as_image(photo), (label,)))
    assert path.read_text() == "sky\n"
    path.write_text("grandpa\n")
    with pytest.raises(MlcrfError, match=r"a\.txt: not replaced, since an earlier version is kept"):
        files.write(Prediction(as_image(photo), ("pet",)))
    assert [one.action for one in TagFiles(PhotoPlaces()).undo(as_image(photo))] == ["unchanged"]
    assert path.read_text() == "grandpa\n"
    path.write_text("sky\n")
    undoing = TagFiles(PhotoPlaces())
    assert [one.action for one in undoing.undo(as_image(photo))] == ["changed"]
    undoing.close()
    assert everything(tmp_path) == before
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
    assert not (tmp_path / BEFORE).exists()


def test_what_undo_cannot_bring_back_is_told(tmp_path: Path) -> None:
    """A replaced file whose place has changed since; also where only the folder is named."""
    photo = make_photo(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("grandma\n")
    files = TagFiles(PhotoPlaces(), LABELS, replace=True)
    files.write(Prediction(as_image(photo), ("sky",)))
    (tmp_path / "a.txt").write_text("sky\nmore\n")
    for listed in ([as_image(photo)], []):
        with pytest.warns(MlcrfWarning, match=r"\.mlcrf-before/a\.txt: still kept"):
            undone, faults = PhotoFileOptions(txt=True).undo(listed, PhotoPlaces(), [tmp_path])
        assert not faults and undone.counts["tag files"] == Counter({"unchanged": 1})
    assert (tmp_path / BEFORE / "a.txt").read_text() == "grandma\n"


def test_undo_beside_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A link to nothing, a folder: none is ours, and the log goes with the last of ours."""
    photo = make_photo(tmp_path / "a.jpg")
    TagFiles(PhotoPlaces(), LABELS).write(Prediction(as_image(photo), ("sky",)))
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    (tmp_path / "folder.txt").mkdir()
    undoing = TagFiles(PhotoPlaces())
    assert [one.action for one in undoing.undo(as_image(photo))] == ["deleted"]
    undoing.close()
    assert not (tmp_path / LOG).exists() and not (tmp_path / "a.txt").exists()


def test_undo_tells_of_each_file_once(tmp_path: Path) -> None:
    """A dry run leaves what it would delete, and a fault what it could not."""
    photos = [make_photo(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    images = [LocalImage(str(one)) for one in photos]
    for image in images:
        sidecars().write(Prediction(image, ("sky",)))
        TagFiles(PhotoPlaces(), LABELS).write(Prediction(image, ("sky",)))
    (tmp_path / "b.jpg.xmp").chmod(0o444)
    (tmp_path / "b.txt").chmod(0o444)
    told: list[Change] = []
    options = PhotoFileOptions(dry_run=True, report=told.append)
    undone, faults = options.undo(images, PhotoPlaces(), [tmp_path])
    assert len(told) == 2 and len(faults) == 1 and faults[0].count("is read-only") == 2
    assert undone.counts == {kind: Counter({"deleted": 1}) for kind in ("sidecars", "tag files")}


def test_undo_finds_files_whose_image_is_gone(tmp_path: Path) -> None:
    """Renamed or deleted; a person's files and hidden folders are left alone."""
    names = ("a.jpg", "b.jpg", "sub/c.jpg", "d.jpg")
    photos = [make_photo(tmp_path / name) for name in names]
    (tmp_path / "b.xmp").write_bytes(xmp_of("own"))
    (tmp_path / "d.txt").write_text("grandma\n")
    before = everything(tmp_path)
    tagged = TagFiles(PhotoPlaces(), LABELS, replace=True)
    for photo in photos:
        sidecars().write(Prediction(as_image(photo), ("sky",)))
        tagged.write(Prediction(as_image(photo), ("sky",)))
    photos[0].rename(tmp_path / "renamed.jpg")
    (tmp_path / "a.jpg.xmp").rename(tmp_path / "renamed.jpg.xmp")
    photos[1].unlink()
    photos[2].unlink()
    (tmp_path / "e.jpg.xmp").write_bytes(b"<x:xmpmeta urn:mlcrf:tags/1.0/")
    left = [LocalImage(str(photos[3]))]
    undone, faults = PhotoFileOptions().undo(left, PhotoPlaces(), [tmp_path])
    assert len(faults) == 1 and "e.jpg.xmp: cannot be read as a sidecar" in faults[0]
    assert undone.counts == {
        "sidecars": Counter({"deleted": 3, "changed": 1}),
        "tag files": Counter({"deleted": 3, "changed": 1}),
    }
    after = everything(tmp_path)
    after["a.jpg"] = after.pop("renamed.jpg")
    del after["e.jpg.xmp"]
    assert after == {name: raw for name, raw in before.items() if name not in names[1:3]}


def test_files_keep_their_owner_mode_and_attributes(tmp_path: Path) -> None:
    """Written anew they are the person's as before; links lead to the file that they name."""
    photo = make_photo(tmp_path / "a.jpg")
    target = tmp_path / "elsewhere.xmp"
    target.write_bytes(xmp_of("own"))
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12345, 23456)
    try:
        os.setxattr(target, "user.note", b"mine")
    except (AttributeError, OSError):
        attributes = False
    else:
        attributes = True
    (tmp_path / "a.xmp").symlink_to(target)
    old = target.stat()
    assert sidecars().write(Prediction(as_image(photo), ("sky",))).action == "changed"
    new = target.stat()
    assert (tmp_path / "a.xmp").is_symlink() and b"sky" in target.read_bytes()
    assert (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid)
    assert not attributes or os.getxattr(target, "user.note") == b"mine"
    assert [one.action for one in sidecars().undo(as_image(photo))] == ["changed"]
    assert target.read_bytes() == xmp_of("own")


def test_files_that_are_protected_stay(tmp_path: Path) -> None:
    """Read-only ones, and links into an annex whose content is not there."""
    photo = make_photo(tmp_path / "a.jpg")
    prediction = Prediction(as_image(photo), ("sky",))
    (tmp_path / "a.jpg.xmp").symlink_to(tmp_path / "annex" / "key")
    (tmp_path / "a.txt").symlink_to(tmp_path / "annex" / "other")
    for writer in (sidecars(), TagFiles(PhotoPlaces(), LABELS, replace=True)):
        with pytest.raises(MlcrfError, match=r"a\.(jpg\.xmp|txt): cannot be (read|written)"):
            writer.write(prediction)
    assert (tmp_path / "a.jpg.xmp").is_symlink() and not (tmp_path / "annex").exists()
    (tmp_path / "a.jpg.xmp").unlink()
    (tmp_path / "a.jpg.xmp").write_bytes(xmp_of("own"))
    (tmp_path / "a.jpg.xmp").chmod(0o444)
    for dry_run in (True, False):
        with pytest.raises(MlcrfError, match=r"a\.jpg\.xmp: is read-only and left unchanged"):
            sidecars(dry_run=dry_run).write(prediction)
    assert (tmp_path / "a.jpg.xmp").read_bytes() == xmp_of("own")
    (tmp_path / "a.jpg.xmp").unlink()
    made = sidecars().write(prediction).path
    moved = made.rename(tmp_path / "moved.xmp")
    made.symlink_to(moved)
    with pytest.raises(MlcrfError, match=r"a\.jpg\.xmp: is a link and not deleted"):
        sidecars().undo(as_image(photo))


def test_tag_files_that_two_photos_would_share(tmp_path: Path) -> None:
    """An error that names the other one."""
    photo = make_photo(tmp_path / "a.jpg")
    make_photo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.txt: would be the tag file of a\.png too"):
        TagFiles(PhotoPlaces(), LABELS).write(Prediction(as_image(photo), ("sky",)))
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize(
    ("name", "xmp", "txt"), [("a,b", True, False), ("?", True, False), ("a/b", False, True)]
)
def test_names_that_one_form_cannot_hold(name: str, xmp: bool, txt: bool) -> None:
    """Refused at once, with what to do."""
    labels = LabelSpace((name,))
    for allowed, make in (
        (xmp, lambda: Sidecars(PhotoPlaces(), AUTHOR, labels)),
        (txt, lambda: TagFiles(PhotoPlaces(), labels)),
    ):
        if allowed:
            make()
        else:
            with pytest.raises(SettingsError, match="--rename"):
                make()


def test_a_folder_with_keywords_is_a_data_set(tmp_path: Path) -> None:
    """A person's keywords are labels, ours are not; what has none is left out and counted."""
    make_photo(tmp_path / "a.jpg", xmp=xmp_of("Sea", "Ann"))
    make_photo(tmp_path / "b.jpg")
    (tmp_path / "b.xmp").write_bytes(xmp_of("sky", "x;y"))
    ours = make_photo(tmp_path / "c.jpg")
    Sidecars(PhotoPlaces(), AUTHOR, LABELS).write(Prediction(as_image(ours), ("sky",)))
    manifest = read_dataset(tmp_path)
    assert [image.file_name for image in manifest.images] == ["a.jpg", "b.jpg"]
    assert manifest.labels.names == ("Ann", "Sea", "sky")
    assert manifest.targets.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert manifest.notes == (
        "1 image without keywords is left out",
        "1 keyword other than labels is left out: x;y",
    )
    from mlcrf.data.readers.keyword_folder import read_keyword_folder

    told = read_keyword_folder(tmp_path, ReadOptions(labels=LabelSpace(("sky", "sea", "dog"))))
    assert told.targets.tolist() == [[0, 1, 0], [1, 0, 0]]
    (tmp_path / "d.jpg.xmp").write_bytes(b"")
    make_photo(tmp_path / "d.jpg")
    damaged = read_dataset(tmp_path)
    assert damaged.targets.tolist() == manifest.targets.tolist()
    assert damaged.notes[0].startswith("1 image that cannot be read is left out: ")
    assert "d.jpg.xmp: cannot be read as a sidecar: it is not XML" in damaged.notes[0]


def test_retagging_never_counts_as_keywords(tmp_path: Path) -> None:
    """What we wrote as ours is no known keyword; what a person confirmed is."""
    photo = make_photo(tmp_path / "a.jpg")
    files = sidecars()
    prediction = Prediction(as_image(photo), ("people", "child", "sky"), confirmed=("sky",))
    path = files.write(prediction).path
    assert read_keywords(as_image(photo), path) == ("sky",)
    assert retag(path.read_bytes(), [Tag("dog", (("dog",),))], AUTHOR).removed == (
        "people",
        "child",
    )
