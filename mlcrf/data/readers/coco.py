"""COCO: one JSON file of boxes for many images; a label is present if any box has it.

Source: Lin et al., Microsoft COCO: Common Objects in Context (2014).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from mlcrf.data.files import load_text
from mlcrf.data.image_paths import find_images
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.table_files import IMAGE_COLUMNS
from mlcrf.data.tags import relabelled
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.hints import counted, describe_fault
from mlcrf.images import Image
from mlcrf.labels import LabelSpace, composed
from mlcrf.stores import Stored

_PREFIX = "instances_"
# By the text after `instances_` in a file name.
_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}
_TRIED = 10  # images that are looked for to find their folder
# Keys of other formats of JSON: of the file or its first annotation, or of the rows of a list.
_MARKS: dict[frozenset[str], str] = {
    frozenset({"images", "caption"}): "captions, which are no labels; use instances_*.json",
    frozenset({"images", "segments_info"}): "panoptic segments; use instances_*.json",
    frozenset({"shapes", "imagePath"}): "of LabelMe; convert it to COCO",
    frozenset({"_via_img_metadata"}): "a project of VIA; export it as COCO",
    frozenset({"classes", "labels"}): "labels of FiftyOne; export them as COCO, or as a table",
    frozenset({"samples"}): "samples of FiftyOne; export them as COCO, or as a table",
}
_LIST_MARKS: dict[frozenset[str], str] = {
    frozenset({"image", "annotations"}): "of Create ML; convert it to COCO, or to a table",
    frozenset({"image_id", "category_id"}): "results of a detector; use the file of annotations",
    frozenset({"image_id", "objects"}): "of Visual Genome; write its labels to a table",
    frozenset({"SourceFile"}): "of exiftool; use the folder of images itself",
    **dict.fromkeys(
        (frozenset({name}) for name in IMAGE_COLUMNS),
        "a list of rows; write one object per line to a file .jsonl",
    ),
}


class _Image(BaseModel):
    id: int
    file_name: str


class _Category(BaseModel):
    id: int
    name: str


class _Box(BaseModel):
    image_id: int
    category_id: int
    iscrowd: Any = None


class _Content(BaseModel):
    """The parts of a file that are used; others, such as outlines, are skipped."""

    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category]


@dataclass(frozen=True)
class _Instances:
    """One file of boxes.

    Attributes:
        images: image id -> image.
        categories: category id -> name.
        boxes: (image id, category id), for every box.
        facts, notes: what the user is told.
    """

    images: dict[int, Image]
    categories: dict[int, str]
    boxes: set[tuple[int, int]]
    facts: list[str]
    notes: list[str]


def find_instances(folder: Path) -> dict[Path, Split]:
    """Find annotations/instances_train*.json, _val* and _test* of a folder, with their splits.

    Raises:
        DataError: two files for one split, such as 2014 and 2017.
    """
    found: dict[Path, Split] = {}
    for prefix, split in _SPLITS.items():
        files = sorted((folder / "annotations").glob(f"{_PREFIX}{prefix}*.json"))
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise DataError(f"both {names} are for {split.value}; give one file by itself", folder)
        found.update(dict.fromkeys(files, split))
    return found


def read_coco(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read one file of instances, which has no splits, or a folder with one file per split.

    The images of `instances_train2017.json` are in `train2017`, in or below `images`, in `data`,
    next to the annotations or one folder up, or in `image_root`; see `find_images` for paths that
    do not fit. An image without any box is an empty set. Labels are in the order of their category
    ids. Crowd boxes count.

    Raises:
        DataError: no such file, not the JSON of COCO, boxes of unknown images or categories,
            missing images.
        LabelsError: the categories differ from `options.labels`.
        SettingsError: an image root in an object store.

    Cost: O(boxes); the text of one file at a time is held in memory.
    """
    files: dict[Path, Split | None] = {path: None} if path.is_file() else {**find_instances(path)}
    if not files:
        raise DataError("has no annotations/instances_train2017.json or the like", path)
    root = options.image_root
    if isinstance(root, Stored):
        raise SettingsError(f"{root}: COCO's images are read from disks; copy them there")
    problems = Problems(options.max_problems)
    parts = [_load_instances(file, root, problems) for file in files]
    categories: dict[int, str] = {}
    for file, part in zip(files, parts, strict=True):
        for number, name in part.categories.items():
            if categories.setdefault(number, name) != name:
                problems.add(
                    file, f"category {number} is {name!r} here, {categories[number]!r} before"
                )
    problems.raise_if_any()
    order = sorted(categories)
    try:
        space = LabelSpace(tuple(categories[number] for number in order))
    except LabelsError as error:
        raise DataError(f"categories: {error}", path) from error
    images = [one for part in parts for one in part.images.values()]
    if not images:
        raise DataError("lists no images", path)
    column = {number: place for place, number in enumerate(order)}
    targets = np.zeros((len(images), len(space)), dtype=np.int8)
    start = 0
    for part in parts:
        row = {number: start + place for place, number in enumerate(part.images)}
        for image, category in part.boxes:
            targets[row[image], column[category]] = 1
        start += len(row)
    splits = [split for split, part in zip(files.values(), parts, strict=True) for _ in part.images]
    known = tuple(split for split in splits if split is not None)
    name = "coco-" + "+".join(file.stem.removeprefix(_PREFIX) for file in files)
    manifest = Manifest(
        tuple(images),
        targets,
        space,
        known or None,
        name,
        notes=tuple(note for part in parts for note in part.notes),
        facts=tuple(fact for part in parts for fact in part.facts),
    )
    return relabelled(manifest, options.labels, path)


def _load_instances(file: Path, image_root: Path | None, problems: Problems) -> _Instances:
    content = _load_content(file, problems)
    names = [image.file_name for image in content.images]
    root = _image_folder(file, image_root, names)
    found = find_images(names, root)
    images: dict[int, Image] = {}
    first: dict[str, int] = {}
    for place, (entry, image) in enumerate(zip(content.images, found.images, strict=True)):
        if entry.id in images:
            problems.add(file, f"images[{place}]: id {entry.id} occurs twice")
        if place in found.faults:
            problems.add(file, f"images[{place}]: {found.faults[place]}")
        if image is None:
            continue
        before = first.setdefault(image.name, place)
        if before != place and place not in found.faults:
            problems.add(file, f"images[{place}]: {entry.file_name!r} is images[{before}] too")
        images[entry.id] = image
    categories: dict[int, str] = {}
    for place, category in enumerate(content.categories):
        if category.id in categories:
            problems.add(file, f"categories[{place}]: id {category.id} occurs twice")
        categories[category.id] = composed(category.name)
    numbers = {entry.id for entry in content.images}
    boxes = set()
    for place, box in enumerate(content.annotations):
        if box.image_id not in numbers:
            problems.add(file, f"annotations[{place}]: no image has id {box.image_id}")
        if box.category_id not in categories:
            problems.add(file, f"annotations[{place}]: no category has id {box.category_id}")
        boxes.add((box.image_id, box.category_id))
    facts = [f"images of {file.name} from {root}"]
    if empty := len(numbers - {image for image, _ in boxes}):
        facts.append(
            f"{counted(empty, 'image')} of {file.name} "
            f"{'has' if empty == 1 else 'have'} no box: every label is absent"
        )
    if crowds := sum(bool(box.iscrowd) for box in content.annotations):
        facts.append(f"{crowds} boxes of {file.name} mark a crowd (iscrowd) and count like others")
    return _Instances(images, categories, boxes, facts, found.notes)


def _load_content(file: Path, problems: Problems) -> _Content:
    text = load_text(file, problems)
    problems.raise_if_any()
    try:
        return _Content.model_validate_json(text)
    except ValidationError as error:
        if (other := _other_format(text)) is not None:
            raise DataError(f"is not in the format of COCO, but {other}", file) from error
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            where = "".join(
                f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"]
            )
            place = f"{where.lstrip('.')}: " if where else ""
            problems.add(file, f"is not in the format of COCO: {place}{describe_fault(fault)}")
    problems.raise_if_any()
    raise AssertionError("a validation error without errors")


def _other_format(text: str) -> str | None:
    """Return the name of another format of JSON, with a remedy; None if it is not known."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, list):
        keys = {key for row in content if isinstance(row, dict) for key in row}
        return next((name for mark, name in _LIST_MARKS.items() if mark <= keys), None)
    if not isinstance(content, dict):
        return None
    annotations = content.get("annotations")
    if isinstance(annotations, list) and annotations and isinstance(annotations[0], dict):
        content |= annotations[0]
    return next((name for mark, name in _MARKS.items() if mark <= content.keys()), None)


def _image_folder(file: Path, image_root: Path | None, names: Sequence[str]) -> Path:
    """Return the folder of a file's images: of those where they may be, the first with any.

    If none has any, paths are repaired, also in the usual folders beside the file.
    """
    name = file.stem.removeprefix(_PREFIX)
    if image_root is not None:
        return image_root / name if (image_root / name).is_dir() else image_root
    beside, up = file.parent, file.parent.parent
    named = [up / name, up / "images" / name, beside / name, beside / "images" / name]
    usual = [up / "images", beside / "images", beside / "data", beside]
    for place in (*named, *usual):
        if any(os.path.isfile(place / one) for one in names[:_TRIED]):  # noqa: PTH113 - any text
            return place
    return next((place for place in (*named, up / "images") if place.is_dir()), beside)


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json" if path.is_file() else bool(find_instances(path))


COCO = Reader(
    name="coco",
    describes="the .json of COCO, or a folder of it (annotations/instances_train2017.json)",
    detects=_is_coco,
    read=read_coco,
    uses_image_root=True,
)
