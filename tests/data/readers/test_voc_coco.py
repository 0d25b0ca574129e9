"""Boxes to labels: Pascal VOC and COCO."""

import json
from pathlib import Path

import pytest

from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.coco import read_coco
from mlcrf.data.readers.voc import find_voc, read_voc
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace

ENTITY_TEXT = (
    "<!DOCTYPE a [<!ENTITY x 'y'>]><annotation><object><name>&x;</name></object></annotation>"
)


def make_voc(root: Path, objects: dict[str, list[str]], sets: dict[str, str] | None = None) -> Path:
    """One picture a name; `!` at the end of a class marks a difficult object."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, classes in objects.items():
        (root / "JPEGImages" / f"{stem}.jpg").touch()
        boxes = "".join(
            f"<object><name>{name.rstrip('!')}</name><difficult>{int('!' in name)}</difficult>"
            "<part><name>head</name></part></object>"
            for name in classes
        )
        text = f"<annotation><filename>{stem}.jpg</filename>{boxes}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    for name, text in (sets or {}).items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def voc_faults(path: Path, **options: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_voc(path, ReadOptions(**options))  # type: ignore[arg-type]
    return str(caught.value).replace(f"{path}/", "").splitlines()


def test_voc_present_if_any_box(tmp_path: Path) -> None:
    """Any box is presence, only difficult ones are unknown, parts of objects are no classes."""
    objects = {"1": ["dog", "dog!", "cat!"], "2": [], "3": ["cat"]}
    manifest = read_voc(make_voc(tmp_path / "VOC2007", objects))
    assert manifest.labels.names == ("cat", "dog")
    assert manifest.targets.tolist() == [[-1, 1], [0, 0], [1, 0]]
    assert manifest.splits is None
    assert manifest.name == "voc2007"


def test_voc_splits(tmp_path: Path) -> None:
    """Train, val and test come from ImageSets; what only trainval lists is for training."""
    sets = {
        "train": "1\n",
        "val": "2  1\n",
        "trainval": "1\n2\n3\n",
        "test": "4\n",
        "dog_test": "5 1",
    }
    make_voc(tmp_path, {stem: ["dog"] for stem in "12345"}, sets)
    manifest = read_voc(tmp_path)
    assert [image.file_name for image in manifest.images] == [f"{n}.jpg" for n in (1, 2, 3, 4)]
    assert manifest.splits == (Split.TRAIN, Split.VALIDATION, Split.TRAIN, Split.TEST)
    assert manifest.notes == ("1 image without an annotation or a split is left out",)


def test_voc_nested_and_merged(tmp_path: Path) -> None:
    """Training and test data unpacked side by side are one data set."""
    first = make_voc(tmp_path / "a" / "VOCdevkit" / "VOC2007", {"1": ["dog"]}, {"trainval": "1"})
    second = make_voc(tmp_path / "b" / "VOCdevkit" / "VOC2007", {"2": ["cat"]}, {"test": "2"})
    assert find_voc(tmp_path) == [first, second]
    manifest = read_voc(tmp_path)
    assert manifest.targets.tolist() == [[0, 1], [1, 0]]
    assert manifest.splits == (Split.TRAIN, Split.TEST)
    assert manifest.name == "voc2007"


def test_voc_expected_labels(tmp_path: Path) -> None:
    """Expected labels give the columns; a class that is none of them is an error with its file."""
    make_voc(tmp_path, {"1": ["dog"]})
    assert read_voc(tmp_path, ReadOptions(labels=LabelSpace(("dog", "cat")))).targets.tolist() == [
        [1, 0]
    ]
    told = voc_faults(tmp_path, labels=LabelSpace(("dot",)))
    assert told == ["Annotations/1.xml: unknown label 'dog'; did you mean 'dot'?"]


@pytest.mark.parametrize(
    "content",
    [
        ENTITY_TEXT.encode(),
        ENTITY_TEXT.encode("utf-16"),
        ENTITY_TEXT.encode("utf-8-sig"),
        b"<!DOCTYPE a SYSTEM 'file:///etc/hostname'><annotation/>",
    ],
    ids=["utf-8", "utf-16", "bom", "external"],
)
def test_voc_refuses_declared_entities(tmp_path: Path, content: bytes) -> None:
    """XML that could expand or fetch anything is refused, in whatever encoding."""
    make_voc(tmp_path, {"1": ["dog"]})
    (tmp_path / "Annotations" / "1.xml").write_bytes(content)
    told = voc_faults(tmp_path)
    assert len(told) == 1
    assert "document type" in told[0] or "not UTF-8" in told[0]


def test_voc_declared_encoding_hides_nothing(tmp_path: Path) -> None:
    """A declared encoding other than UTF-8 is not followed, so it cannot hide a declaration."""
    make_voc(tmp_path, {"1": ["dog"]})
    hidden = b"<?xml version='1.0' encoding='cp037'?>" + ENTITY_TEXT.encode("cp037")
    (tmp_path / "Annotations" / "1.xml").write_bytes(hidden)
    assert voc_faults(tmp_path)[0].startswith("Annotations/1.xml:1: is not ")


def test_voc_faults_are_told_at_once(tmp_path: Path) -> None:
    """Broken XML, a missing picture, an empty file and an image in two sets: one error."""
    sets = {"train": "1\n2\n3\n4\n", "test": "\n4\n"}
    make_voc(tmp_path, {stem: ["dog"] for stem in "1234"}, sets)
    (tmp_path / "Annotations" / "1.xml").write_text("<annotation>\n<object></annotation>")
    (tmp_path / "JPEGImages" / "2.jpg").unlink()
    (tmp_path / "Annotations" / "3.xml").write_text("")
    told = voc_faults(tmp_path)
    assert len(told) == 4
    assert told[0] == "ImageSets/Main/train.txt:4: image '4' is in the test set too; keep it in one"
    assert told[1].startswith("Annotations/1.xml:2: is not XML: mismatched tag")
    assert told[2] == "Annotations/3.xml: is empty; expected an XML annotation"
    assert told[3].startswith("Annotations/2.xml: missing image '2.jpg' in JPEGImages; ")


def test_voc_without_folders(tmp_path: Path) -> None:
    """A folder that is no VOC says which two it lacks."""
    assert voc_faults(tmp_path) == [
        f"{tmp_path}: has no folders Annotations and JPEGImages side by side"
    ]


def make_coco(
    file: Path, boxes: dict[str, list[int]], pictures: Path | None = None, **changes: object
) -> Path:
    """Boxes of categories (7 dog, 3 cat) by picture name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in boxes:
        if pictures is not None:
            (pictures / name).parent.mkdir(parents=True, exist_ok=True)
            (pictures / name).touch()
    content: dict[str, object] = {
        "info": {"year": 2017},
        "images": [{"id": place, "file_name": name} for place, name in enumerate(boxes, 100)],
        "annotations": [
            {"id": 1, "image_id": place, "category_id": category, "bbox": [0, 0, 1, 1]}
            for place, name in enumerate(boxes, 100)
            for category in boxes[name]
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    file.write_text(json.dumps(content | changes))
    return file


def coco_faults(path: Path, **options: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_coco(path, ReadOptions(**options))  # type: ignore[arg-type]
    return str(caught.value).replace(f"{path}", "x.json").splitlines()


def test_coco_folder(tmp_path: Path) -> None:
    """Train and val are splits of one data set; labels come by category id; no box, no label."""
    annotations = tmp_path / "annotations"
    make_coco(
        annotations / "instances_train2017.json",
        {"a.jpg": [7, 7], "b.jpg": []},
        tmp_path / "train2017",
    )
    make_coco(annotations / "instances_val2017.json", {"c.jpg": [3, 7]}, tmp_path / "val2017")
    manifest = read_coco(tmp_path)
    assert manifest.labels.names == ("cat", "dog")
    assert manifest.targets.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert manifest.splits == (Split.TRAIN, Split.TRAIN, Split.VALIDATION)
    assert manifest.images[2] == as_image(tmp_path / "val2017" / "c.jpg")
    assert manifest.name == "coco-train2017+val2017"


@pytest.mark.parametrize("pictures", ["train2017", "images/train2017", "annotations", "images"])
def test_coco_file_finds_its_pictures(tmp_path: Path, pictures: str) -> None:
    """A single file has no splits; its pictures are looked for where they usually are."""
    file = tmp_path / "annotations" / "instances_train2017.json"
    manifest = read_coco(make_coco(file, {"a.jpg": [7]}, tmp_path / pictures))
    assert manifest.images == (as_image(tmp_path / pictures / "a.jpg"),)
    assert manifest.splits is None
    assert manifest.name == "coco-train2017"


def test_coco_image_root(tmp_path: Path) -> None:
    """A folder of pictures that the user gives goes before all guesses."""
    file = make_coco(tmp_path / "boxes.json", {"a.jpg": [7]}, tmp_path / "elsewhere")
    manifest = read_coco(file, ReadOptions(image_root=tmp_path / "elsewhere"))
    assert manifest.images == (as_image(tmp_path / "elsewhere" / "a.jpg"),)


def test_coco_expected_labels(tmp_path: Path) -> None:
    """Categories are matched by name in any order; others than expected are named."""
    file = make_coco(tmp_path / "boxes.json", {"a.jpg": [7]}, tmp_path)
    assert read_coco(file, ReadOptions(labels=LabelSpace(("dog", "cat")))).targets.tolist() == [
        [1, 0]
    ]
    with pytest.raises(LabelsError, match="missing 'sky'; not expected 'cat', 'dog'"):
        read_coco(file, ReadOptions(labels=LabelSpace(("sky",))))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"images": None},
            "x.json: is not in the format of COCO: images: expected a list",
        ),
        (
            {"images": [{"id": 1}]},
            "x.json: is not in the format of COCO: images[0].file_name: is missing",
        ),
        ({"images": [], "annotations": []}, "x.json: lists no images"),
        ({"categories": []}, "x.json: annotations[0]: no category has id 7"),
        (
            {"annotations": [{"image_id": 5, "category_id": 3}]},
            "x.json: annotations[0]: no image has id 5",
        ),
        (
            {"categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "dog"}]},
            "x.json: categories: label 'dog' occurs twice",
        ),
        (
            {"categories": [{"id": 7, "name": "dog"}, {"id": 7, "name": "cat"}]},
            "x.json: categories[1]: id 7 occurs twice",
        ),
    ],
)
def test_coco_faults(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    """Each fault in the JSON is told with its place in it."""
    file = make_coco(tmp_path / "x.json", {"a.jpg": [7]}, tmp_path, **changes)
    told = coco_faults(file)
    assert len(told) == 1
    assert told[0].startswith(expected)


def test_coco_missing_and_double_pictures(tmp_path: Path) -> None:
    """Pictures that are not there, and one that is listed twice, are told with their place."""
    double = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    (tmp_path / "a.jpg").touch()
    file = make_coco(tmp_path / "x.json", {}, None, images=double)
    assert coco_faults(file) == ["x.json: images[1]: 'a.jpg' is images[0] too"]
    file = make_coco(tmp_path / "x.json", {"gone.jpg": []})
    missing = (
        f"x.json: images[0]: missing image 'gone.jpg' in {tmp_path}; if the images are elsewhere, "
        "use --image-root FOLDER"
    )
    assert coco_faults(file) == [missing]


def test_coco_broken_json_and_years(tmp_path: Path) -> None:
    """What is no JSON is one line; files of two years for one split must be chosen between."""
    file = tmp_path / "x.json"
    file.write_text('{"images": [')
    assert coco_faults(file)[0].startswith("x.json: is not in the format of COCO: Invalid JSON")
    for year in (2014, 2017):
        make_coco(tmp_path / "annotations" / f"instances_train{year}.json", {})
    with pytest.raises(DataError, match=r"both .* are for train; give one file by itself"):
        read_coco(tmp_path)
