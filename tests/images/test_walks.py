"""A walk takes images, counts by kind what it leaves out, and lists each image once."""

import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcrf.choices import RawPairs
from mlcrf.errors import DataError
from mlcrf.images import LeftOut, ListedImages, file_kinds, list_images
from mlcrf.images.file_kinds import Kind, kind_of_file, kind_of_folder
from mlcrf.images.listing import walk_images

LEFT_OUT_FILES = {
    "clip.MOV": Kind.VIDEO,
    "clip.mp4": Kind.VIDEO,
    "layers.psd": Kind.OTHER_FORMAT,
    "drawing.svg": Kind.OTHER_FORMAT,
    "Thumbs.db": Kind.THUMBNAILS,
    "clip.THM": Kind.THUMBNAILS,
    "photo.cr2.xmp": Kind.SIDECAR,
    "photo.AAE": Kind.SIDECAR,
    "shard.tar": Kind.ARCHIVE,
    "photos.zip": Kind.ARCHIVE,
    "rows.parquet": Kind.ARCHIVE,
    ".DS_Store": Kind.SYSTEM,
    "desktop.ini": Kind.SYSTEM,
    "._photo.jpg": Kind.APPLE_DOUBLE,
    ".hidden.jpg": Kind.HIDDEN_FILE,
    "notes.pdf": Kind.OTHER,
    "README": Kind.OTHER,
    "jpg": Kind.OTHER,
}
LEFT_OUT_FOLDERS = {
    "@eaDir": Kind.THUMBNAILS,
    ".thumbnails": Kind.THUMBNAILS,
    "Thumbs": Kind.THUMBNAILS,
    "#recycle": Kind.RECYCLE_BIN,
    "$RECYCLE.BIN": Kind.RECYCLE_BIN,
    ".Trash-1000": Kind.RECYCLE_BIN,
    "My.photoslibrary": Kind.BUNDLE,
    "Old.aplibrary": Kind.BUNDLE,
    "Catalog Previews.lrdata": Kind.BUNDLE,
    "Cloud.lrlibrary": Kind.BUNDLE,
    "Shoot.cocatalog": Kind.BUNDLE,
    ".git": Kind.HIDDEN_FOLDER,
}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(places: Sequence[Path], left_out: LeftOut | None = None) -> list[str]:
    return [one.name for one in list_images(places, left_out)]


@pytest.mark.parametrize(("name", "kind"), LEFT_OUT_FILES.items())
def test_a_file_is_left_out_and_counted(name: str, kind: Kind, tmp_path: Path) -> None:
    """Each kind of file that is no image, beside one that is."""
    touch(tmp_path / "a.jpg", tmp_path / name)
    left_out = LeftOut()
    assert names([tmp_path], left_out) == [str(tmp_path / "a.jpg")]
    assert left_out.record() == {kind.key: 1}
    assert kind.value[0] in str(left_out)


@pytest.mark.parametrize(("name", "kind"), LEFT_OUT_FOLDERS.items())
def test_a_folder_is_left_out_and_counted(name: str, kind: Kind, tmp_path: Path) -> None:
    """Not entered, at any depth; but walked if it is named."""
    touch(tmp_path / "a.jpg", tmp_path / "b" / name / "c.jpg", tmp_path / "b" / name / "d.mov")
    left_out = LeftOut()
    assert names([tmp_path], left_out) == [str(tmp_path / "a.jpg")]
    assert left_out.record() == {kind.key: 1}
    named = tmp_path / "b" / name
    assert names([named]) == [str(named / "c.jpg")]
    left_out = LeftOut()
    assert names([tmp_path, named], left_out) == [str(tmp_path / "a.jpg"), str(named / "c.jpg")]
    assert left_out.record() == {"video": 1}


@pytest.mark.parametrize("name", ["a.JPG", "b.heic", "c.jpeg", "d.tar.png", " .jpg"])
def test_images_are_taken(name: str, tmp_path: Path) -> None:
    """Whatever the case of the suffix."""
    touch(tmp_path / "raw" / name)
    assert names([tmp_path]) == [str(tmp_path / "raw" / name)]


def test_a_named_file_is_never_left_out(tmp_path: Path) -> None:
    """Whatever its kind, also before and after its folder."""
    files = [tmp_path / name for name in LEFT_OUT_FILES if kind_of_file(name) is not Kind.ARCHIVE]
    touch(*files)
    left_out = LeftOut()
    for places in ([*files, tmp_path], [tmp_path, *files]):
        assert names(places, left_out) == list(map(str, files))
    assert not left_out


def test_the_words(tmp_path: Path) -> None:
    """One and several, with suffixes of unknown files, and the first of some folders."""
    for number in range(1200):
        touch(tmp_path / f"{number}.svg")
    touch(tmp_path / "a.mov", *(tmp_path / f"a.{suffix}" for suffix in "pqrs"), tmp_path / "b.q")
    touch(tmp_path / "x.photoslibrary" / "a.jpg", tmp_path / "y.photoslibrary" / "a.jpg")
    left_out = LeftOut()
    assert names([tmp_path], left_out) == []
    assert str(left_out) == (
        "1 video, 1,200 images in other formats, "
        f"2 bundles of photo programs ({tmp_path}/x.photoslibrary, ...), "
        "5 other files (.q, .p, .r, ...)"
    )
    assert left_out.explain_none() == (
        f"no images found; left out: {left_out}; a folder that you name is walked all the same"
    )
    assert LeftOut().explain_none() == "no images found"


RAW_NAMES = ("a.CR2", "b.dng", "c.raf")


def test_raw_files_where_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra `raw` they are images."""
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: True)
    touch(*(tmp_path / name for name in RAW_NAMES))
    left_out = LeftOut()
    assert names([tmp_path], left_out) == [str(tmp_path / name) for name in RAW_NAMES]
    assert not left_out


def test_raw_files_where_they_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it they are counted, and the line says what to install."""
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: False)
    touch(*(tmp_path / name for name in RAW_NAMES))
    left_out = LeftOut()
    assert names([tmp_path], left_out) == []
    assert str(left_out) == "3 RAW files (to read them: pip install 'mlcrf[raw]')"
    assert left_out.record() == {"raw": 3}


PAIRED = ("a.CR2", "a.jpg", "b.dng", "B.HEIC", "c.nef", "c.png", "d.raf", "sub/d.jpg")


@pytest.mark.parametrize("reads", [True, False])
def test_a_raw_file_and_its_jpeg_are_one_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    """By their stem in any case, in one folder; a PNG is no JPEG of a camera."""
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: reads)
    touch(*(tmp_path / name for name in PAIRED))
    others = ["c.nef", "d.raf"] if reads else []
    left_out = LeftOut()
    shown = ["B.HEIC", "a.jpg", "c.png", *others, "sub/d.jpg"]
    assert names([tmp_path], left_out) == sorted(
        (str(tmp_path / name) for name in shown), key=lambda name: ("sub" in name, name)
    )
    assert left_out[Kind.RAW_OF_PAIR] == 2 and left_out[Kind.RAW] == 2 - len(others)
    assert str(left_out).endswith("2 RAW files beside their JPEGs")


def test_both_of_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If asked for, or for a RAW file that is named, before or after its folder."""
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: True)
    raw, jpeg = tmp_path / "a.CR2", tmp_path / "a.jpg"
    touch(raw, jpeg)
    both = [str(one) for one in (raw, jpeg)]
    assert [one.name for one in list_images([tmp_path], raw_pairs=RawPairs.BOTH)] == both
    for places in ([raw, tmp_path], [tmp_path, raw]):
        left_out = LeftOut()
        assert names(places, left_out) == both
        assert left_out[Kind.RAW_OF_PAIR] == 0


def test_many_suffixes_take_no_memory() -> None:
    """A folder of files with random suffixes."""
    left_out = LeftOut()
    for number in range(5000):
        left_out.takes_file(f"a.{number}")
    assert left_out[Kind.OTHER] == 5000
    assert len(left_out._suffixes) == 100


def test_files_of_an_image_are_not_left_out(tmp_path: Path) -> None:
    """Sidecars and text files by the image's name, with or without suffix; no videos."""
    touch(tmp_path / "a.jpg", *(tmp_path / f"a.{end}" for end in ("xmp", "jpg.xmp", "txt", "json")))
    touch(tmp_path / ".mlcrf-tags", tmp_path / ".mlcrf-0a1b-77-x.part")
    touch(tmp_path / ".mlcrf-before" / "earlier.jpg")
    touch(tmp_path / "a.AAE", tmp_path / "a.mov", tmp_path / "b.xmp", tmp_path / "b.txt")
    left_out = LeftOut()
    assert names([tmp_path], left_out) == [str(tmp_path / "a.jpg")]
    assert left_out.record() == {"video": 1, "sidecar": 1, "other": 1}


def test_links(tmp_path: Path) -> None:
    """A linked folder is left out; a link to an image is one, unless its target is listed too."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    touch(outside / "a.jpg", inside / "b.jpg", inside / ".git" / "c.jpg")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "a.jpg").symlink_to(outside / "a.jpg")
    (inside / "again.jpg").symlink_to("b.jpg")
    (inside / "annexed.jpg").symlink_to(".git/c.jpg")
    (inside / "nothing.jpg").symlink_to("none.jpg")
    (inside / "itself.jpg").symlink_to("itself.jpg")
    left_out = LeftOut()
    listed = [Path(one).name for one in names([inside], left_out)]
    assert listed == ["a.jpg", "annexed.jpg", "b.jpg", "itself.jpg", "nothing.jpg"]
    assert left_out.record() == {"linked_folder": 1, "hidden_folder": 1, "repeated": 1}
    both = [Path(one).relative_to(tmp_path).as_posix() for one in names([inside, outside])]
    assert "inside/a.jpg" not in both and "outside/a.jpg" in both
    assert names([inside / "folder"]) == [str(inside / "folder" / "a.jpg")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all folders")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """Is counted and named; an error if it was named itself."""
    closed = tmp_path / "closed"
    touch(tmp_path / "a.jpg", closed / "b.jpg")
    closed.chmod(0)
    try:
        check_unreadable(tmp_path, closed)
    finally:
        closed.chmod(stat.S_IRWXU)


def test_a_folder_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for whatever reason."""
    closed = tmp_path / "closed"
    touch(tmp_path / "a.jpg", closed / "b.jpg")
    scandir = os.scandir

    def fail(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    check_unreadable(tmp_path, closed)


def check_unreadable(folder: Path, closed: Path) -> None:
    left_out = LeftOut()
    assert names([folder], left_out) == [str(folder / "a.jpg")]
    assert str(left_out) == f"1 folder that cannot be read ({closed}/)"
    with pytest.raises(DataError, match="closed: cannot be listed: Permission denied"):
        names([closed])


PLACES = [".", "a", "a/b", "c", "./a/../a", "link", "a/1.jpg", "a/b/2.jpg", "c/link.jpg", "1.jpg"]


@given(st.lists(st.sampled_from(PLACES), min_size=1, max_size=5))
def test_overlapping_places_give_each_image_once(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    """In any order: the union of what each place gives alone, each file once."""
    root = tmp_path_factory.mktemp("places")
    touch(root / "1.jpg", root / "a" / "1.jpg", root / "a" / "b" / "2.jpg", root / "c" / "3.jpg")
    (root / "link").symlink_to("a")
    (root / "c" / "link.jpg").symlink_to("../a/b/2.jpg")
    places = [root / word for word in words]
    alone = {os.path.realpath(one) for place in places for one in names([place])}
    together = names(places)
    assert sorted(map(os.path.realpath, together)) == sorted(alone)
    first = names(places[:1])
    assert together[: len(first)] == first or "c" in words[0] or words[0] == "."


def test_the_same_place_by_several_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute and relative, through a link, and its own files: once, by the first name."""
    photos = tmp_path / "photos"
    touch(photos / "a.jpg", photos / "sub" / "b.jpg")
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    places = [Path("photos"), photos, Path("link"), photos / "sub", photos / "a.jpg", Path()]
    left_out = LeftOut()
    assert names(places, left_out) == ["photos/a.jpg", "photos/sub/b.jpg"]
    assert left_out.record() == {"repeated": 4}
    assert names([Path("link/sub"), Path("link")]) == ["link/sub/b.jpg", "link/a.jpg"]
    assert names([Path()]) == ["photos/a.jpg", "photos/sub/b.jpg"]


def test_hard_links_are_two_images(tmp_path: Path) -> None:
    """Each has its own name, and its own sidecar beside it."""
    touch(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")
    assert len(names([tmp_path])) == 2


def test_containers_are_listed_once(tmp_path: Path) -> None:
    """Those of a folder without images count as left out only beside images."""
    touch(tmp_path / "source" / "a.jpg", tmp_path / "source" / "a.json")
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "a.tar", "w") as archive:
        archive.add(tmp_path / "source" / "a.jpg", "a.jpg")
        archive.add(tmp_path / "source" / "a.json", "a.json")
    left_out, inside = LeftOut(), [str(shards / "a.tar" / "a.jpg")]
    assert names([shards], left_out) == inside
    assert left_out.record() == {"other": 1}
    assert names([shards, shards / "a.tar", shards]) == inside
    assert names([shards / "a.tar", shards]) == inside
    assert names([tmp_path, shards]) == [str(tmp_path / "source" / "a.jpg"), *inside]
    left_out = LeftOut()
    names([tmp_path], left_out)
    assert left_out.record() == {"archive": 1}


def test_a_missing_place_is_known_before_any_image(tmp_path: Path) -> None:
    """So that nothing is tagged in vain."""
    touch(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="none: no such file or folder"):
        next(list_images([tmp_path, tmp_path / "none"]))


def test_counts_are_of_a_complete_iteration(tmp_path: Path) -> None:
    """Not of one that was broken off, nor added up over several."""
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.mov")
    images = ListedImages(lambda left_out: list_images([tmp_path], left_out))
    next(iter(images))
    assert images.any_listed() and not images.left_out
    assert len(images) == len(list(images)) == 2
    assert images.left_out.record() == {"video": 1}
    limited = ListedImages(lambda left_out: list_images([tmp_path], left_out), limit=1)
    assert len(limited) == 1 and not limited.left_out


def test_a_walk_counts_as_the_names_say(tmp_path: Path) -> None:
    """Every file is either listed or counted."""
    paths = [tmp_path / name for name in LEFT_OUT_FILES] + [tmp_path / "a" / "b.jpg"]
    touch(*paths, *(tmp_path / name / "c.jpg" for name in LEFT_OUT_FOLDERS))
    left_out = LeftOut()
    listed = list(walk_images(tmp_path, left_out))
    assert len(listed) + sum(left_out.record().values()) == len(paths) + len(LEFT_OUT_FOLDERS)
    assert all(kind_of_folder(name) for name in LEFT_OUT_FOLDERS)
