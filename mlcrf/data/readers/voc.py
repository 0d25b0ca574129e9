"""Pascal VOC: one XML file of objects per image; a label is present if any object has it.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 3.
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlcrf.data.files import load_text
from mlcrf.data.image_paths import find_images
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.tags import unknown_tags, vocabulary
from mlcrf.errors import DataError, SettingsError
from mlcrf.hints import are, counted
from mlcrf.images import Image, as_image
from mlcrf.images.file_kinds import is_image_name
from mlcrf.labels import UNKNOWN, LabelSpace, composed
from mlcrf.stores import Stored

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
_MARKS = ("difficult", "occluded", "truncated")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")  # the first that exists
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

    images: list[Image] = field(default_factory=list)
    states: list[dict[str, int]] = field(default_factory=list)
    splits: list[Split | None] = field(default_factory=list)
    left_out: int = 0
    difficult: int = 0
    hidden: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Annotation:
    """The content of an XML file.

    Attributes:
        states: class -> 1 if an object has it, -1 if only difficult objects do.
        file_name: name of the image that the file declares, if any.
        difficult, hidden: numbers of objects marked difficult, and occluded or truncated.
    """

    states: dict[str, int] = field(default_factory=dict)
    file_name: str = ""
    difficult: int = 0
    hidden: int = 0


def find_voc(path: Path) -> list[Path]:
    """Return folders with Annotations/ and JPEGImages/, at most three levels below the path.

    Other programs call the folder of the images `images`, and that of the XML `annotations`.
    """
    for depth in _DEPTHS:
        places = sorted(place.parent for place in path.glob(f"{depth}[Aa]nnotations"))
        found = [place for place in dict.fromkeys(places) if _is_voc(place)]
        if found:
            return found
    return []


def _is_voc(root: Path) -> bool:
    if (root / "Annotations").is_dir() and (root / _IMAGE_FOLDERS[0]).is_dir():
        return True
    has_images = any((root / name).is_dir() for name in _IMAGE_FOLDERS)
    return has_images and any(_annotation_folder(root).glob("*.xml"))


def _annotation_folder(root: Path) -> Path:
    usual = root / "Annotations"
    return usual if usual.is_dir() else root / "annotations"


def read_voc(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a VOC folder, or several below a path as one data set.

    A label is present if any object has it, unknown if every object that has it is marked
    difficult (the usual protocol excludes them from evaluation), else absent; occluded and
    truncated objects count like others. The image of an annotation has the same name as its file;
    where there is none, `<filename>` names it. Splits come from ImageSets/Main; images in no set,
    or without annotation, are left out and counted in the notes. Without ImageSets there are no
    splits.

    Without expected labels, all classes that occur become labels, sorted.

    Raises:
        DataError: no VOC folder, unreadable XML or a document type declaration, missing images,
            unexpected classes, an image in two splits, or a `<filename>` that is another image than
            that of the same name.
        SettingsError: an image root in an object store.
    """
    roots = find_voc(path)
    if not roots:
        raise DataError("has no folders Annotations and JPEGImages side by side", path)
    problems, labels = Problems(options.max_problems), options.labels
    if isinstance(options.image_root, Stored):
        raise SettingsError(
            f"{options.image_root}: VOC's images are read from disks; copy them there"
        )
    found = _Found()
    for root in roots:
        _read_root(root, options.image_root, labels, found, problems)
    if len({split is None for split in found.splits}) > 1:
        problems.add(path, "some of its folders have ImageSets/Main and others do not")
    problems.raise_if_any()
    if not found.images:
        raise DataError("has no image with an annotation; check Annotations/*.xml", path)
    space = labels or vocabulary([frozenset(states) for states in found.states], path)
    targets = np.array(
        [[states.get(name, 0) for name in space] for states in found.states], dtype=np.int8
    )
    notes = found.notes
    if found.left_out:
        notes.append(
            f"{counted(found.left_out, 'image')} without an annotation or a split "
            f"{are(found.left_out)} left out"
        )
    splits = tuple(split for split in found.splits if split is not None)
    name = "+".join(dict.fromkeys(root.resolve().name.lower() for root in roots))
    return Manifest(
        tuple(found.images),
        targets,
        space,
        splits or None,
        name,
        tuple(notes),
        facts=tuple(_facts(found, int((targets == UNKNOWN).sum()))),
    )


def _facts(found: _Found, unknown: int) -> Iterator[str]:
    """Yield how objects were understood."""
    empty = sum(not states for states in found.states)
    if empty:
        yield f"{counted(empty, 'image has', 'images have')} no object: every label is absent"
    if found.difficult:
        yield (
            f"{counted(found.difficult, 'object is', 'objects are')} "
            "difficult: labels that only they have are unknown "
            f"({counted(unknown, 'cell')})"
        )
    if found.hidden:
        yield f"{found.hidden} objects are occluded or truncated and count like others"


def _read_root(
    root: Path,
    image_root: Path | None,
    labels: LabelSpace | None,
    found: _Found,
    problems: Problems,
) -> None:
    files = {
        file.stem: file
        for file in sorted(_annotation_folder(root).iterdir())
        if file.suffix.lower() == ".xml" and not file.name.startswith(".")
    }
    splits = _image_sets(root, problems)
    wanted = sorted(files if splits is None else splits.keys() & files.keys())
    if splits is not None and (lacking := splits.keys() - files.keys()):
        found.notes.append(
            f"{counted(len(lacking), 'image of ImageSets has', 'images of ImageSets have')} "
            f"no annotation and {are(len(lacking))} left out, such as "
            f"{min(lacking)!r}"
        )
    annotations = {stem: _load_annotation(files[stem], problems) for stem in wanted}
    folder = image_root or next(root / name for name in _IMAGE_FOLDERS if (root / name).is_dir())
    images = _find_images(folder, files, annotations, found, problems)
    for stem, image in images.items():
        annotation = annotations[stem]
        for message in unknown_tags(frozenset(annotation.states), labels) if labels else ():
            problems.add(files[stem], message)
        found.images.append(image)
        found.states.append(annotation.states)
        found.splits.append(None if splits is None else splits[stem])
        found.difficult += annotation.difficult
        found.hidden += annotation.hidden


def _find_images(
    folder: Path,
    files: Mapping[str, Path],
    annotations: Mapping[str, _Annotation],
    found: _Found,
    problems: Problems,
) -> dict[str, Image]:
    """Return annotation -> image: that of the same name, else the one that it declares.

    An image that is declared and another one of the annotation's name are an error, and so is an
    image of two annotations.
    """
    here: dict[str, list[str]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if is_image_name(file.name):
            here[file.stem].append(file.name)
    own = {stem: here[stem] for stem in annotations if stem in here}
    declared = find_images(
        [
            None if not one.file_name or one.file_name in own.get(stem, ()) else one.file_name
            for stem, one in annotations.items()
        ],
        folder,
    )
    similar = find_images([None if stem in own else stem for stem in annotations], folder)
    images: dict[str, Image] = {}
    owners: dict[str, str] = {}
    others = []
    for row, (stem, annotation) in enumerate(annotations.items()):
        names = own.get(stem, [])
        if annotation.file_name in names:
            names = [annotation.file_name]
        other = declared.images[row] if row not in declared.faults else None
        if len(names) > 1:
            shown = " or ".join(map(repr, names[:2]))
            problems.add(files[stem], f"its image can be {shown}; remove one")
            continue
        if names and other is not None and other.file_name != names[0]:
            problems.add(
                files[stem],
                f"<filename> is {annotation.file_name!r}, but there is an image {names[0]!r} of "
                "the annotation's own name; correct <filename> or rename one of them",
            )
            continue
        image = as_image(folder / names[0]) if names else other or similar.images[row]
        if image is None:
            fault = declared.faults.get(row) or similar.faults[row]
            problems.add(files[stem], fault)
            continue
        if annotation.file_name and image.file_name != annotation.file_name and names:
            others.append(f"{annotation.file_name!r} ({image.file_name!r})")
        if owners.setdefault(image.name, stem) != stem:
            before = files[owners[image.name]].name
            problems.add(files[stem], f"its image {image.file_name!r} is that of {before} too")
            continue
        images[stem] = image
    if others:
        found.notes.append(
            f"<filename> of {counted(len(others), 'annotation')} is no image, and the image of the "
            f"annotation's name is used, such as {others[0]}"
        )
    found.notes += [*declared.notes, *similar.notes]
    found.left_out += len({name for names in here.values() for name in names} - _names(images))
    return images


def _names(images: Mapping[str, Image]) -> set[str]:
    return {image.file_name for image in images.values()}


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


def _load_annotation(file: Path, problems: Problems) -> _Annotation:
    """Load the objects of an image.

    The text is decoded as UTF-8 first, so that no other encoding can hide a declaration; without
    document types and entities, nothing can be expanded or fetched.
    """
    text = load_text(file, problems)
    if not text:
        if file.stat().st_size == 0:
            problems.add(file, "is empty; expected an XML annotation")
        return _Annotation()
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        problems.add(
            file, "declares a document type or entities, which are not allowed; remove them"
        )
        return _Annotation()
    try:
        tree = ET.fromstring(text)  # noqa: S314 - no document type, no entities
    except ET.ParseError as error:
        problems.add(file, f"is not XML: {error}", line=error.position[0])
        return _Annotation()
    if tree.tag != "annotation":
        hint = "; export from CVAT as VOC or COCO" if tree.tag == "annotations" else ""
        found = f"<{tree.tag[:40]}>"
        problems.add(file, f"is not in the format of VOC: {found}, not <annotation>{hint}")
        return _Annotation()
    states: dict[str, int] = {}
    difficult = hidden = 0
    for item in tree.findall("object"):
        name = composed(item.findtext("name") or "")
        if not name:
            problems.add(file, "has an object without a name")
            continue
        marks = {mark for mark in _MARKS if (item.findtext(mark) or "").strip() in {"1", "true"}}
        is_difficult = "difficult" in marks
        difficult += is_difficult
        hidden += bool(marks - {"difficult"})
        states[name] = max(states.get(name, UNKNOWN), UNKNOWN if is_difficult else 1)
    return _Annotation(states, (tree.findtext("filename") or "").strip(), difficult, hidden)


VOC = Reader(
    name="voc",
    describes="a VOC folder (Annotations, JPEGImages)",
    detects=lambda path: bool(find_voc(path)),
    read=read_voc,
    uses_image_root=True,
)
