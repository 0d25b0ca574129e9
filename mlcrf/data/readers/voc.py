"""Pascal VOC: one XML file of objects per image; a label is present if any object has it.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 3.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlcrf.data.files import load_text
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.tags import unknown_tags, vocabulary
from mlcrf.errors import DataError
from mlcrf.images import LocalImage
from mlcrf.images.listing import is_image_name
from mlcrf.labels import UNKNOWN, LabelSpace

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
# In this order, so that images only in trainval are for training.
_IMAGE_SETS = {
    "test": Split.TEST,
    "val": Split.VALIDATION,
    "train": Split.TRAIN,
    "trainval": Split.TRAIN,
}


@dataclass
class _Found:
    """The images read so far."""

    images: list[LocalImage] = field(default_factory=list)
    states: list[dict[str, int]] = field(default_factory=list)
    splits: list[Split | None] = field(default_factory=list)
    left_out: int = 0


def find_voc(path: Path) -> list[Path]:
    """Return folders with Annotations/ and JPEGImages/, at most three levels below the path."""
    for depth in _DEPTHS:
        places = sorted(place.parent for place in path.glob(f"{depth}Annotations"))
        found = [place for place in places if (place / "JPEGImages").is_dir()]
        if found:
            return found
    return []


def read_voc(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a VOC folder, or several below a path as one data set.

    A label is present if any object has it, unknown if every object that has it is marked
    difficult (the usual protocol excludes them from evaluation), else absent. Splits come from
    ImageSets/Main; images in no set, or without annotation, are left out and counted in the
    notes. Without ImageSets there are no splits.

    Without expected labels, all classes that occur become labels, sorted.

    Raises:
        DataError: no VOC folder, unreadable XML or a document type declaration, missing images,
            unexpected classes, or an image in two splits.
    """
    roots = find_voc(path)
    if not roots:
        raise DataError("has no folders Annotations and JPEGImages side by side", path)
    problems, labels = Problems(options.max_problems), options.labels
    found = _Found()
    for root in roots:
        _read_root(root, labels, found, problems)
    if len({split is None for split in found.splits}) > 1:
        problems.add(path, "some of its folders have ImageSets/Main and others do not")
    problems.raise_if_any()
    if not found.images:
        raise DataError("has no image with an annotation; check Annotations/*.xml", path)
    space = labels or vocabulary([frozenset(states) for states in found.states], path)
    targets = np.array(
        [[states.get(name, 0) for name in space] for states in found.states], dtype=np.int8
    )
    notes = []
    if found.left_out:
        notes.append(f"{found.left_out} images without an annotation or a split are left out")
    splits = tuple(split for split in found.splits if split is not None)
    name = "+".join(dict.fromkeys(root.resolve().name.lower() for root in roots))
    return Manifest(tuple(found.images), targets, space, splits or None, name, tuple(notes))


def _read_root(root: Path, labels: LabelSpace | None, found: _Found, problems: Problems) -> None:
    images = {
        file.stem: file
        for file in sorted((root / "JPEGImages").iterdir())
        if is_image_name(file.name)
    }
    files = {file.stem: file for file in sorted((root / "Annotations").glob("*.xml"))}
    splits = _image_sets(root, problems)
    wanted = sorted(files if splits is None else splits.keys() & files.keys())
    found.left_out += len(images.keys() - set(wanted))
    for stem in wanted:
        states = _object_states(files[stem], problems)
        if stem not in images:
            problems.add(files[stem], f"missing image {root / 'JPEGImages' / stem}.jpg")
            continue
        for message in unknown_tags(frozenset(states), labels) if labels else ():
            problems.add(files[stem], message)
        found.images.append(LocalImage(str(images[stem])))
        found.states.append(states)
        found.splits.append(None if splits is None else splits[stem])


def _image_sets(root: Path, problems: Problems) -> dict[str, Split] | None:
    """Return image name -> split, or None without image sets."""
    folder = root / "ImageSets" / "Main"
    files = {name: folder / f"{name}.txt" for name in _IMAGE_SETS}
    present = {name: file for name, file in files.items() if file.is_file()}
    if not present:
        return None
    splits: dict[str, Split] = {}
    for name, file in present.items():
        for line, text in enumerate(load_text(file, problems).splitlines(), start=1):
            stem = text.split()[0] if text.strip() else ""
            if not stem:
                continue
            known = splits.setdefault(stem, _IMAGE_SETS[name])
            trained = name == "trainval" and known is Split.VALIDATION
            if known is not _IMAGE_SETS[name] and not trained:
                message = f"image {stem!r} is in the {known.value} set too; keep it in one"
                problems.add(file, message, line=line)
    return splits


def _object_states(file: Path, problems: Problems) -> dict[str, int]:
    """Return class -> 1 if an object has it, -1 if only difficult objects do.

    The text is decoded as UTF-8 first, so that no other encoding can hide a declaration; without
    document types and entities, nothing can be expanded or fetched.
    """
    text = load_text(file, problems)
    if not text:
        if file.stat().st_size == 0:
            problems.add(file, "is empty; expected an XML annotation")
        return {}
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        problems.add(
            file, "declares a document type or entities, which are not allowed; remove them"
        )
        return {}
    try:
        tree = ET.fromstring(text)  # noqa: S314 - no document type, no entities
    except ET.ParseError as error:
        problems.add(file, f"is not XML: {error}", line=error.position[0])
        return {}
    states: dict[str, int] = {}
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            problems.add(file, "has an object without a name")
            continue
        difficult = (item.findtext("difficult") or "").strip() == "1"
        states[name] = max(states.get(name, UNKNOWN), UNKNOWN if difficult else 1)
    return states


VOC = Reader(
    name="voc",
    describes="a VOC folder (Annotations, JPEGImages)",
    detects=lambda path: bool(find_voc(path)),
    read=read_voc,
)
