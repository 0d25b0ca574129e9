"""Exports of Label Studio, in the form that https://labelstud.io/guide/export documents."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mlcrf.data.manifest import Manifest
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace


def annotation(*choices: str, number: int = 1001, **more: Any) -> dict[str, Any]:
    """An annotation with all documented fields."""
    result = {
        "from_name": "choice",
        "id": "Dx_aB91ISN",
        "origin": "manual",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": list(choices)},
    }
    return {
        "id": number,
        "result": [result] if choices else [],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2021-03-09T22:16:08.728353Z",
        "updated_at": "2021-03-09T22:16:08.728378Z",
        "lead_time": 4.288,
        "result_count": 0,
        "task": 1,
        "completed_by": 10,
        **more,
    }


def task(number: int, image: str, *annotations: dict[str, Any], **data: str) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": image, **data},
        "created_at": "2021-03-09T21:52:49.513742Z",
        "updated_at": "2021-03-09T22:16:08.746926Z",
        "project": 83,
        "annotations": list(annotations),
        "predictions": [],
    }


def read(folder: Path, content: object, images: str = "", **options: Any) -> Manifest:
    for name in images.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "project-1-at-2021-03-09.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_dataset(path, ReadOptions(**options))


def names(manifest: Manifest, root: Path) -> list[str]:
    return [str(Path(image.name).relative_to(root)) for image in manifest.images]


def test_json(tmp_path: Path) -> None:
    """Annotations that are empty, skipped or lacking; the results of two tags are joined."""
    two = annotation("sea", "sky")
    two["result"].append({"type": "choices", "value": {"choices": ["indoor"]}})
    two["result"].append({"type": "rectanglelabels", "value": {"rectanglelabels": ["x"]}})
    content = [
        task(1, "/data/upload/1/1a2b3c4d-im1.jpg", two),
        task(2, "/data/local-files/?d=dir%2Fim%202.jpg", annotation()),
        task(3, "none.jpg", annotation("sea", was_cancelled=True)),
        task(4, "none.jpg"),
        task(5, "http://localhost:8080/data/upload/1/5a2b3c4d-im5.jpg", annotation("sky")),
    ]
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "im 2.jpg").touch()
    found = read(tmp_path, content, "upload/1/1a2b3c4d-im1.jpg im5.jpg")
    assert found.labels.names == ("indoor", "sea", "sky")
    assert found.targets.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert names(found, tmp_path) == ["upload/1/1a2b3c4d-im1.jpg", "dir/im 2.jpg", "im5.jpg"]
    said = "\n".join(found.notes)
    assert "1 uploads are found by the names that they had before" in said
    assert "2 tasks without annotation, or skipped, are left out" in said


def test_json_min(tmp_path: Path) -> None:
    """One choice is a text, several are a record, none is no key; one row per annotation."""
    more = {"annotator": 1, "created_at": "2021", "updated_at": "2021", "lead_time": 4.3}
    content = [
        {"image": "a.jpg", "id": 1, "choice": {"choices": ["sea", "sky"]}, "annotation_id": 7},
        {"image": "b.jpg", "id": 2, "choice": "sea", "annotation_id": 8, "comment": "near Rome"},
        {"image": "c.jpg", "id": 3, "annotation_id": 9},
        {"image": "b.jpg", "id": 2, "choice": "sky", "annotation_id": 10},
    ]
    found = read(tmp_path, [row | more for row in content], "a.jpg b.jpg c.jpg")
    assert found.labels.names == ("sea", "sky")
    assert found.targets.tolist() == [[1, 1], [-1, -1], [0, 0]]
    assert names(found, tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_json_min_of_single_choices(tmp_path: Path) -> None:
    """The only text is the choice; which of two it is cannot be known."""
    row = {"image": "a.jpg", "id": 1, "class": "sea", "annotation_id": 7}
    assert read(tmp_path, [row], "a.jpg").labels.names == ("sea",)
    with pytest.raises(DataError, match="where its choices are: any of class, source; name the"):
        read(tmp_path, [row | {"source": "web"}])


HEADER = ("annotation_id", "annotator", "choice", "created_at", "id", "image", "lead_time", "place")
HEADER += ("updated_at",)
SEVERAL = '{"choices": ["sea", "sky"]}'


def rows_of(*cells: tuple[str, str, str, str]) -> list[list[str]]:
    """Rows as the export writes them, of task, image, choices and data of the task's own."""
    return [
        [str(number), "me@example.com", choice, "2021-03-09", task, image, "4.288", place, "2021"]
        for number, (task, image, choice, place) in enumerate(cells)
    ]


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(
            stream, quoting=csv.QUOTE_NONNUMERIC, delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writerows([HEADER, *rows])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_csv(suffix: str, tmp_path: Path) -> None:
    """One choice is a text, several are JSON, none is empty; one row per annotation."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    cells = [("1", "/data/upload/1/1a2b3c4d-a.jpg", SEVERAL, "[Rome"), ("2", "b.jpg", "sea", "")]
    rows = rows_of(*cells, ("3", "c.jpg", "", ""), ("2", "b.jpg", "sky", ""))
    found = read_dataset(write_table(tmp_path / f"export{suffix}", rows), ReadOptions())
    assert found.layout == "label-studio" and found.labels.names == ("sea", "sky")
    assert found.targets.tolist() == [[1, 1], [-1, -1], [0, 0]]
    assert names(found, tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_csv_of_single_choices(tmp_path: Path) -> None:
    """The user says which of several texts is the choice; a list is of boxes."""
    (tmp_path / "a.jpg").touch()
    path = write_table(tmp_path / "export.csv", rows_of(("1", "a.jpg", "sea", "Rome")))
    with pytest.raises(DataError, match="any of choice, place; name the columns with --label-col"):
        read_dataset(path, ReadOptions())
    assert read_dataset(path, ReadOptions(label_columns=("choice",))).labels.names == ("sea",)
    with pytest.raises(DataError, match="has no column 'class' with choices"):
        read_dataset(path, ReadOptions(label_columns=("class",)))
    boxes = '[{"x": 1, "rectanglelabels": ["sea"]}]'
    write_table(path, rows_of(("1", "a.jpg", boxes, "")))
    with pytest.raises(DataError, match="holds no choices but lists in choice; export boxes as"):
        read_dataset(path, ReadOptions())


def test_annotators_that_disagree(tmp_path: Path) -> None:
    """Their labels are unknown there, and told; the ground truth decides."""
    other = annotation("sea", "dog", number=2)
    content = [
        task(1, "a.jpg", annotation("sea", "sky"), other),
        task(2, "b.jpg", annotation("sea", "sky", ground_truth=True), other),
    ]
    found = read(tmp_path, content, "a.jpg b.jpg")
    assert found.labels.names == ("dog", "sea", "sky")
    assert found.targets.tolist() == [[-1, 1, -1], [0, 1, 1]]
    assert "annotators disagree about 1 image, such as task 1 (dog, sky)" in "".join(found.notes)


def test_the_image_among_the_data(tmp_path: Path) -> None:
    """The documented name, or the only address of an image; a root of the images."""
    content = task(1, "a.jpg", annotation("sea"), thumb="b.jpg", title="A sea")
    content["data"]["photo"] = "photos/a.jpg"
    found = read(tmp_path, [content], "root/a.jpg", image_root=tmp_path / "root")
    assert names(found, tmp_path) == ["root/a.jpg"]
    content["data"] = {"photo": "a.jpg", "title": "A sea"}
    assert names(read(tmp_path, [content], "a.jpg"), tmp_path) == ["a.jpg"]


SEA = annotation("sea")
BOXES = {"type": "rectanglelabels", "value": {"rectanglelabels": ["sea"]}}
REFUSED = {
    "predictions": ([{"data": {"image": "a.jpg"}, "predictions": []}], "none of its 1 tasks has"),
    "boxes": ([task(1, "a.jpg", {"result": [BOXES]})], "no choices but rectanglelabels; export"),
    "missing": ([task(7, "/data/upload/1/1a2b3c4d-x.jpg", SEA)], "task 7: missing image"),
    "web": ([task(7, "https://example.com/x.jpg", SEA)], "task 7: "),
    "data": ([task(7, "data:image/png;base64,AAAA", SEA)], "task 7: its image is in the address"),
    "none": ([task(7, "", SEA) | {"data": {"title": "a"}}], "its data name no images"),
    "two": ([task(7, "", SEA) | {"data": {"a": "a.jpg", "b": "b.jpg"}}], "its data name 2 images"),
    "twice": ([task(1, "a.jpg", SEA), task(2, "a.jpg", SEA)], "task 2: "),
    "uploads": (
        [
            task(1, "/data/upload/1/1a2b3c4d-a.jpg", SEA),
            task(2, "/data/upload/1/1a2b3c4e-a.jpg", SEA),
        ],
        "a.jpg is the image of task 1 too; remove one",
    ),
    "shape": ([{"data": 7, "annotations": []}], "task 0 from 0: data: "),
    "choices": (
        [task(7, "a.jpg", {"result": [{"type": "choices", "value": {"choices": [[]]}}]})],
        "task 7: choices: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    """One line, with the task."""
    content, message = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, "a.jpg")
    (line,) = str(caught.value).splitlines()
    assert message in line and line.startswith(str(tmp_path / "project-1-at-2021-03-09.json"))


def test_expected_labels(tmp_path: Path) -> None:
    """Expected labels that nobody chose are absent; another label is an error with its task."""
    content = [task(4, "a.jpg", SEA)]
    found = read(tmp_path, content, "a.jpg", labels=LabelSpace(("sky", "sea")))
    assert found.targets.tolist() == [[0, 1]]
    with pytest.raises(DataError, match="task 4: unknown label 'sea'"):
        read(tmp_path, content, labels=LabelSpace(("sky",)))
