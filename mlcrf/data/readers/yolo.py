"""YOLO: a text file of boxes for each image; a label is present if any box has its class number.

The names of the classes are in `classes.txt`, `obj.names` or `data.yaml`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mlcrf.data.files import load_text
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.readers.tag_files import find_tagged_images, walk_tag_files
from mlcrf.data.tags import folder_manifest, relabelled
from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import counted
from mlcrf.labels import LabelSpace, composed

_NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
_BOX = re.compile(rf"(\d+)(\s+{_NUMBER}){{4,}}", re.IGNORECASE)  # or an outline, or key points
_LISTED = re.compile(r"^names:\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_ONE_A_LINE = re.compile(r"^names:[ \t]*\n((?:[ \t]*(?:-|\d+:)[ \t]*\S.*\n?)+)", re.MULTILINE)


def is_yolo(folder: Path) -> bool:
    """Return whether the first tag file that is not empty holds boxes and nothing else."""
    files = walk_tag_files(folder) if folder.is_dir() else ()
    texts = (load_text(file, Problems()) for file in files)
    first = next((text for text in texts if text.strip()), "")
    lines = [line.strip() for line in first.splitlines() if line.strip()]
    return bool(lines) and all(_BOX.fullmatch(line) for line in lines)


def read_yolo(folder: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read images with boxes of YOLO beside them, or in a folder `labels` beside `images`.

    An image whose file is empty has no label; images without a file are left out, and counted in
    the notes. Folders train, val and test are splits.

    Raises:
        DataError: no file with the names of the classes, a number without a name, or lines that are
            no boxes.
        LabelsError: the classes differ from `options.labels`.
    """
    problems = Problems(options.max_problems)
    names = _load_names(folder, problems)
    problems.raise_if_any()
    try:
        space = LabelSpace(tuple(names))
    except LabelsError as error:
        raise DataError(f"names of classes: {error}", folder) from error
    found = find_tagged_images(folder, problems)
    tags = []
    for file in found.files:
        classes = set()
        for number, line in enumerate(load_text(file, problems).splitlines(), start=1):
            box = _BOX.fullmatch(line.strip())
            if not line.strip():
                continue
            if box is None:
                problems.add(file, f"{line.strip()[:40]!r} is no box of YOLO", line=number)
            elif int(box[1][:9]) >= len(names):
                message = f"class {box[1][:9]} has no name; there are {len(names)}, from 0"
                problems.add(file, message, line=number)
            else:
                classes.add(names[int(box[1])])
        tags.append(frozenset(classes))
    problems.raise_if_any()
    empty = sum(not one for one in tags)
    facts = (
        [f"{counted(empty, 'image has', 'images have')} no box: every label is absent"]
        if empty
        else []
    )
    manifest = folder_manifest(folder, found.images, tags, space, found.notes, facts)
    return relabelled(manifest, options.labels, folder)


def _load_names(folder: Path, problems: Problems) -> Sequence[str]:
    """Return the names of the classes by number."""
    places = [place / name for place in (folder, folder / "labels") for name in _NAME_FILES]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(
            "holds boxes of YOLO without names of their classes; add a file classes.txt with one "
            "name per line, in the order of the class numbers",
            folder,
        )
    text = load_text(file, problems)
    if file.suffix == ".yaml":
        found = _names_of_yaml(text)
    else:
        found = [line.strip() for line in text.strip().splitlines()]
    if not found:
        raise DataError(
            "names no classes (names: [...]); write one name per line to classes.txt", file
        )
    return [composed(name) for name in found]


def _names_of_yaml(text: str) -> list[str]:
    """Return the names in `names: [a, b]`, or one per line after `-` or their numbers, from 0."""
    text = "\n".join(line.split(" #")[0].rstrip() for line in text.splitlines()) + "\n"
    if listed := _LISTED.search(text):
        return [_unquoted(name) for name in listed[1].split(",") if name.strip()]
    lines = _ONE_A_LINE.search(text)
    found = []
    for number, line in enumerate(lines[1].splitlines() if lines else ()):
        key, _, name = line.strip().partition(" ")
        if key not in {"-", f"{number}:"}:
            return []
        found.append(_unquoted(name))
    return found


def _unquoted(name: str) -> str:
    return name.strip().strip("'\"")


YOLO = Reader(
    name="yolo",
    describes="a folder of images, each with a .txt of boxes (YOLO), and classes.txt",
    detects=is_yolo,
    read=read_yolo,
)
