"""Paths of images: found as written or repaired with a note, refused where a repair would guess."""

import os
import unicodedata
from pathlib import Path

import pytest

from mlcrf.data.image_paths import find_images


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


COMPOSED = "caf\u00e9.jpg"
# Files that are there, the path as written, the file that it means, and a word of the note.
REPAIRS = {
    "space": (["a.jpg"], " a.jpg ", "a.jpg", "with space"),
    "backslashes": (["x/a.jpg"], "x\\a.jpg", "x/a.jpg", "with backslashes"),
    "windows": (["x/a.jpg"], "C:\\old\\x\\a.jpg", "x/a.jpg", "with backslashes"),
    "share": (["x/a.jpg"], "\\\\server\\x\\a.jpg", "x/a.jpg", "folders that are not here"),
    "file-url-of-another-machine": (["a.jpg"], "file:///old/a.jpg", "a.jpg", "file://"),
    "file-url-localhost": (["a.jpg"], "file://localhost/old/a.jpg", "a.jpg", "file://"),
    "percent": (["a b.jpg"], "a%20b.jpg", "a b.jpg", "percent-encoded"),
    "percent-utf-8": ([COMPOSED], "caf%C3%A9.jpg", COMPOSED, "percent-encoded"),
    "too-many-folders": (["a.jpg"], "images/a.jpg", "a.jpg", "folders that are not here"),
    "too-few-folders": (["images/a.jpg"], "a.jpg", "images/a.jpg", "without the folder"),
    "data": (["data/a.jpg"], "a.jpg", "data/a.jpg", "without the folder"),
    "photos": (["Photos/a.jpg"], "a.jpg", "Photos/a.jpg", "without the folder"),
    "other-folder": (["images/x/a.jpg"], "data/x/a.jpg", "images/x/a.jpg", "without the folder"),
    "another-machine": (["x/a.jpg"], "/home/me/set/x/a.jpg", "x/a.jpg", "folders that are not"),
    "home": (["x/a.jpg"], "~/set/x/a.jpg", "x/a.jpg", "folders that are not here"),
    "above": (["x/a.jpg"], "../set/x/a.jpg", "x/a.jpg", "folders that are not here"),
    "longest-end": (["x/a.jpg", "a.jpg"], "/old/x/a.jpg", "x/a.jpg", "folders that are not here"),
    "case": (["a.jpg"], "A.JPG", "a.jpg", "differ in case"),
    "case-of-a-folder": (["Sea/a.jpg"], "sea/a.jpg", "Sea/a.jpg", "differ in case"),
    "accents": ([COMPOSED], unicodedata.normalize("NFD", COMPOSED), COMPOSED, "accents"),
    "accents-of-a-file": (
        [unicodedata.normalize("NFD", COMPOSED)],
        COMPOSED,
        unicodedata.normalize("NFD", COMPOSED),
        "accents",
    ),
    "suffix": (["a.jpg"], "a", "a.jpg", "without suffix"),
    "suffix-after-a-dot": (["a.1.png"], "a.1", "a.1.png", "without suffix"),
    "several": (["images/A b.jpg"], "c:\\x\\a%20B.JPG", "images/A b.jpg", "differ in case"),
}


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs(tmp_path: Path, name: str) -> None:
    """The file that a path means is found, and a note names the repair with a count."""
    files, text, expected, word = REPAIRS[name]
    found = find_images([text, *files[1:]], make_files(tmp_path, *files))
    assert not found.faults
    assert found.images[0] is not None
    assert found.images[0].name == str(tmp_path / expected)
    assert any(word in note and ": 1 repaired" in note for note in found.notes)


@pytest.mark.parametrize(
    "text", ["a.jpg", "./a.jpg", "x/../a.jpg", "x/b.jpg", ".//a.jpg", "{root}/a.jpg"]
)
def test_paths_as_written(tmp_path: Path, text: str) -> None:
    """A path that leads to a file is no repair, even where a repaired one would too."""
    make_files(tmp_path, "a.jpg", "A.jpg", "images/a.jpg", "x/b.jpg", "a.png")
    found = find_images([text.format(root=tmp_path)], tmp_path)
    assert not found.faults and not found.notes
    assert found.images[0] is not None and os.path.isfile(found.images[0].name)  # noqa: PTH113


def test_a_file_url_of_this_machine(tmp_path: Path) -> None:
    """`file://` and percent-encoding lead to the file itself."""
    make_files(tmp_path / "x y", "a.jpg")
    found = find_images([f"file://{tmp_path}/x%20y/a.jpg"], tmp_path / "elsewhere")
    assert found.images[0] is not None
    assert found.images[0].name == str(tmp_path / "x y" / "a.jpg")


def test_the_folder_of_the_root(tmp_path: Path) -> None:
    """A path that begins with the root's own folder is found below it, others are not."""
    root = make_files(tmp_path / "set" / "train", "a.jpg")
    found = find_images(["train/a.jpg", "set/train/a.jpg"], root)
    assert "both lead to 'a.jpg'" in found.faults[1] and found.images[0] is not None
    assert "missing image 'test/a.jpg'" in find_images(["test/a.jpg"], root).faults[0]


AMBIGUOUS = {
    "folders": (["images/a.jpg", "data/a.jpg"], "a.jpg", ["'data/a.jpg'", "'images/a.jpg'"]),
    "case": (["a.jpg", "a.JPG"], "A.jpg", ["'a.JPG'", "'a.jpg'"]),
    "suffix": (["a.jpg", "a.png"], "a", ["'a.jpg'", "'a.png'"]),
    "ends": (["x/A.jpg", "a.jpg"], "/old/x/a.jpg", ["'a.jpg'", "'x/A.jpg'"]),
    "percent": (["x/a%20b.jpg", "x/a b.jpg"], "x\\a%20b.jpg", ["'x/a b.jpg'", "'x/a%20b.jpg'"]),
    "too-many-folders": (["a.jpg", "data/a.jpg"], "images/a.jpg", ["'a.jpg'", "'data/a.jpg'"]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_repairs_are_refused(tmp_path: Path, name: str) -> None:
    """Two files that a path could mean are both named, and neither is taken."""
    files, text, shown = AMBIGUOUS[name]
    found = find_images([text], make_files(tmp_path, *files))
    assert found.images == [None] and not found.notes
    assert found.faults[0] == f"image {text!r} can be {' or '.join(shown)}; write the whole path"


SHARED = {
    "two-folders": ["/old/x/a.jpg", "/old/y/a.jpg"],
    "as-written-first": ["a.jpg", "/old/y/a.jpg"],
    "as-written-last": ["/old/y/a.jpg", "a.jpg"],
    "case": ["a.jpg", "A.jpg"],
    "suffix": ["a", "a.jpg"],
}


@pytest.mark.parametrize("name", SHARED)
def test_two_paths_that_lead_to_one_file_are_refused(tmp_path: Path, name: str) -> None:
    """Images that a repair may have confused are no rows of one image."""
    one, other = SHARED[name]
    found = find_images([one, other, one], make_files(tmp_path, "a.jpg"))
    expected = f"image paths {one!r} and {other!r} both lead to 'a.jpg'; write whole paths"
    assert found.faults[1] == expected


def test_one_path_in_two_spellings_is_one_image(tmp_path: Path) -> None:
    """Slashes and space do not make another image; reading tells that the row stands twice."""
    make_files(tmp_path, "x/a.jpg")
    found = find_images(["x/a.jpg", "x\\a.jpg", " x/a.jpg"], tmp_path)
    assert not found.faults and len({image and image.name for image in found.images}) == 1


MISSING = {
    "elsewhere": (["s/x/a.jpg"], "x/a.jpg", "{root}/s/x/a.jpg exists: use --image-root {root}/s"),
    "elsewhere-twice": (["p/a.jpg", "q/a.jpg"], "a.jpg", "{root}/p/a.jpg (and 1 more) exists: use"),
    "beside": (["../images/a.jpg"], "a.jpg", "images/a.jpg exists: use --image-root"),
    "another-machine": (["p/q/a.jpg"], "/x/y/a.jpg", "exists: use --image-root {root}/p/q"),
    "another-name": (["photo1.jpg", "zebra.jpg"], "photo2.jpg", "the nearest is 'photo1.jpg'"),
    "another-folder": (["x/a.jpg"], "y/a.jpg", "the nearest is {root}/x/a.jpg: correct the path"),
    "another-suffix": (["a.png"], "a.jpg", "the nearest is 'a.png'"),
    "nothing": (["zebra.jpg"], "a.jpg", "if the images are elsewhere, use --image-root FOLDER"),
    "nothing-at-all": ([], "a.jpg", "if the images are elsewhere, use --image-root FOLDER"),
    "no-path": (["a.jpg"], "..", "if the images are elsewhere, use --image-root FOLDER"),
    "zero": (["a.jpg"], "a\0.jpg", "missing image 'a\\x00.jpg'"),
    "long": (["a.jpg"], "/" * 5000 + "x/" * 5000, "missing image"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_image_names_the_nearest(tmp_path: Path, name: str) -> None:
    """One line names what is there, and the option to use."""
    files, text, expected = MISSING[name]
    root = tmp_path / "set" / "root"
    root.mkdir(parents=True)
    found = find_images([text], make_files(root, *files))
    assert found.images == [None]
    assert expected.format(root=root) in found.faults[0]
    assert "\n" not in found.faults[0]


def test_images_in_containers_and_stores_stay_as_written(tmp_path: Path) -> None:
    """Without a check nothing is looked for, and a URL is no path."""
    found = find_images(["a\\b.jpg", None], tmp_path, check=False)
    assert not found.faults and found.images[1] is None
    assert found.images[0] is not None and found.images[0].file_name == "a\\b.jpg"
    assert "gopher" in find_images(["gopher://x/a.jpg"], tmp_path).faults[0]


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of paths of another machine, each in a folder of its own, need few listings."""
    make_files(tmp_path, *(f"images/{number}.jpg" for number in range(20)))
    listed: list[str] = []
    real = os.scandir

    def scandir(folder: str) -> object:
        listed.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_images([f"/old/{n}/x/{n % 20}.jpg" for n in range(20)], tmp_path)
    assert not found.faults
    assert len(listed) == len(set(listed)) < 10


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are looked at one by one."""
    make_files(tmp_path, "a.jpg")

    def scandir(folder: str) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_images(["a.jpg", "b.jpg"], tmp_path)
    assert found.images[0] is not None and list(found.faults) == [1]
