"""Properties that data declare: classes, categories, marks of objects, images without objects."""

import json
from pathlib import Path

import pytest

from mlcrf.errors import DataError
from tests.data.plausibility.making import (
    labels_of,
    make_coco,
    make_csv,
    make_files,
    make_voc,
    read,
    voc_xml,
)
from tests.data.readers.test_parquet_images import make_parquet as make_image_table
from tests.data.readers.test_webdataset import make_tar
from tests.keywords.pictures import make_photo, xmp_of


def test_categories_without_boxes_are_noted(tmp_path: Path) -> None:
    """A category that no image has, and one that all have, are noted; they stay labels."""
    make_files(tmp_path, "a.jpg", "b.jpg")
    boxes = {"a.jpg": ["sea", "sky"], "b.jpg": ["sea"]}
    manifest = read(make_coco(tmp_path / "x.json", boxes, ["sea", "sky", "dog"]))
    assert manifest.labels.names == ("sea", "sky", "dog")
    assert "no image has 'dog'" in manifest.notes
    assert "no image is known to be without 'sea'" in manifest.notes


def test_images_without_boxes_are_without_labels(tmp_path: Path) -> None:
    """All labels are absent in them, and what was understood says so."""
    make_files(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    manifest = read(make_coco(tmp_path / "x.json", {"a.jpg": ["sea"], "b.jpg": [], "c.jpg": []}))
    assert manifest.targets.tolist() == [[1], [0], [0]]
    assert "2 images of x.json have no box: every label is absent" in manifest.facts


def test_crowds_count(tmp_path: Path) -> None:
    """A box of a crowd is presence, and is counted."""
    make_files(tmp_path, "a.jpg")
    box = {"image_id": 1, "category_id": 1, "iscrowd": 1}
    manifest = read(make_coco(tmp_path / "x.json", {"a.jpg": []}, ["sea"], annotations=[box]))
    assert manifest.targets.tolist() == [[1]]
    assert any("1 boxes of x.json mark a crowd" in fact for fact in manifest.facts)


CATEGORIES = {
    "same-id": ([(1, "sea"), (1, "sky")], "categories[1]: id 1 occurs twice"),
    "same-name": ([(1, "sea"), (2, "sea")], "label 'sea' occurs twice"),
    "same-accents": ([(1, "caf\u00e9"), (2, "cafe\u0301")], "label 'caf\u00e9' occurs twice"),
    "empty": ([(1, " ")], "is empty"),
    "list": ([(1, "['sea'")], "--accept label-names"),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_categories_that_are_refused(tmp_path: Path, name: str) -> None:
    pairs, message = CATEGORIES[name]
    categories = [{"id": number, "name": text} for number, text in pairs]
    make_files(tmp_path, "a.jpg")
    path = make_coco(tmp_path / "x.json", {"a.jpg": []}, ["sea"], categories=categories)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_categories_that_differ_in_case(tmp_path: Path) -> None:
    """Noted; one with --fold-case."""
    make_files(tmp_path, "a.jpg", "b.jpg")
    path = make_coco(tmp_path / "x.json", {"a.jpg": ["Sea"], "b.jpg": ["sea"]})
    assert any("--fold-case" in note for note in read(path).notes)
    assert read(path, fold_case=True).targets.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"image_id": 9, "category_id": 1}, "annotations[0]: no image has id 9"),
        ({"image_id": 1, "category_id": 9}, "annotations[0]: no category has id 9"),
        ({"image_id": 1, "category_id": None}, "annotations[0].category_id"),
        ({"category_id": 1}, "annotations[0].image_id"),
    ],
)
def test_boxes_of_nothing(tmp_path: Path, box: dict[str, object], message: str) -> None:
    """A box of an image or a category that is not listed is told with its place."""
    make_files(tmp_path, "a.jpg")
    path = make_coco(tmp_path / "x.json", {"a.jpg": ["sea"]}, annotations=[box])
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


COCO_LIKE = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "sea"}]}
OTHER_JSON = {
    "captions": (
        {"images": COCO_LIKE["images"], "annotations": [{"image_id": 1, "caption": "A sea"}]},
        "captions, which are no labels",
    ),
    "panoptic": (
        COCO_LIKE | {"annotations": [{"image_id": 1, "segments_info": [{"category_id": 1}]}]},
        "panoptic segments",
    ),
    "create-ml": ([{"image": "a.jpg", "annotations": [{"label": "sea"}]}], "Create ML"),
    "rows": ([{"file_name": "a.jpg", "labels": ["sea"]}], ".jsonl"),
    "labelme": ({"shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
    "via": ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
    "fiftyone": ({"classes": ["sea"], "labels": {"a": 0}}, "FiftyOne"),
    "fiftyone-samples": ({"samples": []}, "FiftyOne"),
    "map": ({"a.jpg": ["sea"]}, "is not in the format of COCO: images: is missing"),
    "number": (7, "is not in the format of COCO"),
}


@pytest.mark.parametrize("name", OTHER_JSON)
def test_other_json_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """JSON of other programs names the format and a remedy in one line."""
    content, message = OTHER_JSON[name]
    make_files(tmp_path, "a.jpg")
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.json")
    first = str(caught.value).splitlines()[0]
    assert message in first and first.startswith(f"{tmp_path}/x.json: is not in the format of COCO")


def test_key_points_are_boxes(tmp_path: Path) -> None:
    """A file of key points has categories and images as one of boxes."""
    make_files(tmp_path, "a.jpg", "b.jpg")
    points = [{"image_id": 1, "category_id": 1, "keypoints": [1, 1, 2], "num_keypoints": 1}]
    path = make_coco(
        tmp_path / "person_keypoints_val2017.json",
        {"a.jpg": [], "b.jpg": []},
        ["person"],
        annotations=points,
    )
    assert read(path).targets.tolist() == [[1], [0]]


def test_a_folder_with_json_names_the_file(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg")
    make_coco(tmp_path / "_annotations.coco.json", {"a.jpg": ["sea"]})
    with pytest.raises(DataError, match=r"it contains _annotations\.coco\.json; use that path"):
        read(tmp_path)


DIFFICULT, HIDDEN = "<difficult>1</difficult>", "<occluded>1</occluded>"
UNKNOWN_FACT = "1 object is difficult: labels that only they have are unknown (1 cell)"
HIDDEN_FACT = "1 objects are occluded or truncated and count like others"


@pytest.mark.parametrize(
    ("mark", "code", "fact"),
    [
        (DIFFICULT, -1, UNKNOWN_FACT),
        (HIDDEN, 1, HIDDEN_FACT),
        ("<truncated>1</truncated>", 1, HIDDEN_FACT),
        (DIFFICULT + HIDDEN, -1, HIDDEN_FACT),
        ("<difficult>0</difficult><occluded>0</occluded>", 1, None),
    ],
)
def test_marks_of_objects(tmp_path: Path, mark: str, code: int, fact: str | None) -> None:
    """What is made of difficult, occluded and truncated objects is said."""
    make_voc(
        tmp_path,
        {"a.xml": voc_xml("", "sea", mark=mark), "b.xml": voc_xml("", "sea", "sky")},
        ["a.jpg", "b.jpg"],
    )
    manifest = read(tmp_path)
    assert manifest.targets.tolist() == [[code, 0], [1, 1]]
    assert (fact in manifest.facts) if fact else manifest.facts == ()


def test_voc_images_without_objects(tmp_path: Path) -> None:
    make_voc(tmp_path, {"a.xml": voc_xml(""), "b.xml": voc_xml("", "sea")}, ["a.jpg", "b.jpg"])
    manifest = read(tmp_path)
    assert manifest.targets.tolist() == [[0], [1]]
    assert "1 image has no object: every label is absent" in manifest.facts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image name='a.jpg'/></annotations>", "export from CVAT as VOC or COCO"),
        ("<html><body/></html>", "is not in the format of VOC: <html>, not <annotation>"),
        ("<annotation><object><bndbox/></object></annotation>", "has an object without a name"),
        ("no XML", "is not XML"),
    ],
)
def test_xml_that_is_no_voc(tmp_path: Path, text: str, message: str) -> None:
    make_voc(tmp_path, {"a.xml": text}, ["a.jpg"])
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert str(tmp_path / "Annotations" / "a.xml") in str(caught.value)


def test_image_sets_without_annotations_are_counted(tmp_path: Path) -> None:
    make_voc(tmp_path, {"a.xml": voc_xml("", "sea")}, ["a.jpg"])
    make_files(tmp_path, "ImageSets/Main/train.txt")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    notes = read(tmp_path).notes
    assert any("2 images of ImageSets have no annotation" in one and "'b'" in one for one in notes)


def make_layout(folder: Path, layout: str) -> Path:
    """Make two images: both have sea, and none has dog where labels can be declared."""
    match layout:
        case "table":
            make_files(folder, "a.jpg", "b.jpg")
            rows = [["a.jpg", "1", "0"], ["b.jpg", "1", "0"]]
            return make_csv(folder, ["image", "sea", "dog"], rows)
        case "coco":
            make_files(folder, "a.jpg", "b.jpg")
            boxes = {"a.jpg": ["sea"], "b.jpg": ["sea"]}
            return make_coco(folder / "x.json", boxes, ["sea", "dog"])
        case "yolo":
            make_files(folder, "a.jpg", "b.jpg")
            (folder / "classes.txt").write_text("sea\ndog\n")
            for name in ("a.txt", "b.txt"):
                (folder / name).write_text("0 .5 .5 .1 .1\n")
        case "voc":
            text = voc_xml("", "sea")
            make_voc(folder, {"a.xml": text, "b.xml": text}, ["a.jpg", "b.jpg"])
        case "tag-files":
            make_files(folder, "a.jpg", "b.jpg")
            for name in ("a.txt", "b.txt"):
                (folder / name).write_text("sea\n")
        case "keyword-folder":
            for name in ("a.jpg", "b.jpg"):
                make_photo(folder / name, xmp=xmp_of("sea"))
        case "webdataset":
            files = {"a.jpg": b"x", "a.txt": b"sea", "b.jpg": b"x", "b.txt": b"sea"}
            return make_tar(folder / "x.tar", files)
        case "parquet-images":
            rows = [{"image": b"x", "sea": 1, "dog": 0}, {"image": b"y", "sea": 1, "dog": 0}]
            return make_image_table(folder / "x.parquet", rows)
        case "hugging-face":
            make_files(folder, "a.jpg", "b.jpg")
            rows = [["a.jpg", "1", "0"], ["b.jpg", "1", "0"]]
            table = make_csv(folder, ["file_name", "sea", "dog"], rows)
            table.rename(folder / "metadata.csv")
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        *("table", "coco", "yolo", "voc", "tag-files", "keyword-folder", "webdataset"),
        *("parquet-images", "hugging-face"),
    ],
)
def test_labels_that_all_or_no_images_have(tmp_path: Path, layout: str) -> None:
    """Each reader's data are judged: a label without a 0 or without a 1 is noted."""
    manifest = read(make_layout(tmp_path, layout))
    assert manifest.layout == layout
    assert "no image is known to be without 'sea'" in manifest.notes
    assert ("dog" in manifest.labels.names) == ("no image has 'dog'" in manifest.notes)
    assert all("sea" in own for own in labels_of(manifest).values())
