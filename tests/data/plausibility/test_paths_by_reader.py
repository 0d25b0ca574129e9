"""Paths of images in each layout: one resolver repairs, refuses and explains in all of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlcrf.errors import DataError
from tests.data.plausibility.making import (
    labels_of,
    make_coco,
    make_csv,
    make_files,
    make_jsonl,
    make_parquet,
    make_tsv,
    make_voc,
    read,
    voc_xml,
)
from tests.data.test_image_paths import AMBIGUOUS, REPAIRS

Maker = Callable[[Path, list[str]], Path]


def rows_of(paths: list[str]) -> list[list[str]]:
    """Return rows with a label for the first path, and another one for the others."""
    return [[path, "sky" if at else "sea"] for at, path in enumerate(paths)]


def make_metadata(folder: Path, paths: list[str]) -> Path:
    make_csv(folder, ["file_name", "labels"], rows_of(paths)).rename(folder / "metadata.csv")
    return folder


def make_metadata_lines(folder: Path, paths: list[str]) -> Path:
    lines = [json.dumps({"file_name": path, "labels": [name]}) for path, name in rows_of(paths)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def make_metadata_parquet(folder: Path, paths: list[str]) -> Path:
    columns = {"file_name": paths, "labels": [[name] for _, name in rows_of(paths)]}
    pq.write_table(pa.table(columns), folder / "metadata.parquet")
    return folder


MAKERS: dict[str, Maker] = {
    "csv": lambda folder, paths: make_csv(folder, ["image", "labels"], rows_of(paths)),
    "tsv": lambda folder, paths: make_tsv(folder, ["path", "labels"], rows_of(paths)),
    "json-lines": lambda folder, paths: make_jsonl(folder, ["image", "labels"], rows_of(paths)),
    "parquet": lambda folder, paths: make_parquet(folder, ["image", "labels"], rows_of(paths)),
    "hugging-face-csv": make_metadata,
    "hugging-face-json": make_metadata_lines,
    "hugging-face-parquet": make_metadata_parquet,
    "coco": lambda folder, paths: make_coco(
        folder / "boxes.json", {path: [name] for path, name in rows_of(paths)}
    ),
}
# COCO's images are looked for in these folders at once, so that nothing is to be repaired.
PLACES_OF_COCO = {"too-few-folders", "data"}


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("name", REPAIRS)
def test_paths_are_repaired_in_each_layout(tmp_path: Path, layout: str, name: str) -> None:
    """The image that a path means gets its labels, and the notes say how it was found."""
    files, text, expected, word = REPAIRS[name]
    manifest = read(MAKERS[layout](make_files(tmp_path, *files), [text, *files[1:]]))
    assert manifest.images[0].name == str(tmp_path / expected)
    assert manifest.targets[0, manifest.labels.index("sea")] == 1
    word = "" if (layout, name) == ("coco", "other-folder") else word  # begins in `images`
    is_told = any(note.startswith("image paths") and word in note for note in manifest.notes)
    assert is_told or (layout == "coco" and name in PLACES_OF_COCO)


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("name", sorted(AMBIGUOUS.keys() - {"folders"}))
def test_ambiguous_paths_are_refused_in_each_layout(tmp_path: Path, layout: str, name: str) -> None:
    """Both files are named, with the place of the row."""
    files, text, shown = AMBIGUOUS[name]
    path = MAKERS[layout](make_files(tmp_path, *files), [text])
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"can be {' or '.join(shown)}; write the whole path" in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", MAKERS)
def test_images_that_a_repair_confuses_are_refused(tmp_path: Path, layout: str) -> None:
    """Images of two folders of another machine are not one image here."""
    path = MAKERS[layout](make_files(tmp_path, "a.jpg"), ["/old/x/a.jpg", "/old/y/a.jpg"])
    with pytest.raises(DataError, match=r"both lead to 'a\.jpg'"):
        read(path)


@pytest.mark.parametrize("layout", MAKERS)
def test_a_missing_image_in_each_layout(tmp_path: Path, layout: str) -> None:
    """The line names the nearest image and --image-root."""
    path = MAKERS[layout](make_files(tmp_path, "deep/er/photo1.jpg"), ["photo1.jpg"])
    with pytest.raises(DataError, match=rf"exists: use --image-root {tmp_path}/deep/er"):
        read(path)
    manifest = read(path, image_root=tmp_path / "deep" / "er")
    assert labels_of(manifest) == {"photo1.jpg": {"sea"}}


@pytest.mark.parametrize("layout", MAKERS)
def test_two_places_for_one_name(tmp_path: Path, layout: str) -> None:
    """In `images` and in `data`: refused in tables; COCO says which folder it took."""
    path = MAKERS[layout](make_files(tmp_path, "images/a.jpg", "data/a.jpg"), ["a.jpg"])
    if layout == "coco":
        assert f"images of boxes.json from {tmp_path}/images" in read(path).facts
        return
    with pytest.raises(DataError, match=r"can be 'data/a\.jpg' or 'images/a\.jpg'"):
        read(path)


VOC_NAMES = {
    "same": (["a.jpg"], "a.jpg", None),
    "none": (["a.jpg"], "", None),
    "stale": (["a.jpg"], "000017.jpg", "<filename> of 1 annotation is no image"),
    "stale-suffix": (["a.png"], "a.jpg", "<filename> of 1 annotation is no image"),
    "path": (["a.jpg"], "C:\\old\\a.jpg", "with backslashes"),
    "suffix": (["a.jpg"], "a", "without suffix"),
    "case": (["a.jpg"], "A.JPG", "differ in case"),
    "declared": (["b.jpg"], "b.jpg", None),
    "declared-path": (["b.jpg"], "/old/b.jpg", "folders that are not here"),
    "declared-file-url": (["b.jpg"], "file:///old/b.jpg", "written as file://"),
    "declared-percent": (["b c.jpg"], "b%20c.jpg", "percent-encoded"),
    "own-case": (["A.JPG"], "", "without suffix"),
    "two-suffixes": (["a.jpg", "a.png"], "a.png", None),
}


@pytest.mark.parametrize("name", VOC_NAMES)
def test_images_of_voc(tmp_path: Path, name: str) -> None:
    """The image of the annotation's name, else the one that it declares."""
    files, declared, note = VOC_NAMES[name]
    make_voc(tmp_path, {"a.xml": voc_xml(declared, "sea")}, files)
    manifest = read(tmp_path)
    assert labels_of(manifest) == {files[-1]: {"sea"}}
    assert note is None or any(note in one for one in manifest.notes)


VOC_FAULTS = {
    "another-image": (["a.jpg", "b.jpg"], {"a.xml": "b.jpg"}, "there is an image 'a.jpg' of the"),
    "missing": (["zebra.jpg"], {"a.xml": "b.jpg"}, "missing image 'b.jpg' in"),
    "two-suffixes": (["a.jpg", "a.png"], {"a.xml": ""}, "its image can be 'a.jpg' or 'a.png'"),
    "one-for-two": (
        ["image.jpg"],
        {"a.xml": "image.jpg", "b.xml": "image.jpg"},
        "b.xml: its image 'image.jpg' is that of a.xml too",
    ),
}


@pytest.mark.parametrize("name", VOC_FAULTS)
def test_images_that_voc_leaves_open(tmp_path: Path, name: str) -> None:
    """No annotation is given to an image that may be another one."""
    files, declared, message = VOC_FAULTS[name]
    texts = {file: voc_xml(text, "sea") for file, text in declared.items()}
    make_voc(tmp_path, texts, files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value)


def test_voc_with_images_elsewhere(tmp_path: Path) -> None:
    """In a folder `images`, or in the image root."""
    make_voc(tmp_path / "a", {"1.xml": voc_xml("", "sea")}, ["1.jpg"])
    (tmp_path / "a" / "JPEGImages").rename(tmp_path / "a" / "images")
    assert labels_of(read(tmp_path / "a")) == {"1.jpg": {"sea"}}
    (tmp_path / "a" / "Annotations").rename(tmp_path / "a" / "annotations")
    assert labels_of(read(tmp_path / "a")) == {"1.jpg": {"sea"}}
    make_files(tmp_path / "b", "1.png")
    assert labels_of(read(tmp_path / "a", image_root=tmp_path / "b")) == {"1.png": {"sea"}}


def test_an_image_root_that_means_nothing_is_told(tmp_path: Path) -> None:
    """Layouts that hold their images do not take them from another folder."""
    make_files(tmp_path, "1.jpg")
    (tmp_path / "1.txt").write_text("sea")
    notes = read(tmp_path, image_root=tmp_path).notes
    assert any("--image-root means nothing for this layout (tag-files)" in one for one in notes)
