"""MIRFLICKR-25k: images `imN.jpg`, and one text file per label with its image numbers.

Source: Huiskes and Lew, The MIR Flickr Retrieval Evaluation (2008); annotations v080.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.files import load_text
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.rules import with_rules
from mlcrf.data.tags import relabelled
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.images import LocalImage
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules

LABEL_SETS = {24: "potential", 14: "relevant", 38: "potential and relevant"}
LAST_NUMBER = 25_000
RELEVANT_SUFFIX = "_r1"

_IMAGE = re.compile(r"im([1-9][0-9]{0,4})\.jpg")
_IMAGE_FOLDERS = ("mirflickr", ".")
_ANNOTATION_FOLDERS = ("annotations", "mirflickr25k_annotations_v080", ".", "mirflickr")


def is_mirflickr(path: Path) -> bool:
    """Return whether a folder has the images of MIRFLICKR, or its annotations with other images."""
    folder = _annotation_folder(path)
    return (
        bool(_numbered_images(path / "mirflickr"))
        or (folder is not None and folder != path)
        or (folder is not None and bool(_numbered_images(path)))
    )


def read_mirflickr(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a MIRFLICKR folder as `mlcrf download` leaves it.

    Images are in `mirflickr/` or the folder itself; annotations in `annotations/`,
    `mirflickr25k_annotations_v080/`, the folder itself or `mirflickr/`. An image in no
    file has the empty set. Numbers without an image are left out and counted in the notes.

    Splits are those of the literature's code (Graber, Meshi and Schwing 2018): test is
    im10001-im20000, train im1-im10000 and validation im20001-im25000; if the last are
    missing, validation is im9001-im10000 and train im1-im9000.

    With 38 labels every relevant label implies its potential one: an image that has `x_r1`
    without `x` is given `x`, and the notes say so.

    Raises:
        SettingsError: unknown label set.
        DataError: no images, no annotations, or lines that are not an image number.
        LabelsError: the labels differ from `options.labels`.
    """
    label_set = options.label_set
    if label_set not in LABEL_SETS:
        raise SettingsError(f"no MIRFLICKR label set {label_set}; choose 24, 14 or 38")
    images = next(filter(None, (_numbered_images(path / one) for one in _IMAGE_FOLDERS)), None)
    if not images:
        raise DataError("has no image such as mirflickr/im1.jpg; unpack them there", path)
    folder = _annotation_folder(path)
    if folder is None:
        raise DataError(
            "has images but no annotation files such as annotations/sky.txt; "
            "unpack mirflickr25k_annotations_v080.zip into annotations/",
            path,
        )
    files = {file.stem: file for file in _annotation_files(folder)}
    names = [name for name in sorted(files) if _belongs(name, label_set)]
    if not names:
        raise DataError(f"has no annotation file of label set {label_set}", folder)
    problems = Problems(options.max_problems)
    present = np.stack([_load_flags(files[name], problems) for name in names], axis=1)
    problems.raise_if_any()

    numbers = np.array(sorted(images))
    targets = present[numbers].astype(np.int8)
    notes = [] if len(names) == label_set else [f"{len(names)} of {label_set} labels are here"]
    left_out = int(present.any(axis=1).sum() - targets.any(axis=1).sum())
    if left_out:
        notes.append(f"{left_out} annotated images are not here and are left out")
    try:
        space = LabelSpace(tuple(names))
    except LabelsError as error:
        raise DataError(f"{error}", folder) from error
    manifest = Manifest(
        images=tuple(LocalImage(str(images[number])) for number in numbers.tolist()),
        targets=targets,
        labels=space,
        splits=_splits(numbers),
        name=f"mirflickr25k-{label_set}",
        notes=tuple(notes),
    )
    manifest = with_rules(manifest, _implications(space))
    return relabelled(manifest, options.labels, path)


def _numbered_images(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    matches = ((file, _IMAGE.fullmatch(file.name)) for file in folder.iterdir())
    found = {int(match[1]): file for file, match in matches if match}
    return {number: file for number, file in found.items() if number <= LAST_NUMBER}


def _annotation_folder(path: Path) -> Path | None:
    """Return the first folder with a file of image numbers."""
    for name in _ANNOTATION_FOLDERS:
        if any(_starts_with_number(file) for file in _annotation_files(path / name)):
            return path / name
    return None


def _annotation_files(folder: Path) -> list[Path]:
    """Return the text files, without the README and the tags of single images (`im1.txt`)."""
    return [
        file
        for file in sorted(folder.glob("*.txt"))
        if file.is_file()
        and file.stem.upper() != "README"
        and not re.fullmatch(r"im[0-9]+|\..*", file.stem)
    ]


def _starts_with_number(file: Path) -> bool:
    with file.open("rb") as stream:
        return re.match(rb"(\xef\xbb\xbf)?[0-9]+\s*[\r\n]", stream.read(16) + b"\n") is not None


def _belongs(name: str, label_set: int) -> bool:
    return label_set == 38 or name.endswith(RELEVANT_SUFFIX) == (label_set == 14)


def _load_flags(file: Path, problems: Problems) -> NDArray[np.bool_]:
    """Load image numbers, one per line, as a mask over 0 to 25,000."""
    flags = np.zeros(LAST_NUMBER + 1, dtype=np.bool_)
    for line, text in enumerate(load_text(file, problems).splitlines(), start=1):
        number = text.strip()
        if not number:
            continue
        if number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= LAST_NUMBER:
            flags[int(number[:9])] = True
        else:
            message = f"{number[:40]!r} is not an image number; expected 1 to {LAST_NUMBER}"
            problems.add(file, message, line=line)
    return flags


def _implications(labels: LabelSpace) -> Rules:
    """Return `relevant => potential` for each label of which both are present."""
    potential = {name: name.removesuffix(RELEVANT_SUFFIX) for name in labels}
    pairs = [(name, of) for name, of in potential.items() if of != name and of in potential]
    return Rules.from_names(pairs, labels)


def _splits(numbers: NDArray[np.int64]) -> tuple[Split, ...]:
    first_validation = 10_001 if numbers.max() > 20_000 else 9_001
    return tuple(
        Split.TRAIN
        if number < first_validation
        else Split.TEST
        if 10_000 < number <= 20_000
        else Split.VALIDATION
        for number in numbers.tolist()
    )


MIRFLICKR = Reader(
    name="mirflickr",
    describes="a MIRFLICKR folder (mirflickr/im1.jpg, annotations/sky.txt)",
    detects=is_mirflickr,
    read=read_mirflickr,
)
