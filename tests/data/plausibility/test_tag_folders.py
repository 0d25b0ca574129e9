"""Text files beside images: tags in any encoding that is beyond doubt, boxes of YOLO by name."""

import unicodedata
from pathlib import Path

import pytest

from mlcrf.data.manifest import Split
from mlcrf.errors import DataError
from tests.data.plausibility.making import labels_of, make_files, read
from tests.data.readers.test_webdataset import make_tar
from tests.keywords.pictures import make_photo, xmp_of

TEXTS = {
    "lines": b"sea\nsky\n",
    "crlf": b"sea\r\nsky\r\n",
    "cr": b"sea\rsky",
    "bom": b"\xef\xbb\xbfsea\nsky",
    "bom-crlf": b"\xef\xbb\xbfsea,sky\r\n",
    "comma": b"sea, sky",
    "semicolon": b"sea; sky",
    "bar": b"sea|sky",
    "json": b'["sea", "sky"]',
    "python": b"['sea', 'sky']",
    "quoted": b'"sea", "sky"',
    "twice": b"sea\nsky\nsea\n",
    "blank-lines": b"\n\nsea\n\n  \nsky \n",
}


@pytest.mark.parametrize(
    ("name", "container"),
    [
        *((name, "folder") for name in TEXTS),
        # one file of a tar does not choose the separator
        *((name, "tar") for name in TEXTS if name not in {"semicolon", "bar"}),
    ],
)
def test_texts_of_tags(tmp_path: Path, name: str, container: str) -> None:
    """Line ends, a byte-order mark, separators and lists do not matter."""
    if container == "tar":
        path = make_tar(tmp_path / "x.tar", {"a.jpg": b"x", "a.txt": TEXTS[name]})
    else:
        path = make_files(tmp_path, "a.jpg")
        (path / "a.txt").write_bytes(TEXTS[name])
    assert labels_of(read(path)) == {"a.jpg": {"sea", "sky"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sea\nsky".encode("utf-16"), r"a\.txt:1: is not UTF-8 text but UTF-16"),
        ("caf\u00e9".encode("latin-1"), r"a\.txt:1: is not UTF-8 text; save it as UTF-8"),
        ("sea\nsky".encode("utf-16-le"), r"a\.txt: is not a text file: it contains zero bytes"),
        (b"[1, 0, 1]", "a vector of 0 and 1"),
        (b'{"sea": 1}', "expected a list of labels"),
        (b"nan", "--accept missing-words"),
        (b"sea\nNone", "--accept missing-words"),
        (b"a.jpg", "--accept label-names"),
    ],
)
def test_texts_that_are_no_tags(tmp_path: Path, text: bytes, message: str) -> None:
    make_files(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


PLACES = {
    "beside": ("a.jpg", "a.txt"),
    "whole-name": ("a.jpg", "a.jpg.txt"),
    "case": ("IMG_1.JPG", "img_1.TXT"),
    "accents": ("caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.txt")),
    "folders": ("images/a.jpg", "labels/a.txt"),
    "folders-below": ("set/images/x/a.jpg", "set/labels/x/a.txt"),
    "folders-by-split": ("images/train/a.jpg", "labels/train/a.txt"),
    "below": ("x/y/a.jpg", "x/y/a.txt"),
}


@pytest.mark.parametrize("content", ["tags", "boxes"])
@pytest.mark.parametrize("name", PLACES)
def test_places_of_text_files(tmp_path: Path, name: str, content: str) -> None:
    """The text file of an image is found by its name, beside it or in `labels`."""
    make_files(tmp_path, *PLACES[name])
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    (tmp_path / PLACES[name][1]).write_text("sea" if content == "tags" else "1 .5 .5 .1 .1")
    manifest = read(tmp_path)
    assert labels_of(manifest) == {Path(PLACES[name][0]).name: {"sea"}}
    assert manifest.layout == ("tag-files" if content == "tags" else "yolo")


def test_text_files_of_two_images_and_of_none(tmp_path: Path) -> None:
    """Both are noted; two text files of one image are refused."""
    make_files(tmp_path, "a.jpg", "a.png", "a.txt", "gone.txt")
    (tmp_path / "a.txt").write_text("sea")
    notes = " ".join(read(tmp_path).notes)
    assert "1 tag files belong to several images, such as 'a.txt' to 'a.jpg' and 'a.png'" in notes
    assert "1 text files belong to no image and are not read, such as 'gone.txt'" in notes
    make_files(tmp_path, "a.jpg.txt")
    with pytest.raises(DataError, match=r"has the tag files .*a\.txt and .*a\.jpg\.txt; keep one"):
        read(tmp_path)


def test_another_separator_in_a_few_lines_is_noted(tmp_path: Path) -> None:
    for at in range(6):
        make_files(tmp_path, f"{at}.jpg")
        (tmp_path / f"{at}.txt").write_text("sea|sky" if at == 5 else "sea, sky")
    manifest = read(tmp_path)
    assert "labels separated by ',' (5 lines)" in manifest.facts
    assert any("1 line contains '|', which does not separate" in note for note in manifest.notes)


def test_text_files_without_images(tmp_path: Path) -> None:
    make_files(tmp_path, "a.txt")
    with pytest.raises(DataError, match="text files but no images"):
        read(tmp_path)


NAMES = {
    "classes.txt": "sky\nsea\n",
    "obj.names": "sky\r\nsea\r\n",
    "labels/classes.txt": "sky\nsea",
    "data.yaml": "train: images\nnames: ['sky', \"sea\"]  # two\nnc: 2\n",
    "dataset.yaml": "names:\n  0: sky\n  1: sea\nnc: 2\n",
    "data.yaml-list": "nc: 2\nnames:\n- sky\n- sea\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes(tmp_path: Path, name: str) -> None:
    """Class numbers get their names from the file that the tools of YOLO write."""
    file = name.removesuffix("-list")
    make_files(tmp_path, "a.jpg", "b.jpg", "c.jpg", "b.txt", file)
    (tmp_path / file).write_text(NAMES[name])
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.125\n1 0 1 .5 1e-3\n")
    (tmp_path / "c.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")  # an outline
    manifest = read(tmp_path)
    assert manifest.labels.names == ("sky", "sea")
    assert labels_of(manifest) == {"a.jpg": {"sea"}, "b.jpg": set(), "c.jpg": {"sky"}}
    assert "1 image has no box: every label is absent" in manifest.facts


@pytest.mark.parametrize(
    ("names", "box", "message"),
    [
        (None, "0 .5 .5 .1 .1", "holds boxes of YOLO without names of their classes"),
        ("sea\n", "0 .5 .5 .1 .1\n1 .5 .5 .1 .1", "a.txt:2: class 1 has no name; there are 1"),
        ("sea\nsea\n", "0 .5 .5 .1 .1", "label 'sea' occurs twice"),
    ],
)
def test_boxes_without_names(tmp_path: Path, names: str | None, box: str, message: str) -> None:
    make_files(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text(box)
    if names is not None:
        (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["names: data/names.txt\n", "names:\n  1: sea\n", "nc: 2\n"])
def test_names_in_yaml_that_are_not_read(tmp_path: Path, text: str) -> None:
    make_files(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"write one name per line to classes\.txt"):
        read(tmp_path)


def test_lines_among_boxes_are_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "classes.txt").write_text("sea\n")
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "b.txt").write_text("0 .5 .5 .1 .1\nsky\n")
    with pytest.raises(DataError, match=r"b\.txt:2: 'sky' is no box of YOLO"):
        read(tmp_path)


@pytest.mark.parametrize("layout", ["tags", "boxes", "keywords"])
def test_folders_of_splits(tmp_path: Path, layout: str) -> None:
    """An image in a folder `test` is not learned from."""
    (tmp_path / "classes.txt").write_text("sea\n")
    for at, folder in enumerate(("train", "val", "test")):
        image = tmp_path / folder / f"{at}.jpg"
        make_photo(image, xmp=xmp_of("sea") if layout == "keywords" else b"")
        if layout != "keywords":
            text = "sea" if layout == "tags" else "0 .5 .5 .1 .1"
            image.with_suffix(".txt").write_text(text)
    manifest = read(tmp_path)
    splits = {
        image.file_name: one
        for image, one in zip(manifest.images, manifest.splits or (), strict=True)
    }
    assert splits == {"0.jpg": Split.TRAIN, "1.jpg": Split.VALIDATION, "2.jpg": Split.TEST}
    assert "splits from folders" in manifest.facts


def test_folders_that_are_no_splits(tmp_path: Path) -> None:
    """An image outside of the folders is a note, and there are no splits."""
    make_files(tmp_path, "train/a.jpg", "test/b.jpg", "c.jpg")
    for name in ("train/a.txt", "test/b.txt", "c.txt"):
        (tmp_path / name).write_text("sea")
    manifest = read(tmp_path)
    assert manifest.splits is None
    assert any("2 of 3 images are in folders named after a split" in one for one in manifest.notes)


def test_sidecars_without_image_are_noted(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").write_bytes(xmp_of("sea"))
    (tmp_path / "b.cr2.xmp").write_bytes(xmp_of("sky"))
    manifest = read(tmp_path)
    assert labels_of(manifest) == {"a.jpg": {"sea"}}
    assert any("1 sidecar belongs to no image that is read" in one for one in manifest.notes)
