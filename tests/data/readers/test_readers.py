"""The one door: each layout reaches its reader, and what is none is told in one line."""

import json
from pathlib import Path

import pytest

from mlcrf.data.manifest import Split
from mlcrf.data.readers import READERS, ReadOptions, find_reader, read_dataset
from mlcrf.data.readers.hugging_face import read_huggingface
from mlcrf.errors import DataError, LabelsError
from mlcrf.labels import LabelSpace
from tests.data.readers.test_parquet_images import make_parquet
from tests.data.readers.test_webdataset import make_tar
from tests.keywords.pictures import make_photo, xmp_of

LAYOUTS = [one.name for one in READERS]


def make_file(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_layout(root: Path, layout: str) -> Path:
    """A data set of one image `a.jpg` or `im1.jpg` with the label dog."""
    match layout:
        case "table":
            make_file(root / "a.jpg")
            return make_file(root / "t.csv", "image,dog\na.jpg,1\n")
        case "hugging-face":
            make_file(root / "a.jpg")
            make_file(root / "metadata.csv", "file_name,dog\na.jpg,1\n")
        case "mirflickr":
            make_file(root / "mirflickr" / "im1.jpg")
            make_file(root / "annotations" / "dog.txt", "1\n")
        case "voc":
            make_file(root / "VOC2007" / "JPEGImages" / "a.jpg")
            text = "<annotation><object><name>dog</name></object></annotation>"
            make_file(root / "VOC2007" / "Annotations" / "a.xml", text)
        case "coco":
            make_file(root / "val2017" / "a.jpg")
            content = {
                "images": [{"id": 1, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 1, "category_id": 1}],
                "categories": [{"id": 1, "name": "dog"}],
            }
            make_file(root / "annotations" / "instances_val2017.json", json.dumps(content))
        case "label-studio":
            make_file(root / "a.jpg")
            result = {"type": "choices", "value": {"choices": ["dog"]}}
            task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}
            return make_file(root / "export.json", json.dumps([task]))
        case "tag-files":
            make_file(root / "im1.jpg")
            make_file(root / "im1.txt", "dog\n")
        case "yolo":
            make_file(root / "im1.jpg")
            make_file(root / "im1.txt", "0 .5 .5 .1 .1\n")
            make_file(root / "classes.txt", "dog\n")
        case "keyword-folder":
            make_photo(root / "im1.jpg", xmp=xmp_of("dog"))
        case "webdataset":
            make_tar(root / "shard.tar", {"im1.jpg": b"x", "im1.txt": b"dog\n"})
        case "parquet-images":
            make_parquet(root / "shard.parquet", [{"image": b"x", "dog": 1}])
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised(tmp_path: Path, layout: str) -> None:
    """A path alone suffices: the format is found out and one image with one label is read."""
    path = make_layout(tmp_path, layout)
    assert find_reader(path).name == layout
    manifest = read_dataset(path)
    assert len(manifest) == 1
    assert manifest.labels.names == ("dog",)
    assert manifest.targets.tolist() == [[1]]
    assert manifest.images[0].stamp() is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_expected_labels_reach_each_reader(tmp_path: Path, layout: str) -> None:
    """Labels that the data do not have are an error whatever the format."""
    path = make_layout(tmp_path, layout)
    with pytest.raises((LabelsError, DataError), match="'dog'"):
        read_dataset(path, ReadOptions(labels=LabelSpace(("cat",))))


def test_options_reach_the_readers(tmp_path: Path) -> None:
    """Image root, separator, limit of problems and label set are passed on."""
    make_file(tmp_path / "photos" / "a.jpg")
    table = make_file(tmp_path / "t.csv", "image,labels\na.jpg,dog/cat\n")
    options = ReadOptions(image_root=tmp_path / "photos", label_sep="/")
    assert read_dataset(table, options).labels.names == ("cat", "dog")
    make_file(table, "image,dog\n1.jpg,1\n2.jpg,1\n3.jpg,1\n")
    with pytest.raises(DataError, match="and 2 more problems"):
        read_dataset(table, ReadOptions(max_problems=1))
    folder = make_layout(tmp_path / "mir", "mirflickr")
    with pytest.raises(DataError, match="label set 14"):
        read_dataset(folder, ReadOptions(label_set=14))


def test_tag_files_named_as_mirflickr_pictures_stay_tag_files(tmp_path: Path) -> None:
    """Tags that are numbers, beside pictures named imN.jpg, are not taken for annotations."""
    make_file(tmp_path / "im1.jpg")
    make_file(tmp_path / "im1.txt", "2008\n")
    assert find_reader(tmp_path).name == "tag-files"


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        ([], "gone", "gone: there is no such file or folder"),
        ([], ".", "the folder is empty. Supported layouts: a .csv"),
        (["x.doc"], "x.doc", "x.doc: unknown format. Supported layouts: a .csv"),
        (["x.zip"], "x.zip", "x.zip: is an archive; unpack it"),
        (["a.jpg"], ".", "contains 1 image but no labels for it"),
        (["a.jpg", "b.jpg", "c.mp4"], ".", "2 images but no labels for them; left out: 1 video"),
        (["notes.doc"], ".", "contains no images and no labels; left out: 1 other file (.doc)"),
        (["a.jpg", "tags.csv"], ".", "it contains the table tags.csv; use that path"),
    ],
)
def test_what_is_no_data_set(tmp_path: Path, files: list[str], given: str, expected: str) -> None:
    """One line says what was found, and what would be understood or done."""
    for name in files:
        make_file(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_by_folder_of_split(tmp_path: Path) -> None:
    """Folders train, val and test with metadata are splits, and share all labels."""
    for folder, tags in (("train", ["dog", "cat"]), ("val", ["dog"]), ("test", [])):
        make_file(tmp_path / folder / "a.jpg")
        row = {"file_name": "a.jpg", "labels": tags}
        make_file(tmp_path / folder / "metadata.jsonl", json.dumps(row))
    manifest = read_dataset(tmp_path, ReadOptions(labels=LabelSpace(("dog", "cat"))))
    assert manifest.splits == (Split.TRAIN, Split.VALIDATION, Split.TEST)
    assert manifest.targets.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert manifest.name == tmp_path.name


def test_metadata_parts_learn_each_others_labels(tmp_path: Path) -> None:
    """A label that only one part lists is absent, not missing, in the others."""
    for folder, tag in (("train", "dog"), ("test", "cat")):
        make_file(tmp_path / folder / "a.jpg")
        make_file(tmp_path / folder / "metadata.csv", f"file_name,labels\na.jpg,{tag}\n")
    manifest = read_dataset(tmp_path)
    assert manifest.labels.names == ("dog", "cat")
    assert manifest.targets.tolist() == [[1, 0], [0, 1]]


def test_metadata_splits_by_path(tmp_path: Path) -> None:
    """One metadata file whose paths all start with the folder of a split gives splits."""
    for folder in ("train", "validation"):
        make_file(tmp_path / folder / "a.jpg")
    text = "file_name,dog\ntrain/a.jpg,1\nvalidation/a.jpg,0\n"
    make_file(tmp_path / "metadata.csv", text)
    assert read_dataset(tmp_path).splits == (Split.TRAIN, Split.VALIDATION)
    make_file(tmp_path / "b.jpg")
    make_file(tmp_path / "metadata.csv", text + "b.jpg,1\n")
    assert read_dataset(tmp_path).splits is None


def test_metadata_that_is_ambiguous_or_absent(tmp_path: Path) -> None:
    """Two metadata files, two folders for one split, or none at all are told."""
    with pytest.raises(DataError, match=r"has no metadata\.csv"):
        read_huggingface(tmp_path)
    make_file(tmp_path / "a" / "metadata.csv")
    make_file(tmp_path / "a" / "metadata.jsonl")
    with pytest.raises(DataError, match=r"both metadata\.csv and metadata\.jsonl exist"):
        read_dataset(tmp_path / "a")
    for folder in ("val", "validation"):
        make_file(tmp_path / "b" / folder / "metadata.csv")
    with pytest.raises(DataError, match="both `validation` and `val` contain metadata"):
        read_dataset(tmp_path / "b")
