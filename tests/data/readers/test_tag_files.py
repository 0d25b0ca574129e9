"""Folders of images with a text file of tags beside each."""

from pathlib import Path

import pytest

from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.tag_files import is_tag_folder, read_tag_folder
from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace


def make_folder(root: Path, **tags: str | bytes | None) -> Path:
    """A picture for each name, with its tag file unless that is None; `__` stands for a folder."""
    for name, text in tags.items():
        picture = root / (name.replace("__", "/") + ".jpg")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
        if text is not None:
            content = text if isinstance(text, bytes) else text.encode()
            picture.with_suffix(".txt").write_bytes(content)
    return root


def test_tags_by_line_or_comma(tmp_path: Path) -> None:
    """One tag a line or several between commas; blank lines, marks and space do not matter."""
    make_folder(tmp_path, a="sea\r\nsky\r\n", b="\ufeffsky, sea,\n\n", c="sky", d="")
    manifest = read_tag_folder(tmp_path)
    assert [image.file_name for image in manifest.images] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.targets.tolist() == [[1, 1], [1, 1], [0, 1], [0, 0]]
    assert manifest.splits is None
    assert manifest.name == tmp_path.name
    assert manifest.notes == ()


def test_another_separator(tmp_path: Path) -> None:
    """The separator on a line can be told, and the comma is then part of a tag."""
    make_folder(tmp_path, a="sea, deep;sky")
    assert read_tag_folder(tmp_path, ReadOptions(label_sep=";")).labels.names == (
        "sea, deep",
        "sky",
    )


def test_unknown_and_missing_tag_files(tmp_path: Path) -> None:
    """A single ? is all unknown; an image without tag file is left out, and the notes count it."""
    make_folder(tmp_path, a="sea", b="?\n", c=None, d=None)
    manifest = read_tag_folder(tmp_path)
    assert manifest.targets.tolist() == [[1], [-1]]
    assert manifest.notes == ("2 images without a tag file are left out",)


def test_subfolders_are_walked_in_order(tmp_path: Path) -> None:
    """Folders come by name, hidden files and folders not at all."""
    tags = {"z": "sea", "b__2": "sea", "b__1": "sea", "a__x__1": "sea"}
    make_folder(tmp_path, **tags, **{".hidden__1": "dog", "b__._1": "dog"})
    images = [image.name.removeprefix(f"{tmp_path}/") for image in read_tag_folder(tmp_path).images]
    assert images == ["z.jpg", "a/x/1.jpg", "b/1.jpg", "b/2.jpg"]


def test_expected_labels(tmp_path: Path) -> None:
    """Expected labels give the order; every other tag is an error with its file and line."""
    make_folder(tmp_path, a="sea\nsky")
    labels = LabelSpace(("sky", "dog", "sea"))
    assert read_tag_folder(tmp_path, ReadOptions(labels=labels)).targets.tolist() == [[1, 0, 1]]
    make_folder(tmp_path, b="sky\nseaa\ncat")
    with pytest.raises(DataError) as caught:
        read_tag_folder(tmp_path, ReadOptions(labels=labels))
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "b.txt:2: unknown label 'seaa'; did you mean 'sea'?",
        "b.txt:3: unknown label 'cat'",
    ]


def test_a_damaged_tag_file_among_many(tmp_path: Path) -> None:
    """Its image is left out with a note that names it; if none can be read, that is the error."""
    make_folder(tmp_path, a="sea", c=b"\xff\n", d=b"\0")
    manifest = read_tag_folder(tmp_path)
    assert [image.file_name for image in manifest.images] == ["a.jpg"]
    (note,) = manifest.notes
    assert note.startswith("2 tag files that cannot be read are left out: ")
    assert "c.txt:1: is not UTF-8 text; save it as UTF-8; " in note and "d.txt: " in note
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"c\.txt:1: is not UTF-8 text"):
        read_tag_folder(tmp_path)


def test_tags_that_cannot_be_labels(tmp_path: Path) -> None:
    """A tag with a semicolon, which separates labels in our outputs, is told with the folder."""
    make_folder(tmp_path, a="sea;sky")
    with pytest.raises(DataError, match=rf"{tmp_path.name}: label 'sea;sky' has a .*semicolon"):
        read_tag_folder(tmp_path, ReadOptions(label_sep=","))


def test_folders_without_tags(tmp_path: Path) -> None:
    """No tag file at all, or none with a tag, is one line that says what was expected."""
    make_folder(tmp_path, a=None)
    assert not is_tag_folder(tmp_path)
    with pytest.raises(DataError, match=r"no image has a tag file; expected im1\.txt"):
        read_tag_folder(tmp_path)
    make_folder(tmp_path, a="")
    assert is_tag_folder(tmp_path)
    with pytest.raises(DataError, match="contains no label"):
        read_tag_folder(tmp_path)
