"""COCO: one JSON file of boxes for many images; a label is present if any box has it.

Source: Lin et al., Microsoft COCO: Common Objects in Context (2014).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from mlcrf.data.files import FolderListings, load_text
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.tags import relabelled
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored

_PREFIX = "instances_"
# By the text after `instances_` in a file name.
_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}


class _Image(BaseModel):
    id: int
    file_name: str


class _Category(BaseModel):
    id: int
    name: str


class _Box(BaseModel):
    image_id: int
    category_id: int


class _Content(BaseModel):
    """The parts of a file that are used; others, such as outlines, are skipped."""

    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category]


@dataclass(frozen=True)
class _Instances:
    """One file of boxes.

    Attributes:
        images: image id -> path.
        categories: category id -> name.
        boxes: (image id, category id), for every box.
    """

    images: dict[int, Path]
    categories: dict[int, str]
    boxes: set[tuple[int, int]]


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

    The images of `instances_train2017.json` are searched for in `train2017`, in or below
    `images`, next to the annotations or one folder up, or in `image_root`. An image without any
    box is an empty set. Labels are in the order of their category ids. Crowd boxes count.

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
    images = [as_image(one) for part in parts for one in part.images.values()]
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
    manifest = Manifest(tuple(images), targets, space, known or None, name)
    return relabelled(manifest, options.labels, path)


def _load_instances(file: Path, image_root: Path | None, problems: Problems) -> _Instances:
    content = _load_content(file, problems)
    root = _image_folder(file, image_root)
    listings = FolderListings()
    images: dict[int, Path] = {}
    first: dict[str, int] = {}
    for place, image in enumerate(content.images):
        name = image.file_name
        if image.id in images:
            problems.add(file, f"images[{place}]: id {image.id} occurs twice")
        if first.setdefault(name, place) != place:
            problems.add(file, f"images[{place}]: {name!r} is images[{first[name]}] too")
        if not listings.has(str(root / name)):
            message = f"missing image {name!r} in {root}; is it the image root?"
            problems.add(file, f"images[{place}]: {message}")
        images[image.id] = root / name
    categories: dict[int, str] = {}
    for place, category in enumerate(content.categories):
        if category.id in categories:
            problems.add(file, f"categories[{place}]: id {category.id} occurs twice")
        categories[category.id] = category.name.strip()
    boxes = set()
    for place, box in enumerate(content.annotations):
        if box.image_id not in images:
            problems.add(file, f"annotations[{place}]: no image has id {box.image_id}")
        if box.category_id not in categories:
            problems.add(file, f"annotations[{place}]: no category has id {box.category_id}")
        boxes.add((box.image_id, box.category_id))
    return _Instances(images, categories, boxes)


def _load_content(file: Path, problems: Problems) -> _Content:
    text = load_text(file, problems)
    problems.raise_if_any()
    try:
        return _Content.model_validate_json(text)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            where = "".join(
                f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"]
            )
            place = f"{where.lstrip('.')}: " if where else ""
            problems.add(file, f"is not in the format of COCO: {place}{fault['msg']}")
    problems.raise_if_any()
    raise AssertionError("a validation error without errors")


def _image_folder(file: Path, image_root: Path | None) -> Path:
    """Return the first folder that exists of those where a file's images may be."""
    name = file.stem.removeprefix(_PREFIX)
    if image_root is not None:
        return image_root / name if (image_root / name).is_dir() else image_root
    up = file.parent.parent
    places = (
        *(up / name, up / "images" / name, file.parent / name, file.parent / "images" / name),
        *(up / "images", file.parent / "images"),
    )
    return next((place for place in places if place.is_dir()), file.parent)


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json" if path.is_file() else bool(find_instances(path))


COCO = Reader(
    name="coco",
    describes="the .json of COCO, or a folder of it (annotations/instances_train2017.json)",
    detects=_is_coco,
    read=read_coco,
)
