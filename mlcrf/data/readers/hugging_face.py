"""Hugging Face folders: `metadata.csv`, `.jsonl` or `.parquet` next to images."""

from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from mlcrf.data.manifest import SPLIT_NAMES, Manifest, Split
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.readers.table import read_table
from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored

_METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_metadata(folder: Path) -> dict[Path, Split | None]:
    """Find the metadata files of a data set: in the folder, or in its folders train, val etc.

    Returns:
        Metadata file -> split of its folder, None for the top folder.

    Raises:
        DataError: several metadata files in one folder, or two folders for one split.
    """
    own = _metadata_in(folder)
    if own is not None:
        return {own: None}
    found: dict[Path, Split | None] = {}
    for name, split in SPLIT_NAMES.items():
        file = _metadata_in(folder / name)
        if file is None:
            continue
        if split in found.values():
            raise DataError("both `validation` and `val` contain metadata; keep one", folder)
        found[file] = split
    return found


def read_huggingface(folder: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a folder with metadata files; each is a table for `read_table`.

    A file in a folder train, validation (or val) or test belongs to that split. A single file
    defines splits by a column `split`, or by such folders at the start of all its paths.

    Raises:
        DataError: no metadata file, or errors in one.
        LabelsError: label columns other than those of `options.labels`.
    """
    files = find_metadata(folder)
    if not files:
        raise DataError(f"has no {', '.join(_METADATA_NAMES)}; add one next to the images", folder)

    parts = [read_table(file, options) for file in files]
    names = tuple(dict.fromkeys(name for part in parts for name in part.labels))
    if any(part.labels.names != names for part in parts):
        # A tag that a part never lists is absent there, so all parts are read with all labels.
        together = replace(options, labels=LabelSpace(names))
        parts = [read_table(file, together) for file in files]
    splits = [
        part.splits or _splits_of_folders(part, options.image_root or folder, split)
        for part, split in zip(parts, files.values(), strict=True)
    ]
    joined = [split for part in splits if part is not None for split in part]
    return Manifest(
        images=tuple(image for part in parts for image in part.images),
        targets=np.concatenate([part.targets for part in parts]),
        labels=parts[0].labels,
        splits=tuple(joined) if all(part is not None for part in splits) else None,
        name=folder.resolve().name,
        notes=tuple(note for part in parts for note in part.notes),
        facts=tuple(dict.fromkeys(fact for part in parts for fact in part.facts)),
        lists_positives=any(part.lists_positives for part in parts),
    )


def _splits_of_folders(
    part: Manifest, folder: Path | Stored, split: Split | None
) -> tuple[Split, ...] | None:
    """Return the given split of all images, or the splits named by the first folder of paths."""
    if split is not None:
        return (split,) * len(part)
    found = []
    for image in part.images:
        inside = _below(image, folder).parts
        if len(inside) < 2 or inside[0] not in SPLIT_NAMES:
            return None
        found.append(SPLIT_NAMES[inside[0]])
    return tuple(found)


def _below(image: Image, folder: Path | Stored) -> PurePath:
    """Return the path relative to the folder; an empty path if the image is not below it."""
    if image.location is None:
        return PurePosixPath(image.below)
    inside = image.location.is_relative_to(str(folder))
    return image.location.relative_to(str(folder)) if inside else PurePath()


def _metadata_in(folder: Path) -> Path | None:
    files = [folder / name for name in _METADATA_NAMES if (folder / name).is_file()]
    if len(files) > 1:
        raise DataError(f"both {files[0].name} and {files[1].name} exist; keep one", folder)
    return files[0] if files else None


HUGGING_FACE = Reader(
    name="hugging-face",
    describes="a folder with metadata.csv or metadata.jsonl",
    detects=lambda path: bool(find_metadata(path)),
    read=read_huggingface,
    uses_image_root=True,
)
