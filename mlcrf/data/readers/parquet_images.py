"""Parquet files that contain images and labels, as in data sets of Hugging Face."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlcrf.data.columns import LIST_COLUMNS
from mlcrf.data.manifest import SPLIT_NAMES, Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.readers.table import records_manifest
from mlcrf.data.table_files import IMAGE_COLUMNS, Records, check_header
from mlcrf.errors import DataError, reason_of
from mlcrf.images.containers import find_image_tables
from mlcrf.images.parquet_files import FAULTS, load_table

_SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})[-_.]")  # train-00000-of-00004.parquet
_HUGGING_FACE = b"huggingface"
_PLAIN = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class _Joined(Records):
    """Rows of several files; `starts` is the first row of each, and the number of rows (F + 1)."""

    root: Path = Path()
    files: tuple[Path, ...] = ()
    starts: tuple[int, ...] = ()

    def fault(self, problems: Problems, row: int, message: str) -> None:
        problems.add(self.root / str(self.columns[IMAGE_COLUMNS[0]][row]), message)


def read_parquet_images(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a Parquet file of images with labels, or all in a folder; no image is unpacked.

    Images are in the column `image`, of bytes or of structs of bytes and a path; for the
    other columns see `read_table`. Numbers in a column that lists labels are class numbers if the
    Hugging Face metadata name the classes. Files named `train-...`, `validation-...` (or
    `val-...`) and `test-...` define splits, unless a column does.

    Raises:
        DataError: a file that is damaged, has no images or other columns than the first, or
            errors in rows.
        LabelsError: label columns other than those of `options.labels`.

    Cost: all columns except the images are loaded into memory.
    """
    problems = Problems(options.max_problems)
    files = find_image_tables(path)
    records, notes = _load(path, files, problems)
    root = path if path.is_dir() else path.parent
    manifest = records_manifest(records, root, options, problems, check_images=False)
    splits = manifest.splits
    if splits is None and path.is_dir():
        splits = _splits_of_files(records)
    name = path.resolve().name if path.is_dir() else path.stem
    return replace(manifest, splits=splits, name=name, notes=(*notes, *manifest.notes))


def _load(path: Path, files: Sequence[Path], problems: Problems) -> tuple[_Joined, list[str]]:
    """Load the rows of all files with the paths of their images, and notes."""
    root = path if path.is_dir() else path.parent
    tables = [(file, *_load_columns(file, root)) for file in files]
    starts = tuple(accumulate((len(one[IMAGE_COLUMNS[0]]) for _, one, _, _ in tables), initial=0))
    columns: dict[str, list[object]] = {name: [] for name in tables[0][1]}
    for file, found, _, _ in tables:
        if found.keys() != columns.keys():
            odd = ", ".join(repr(name) for name in sorted(found.keys() ^ columns.keys())[:5])
            raise DataError(
                f"has other columns than {files[0].name}: {odd}; give all files the same", file
            )
        for name, cells in found.items():
            columns[name] += cells
    if not starts[-1]:
        raise DataError("has no rows; expected one row per image", path)
    numbers = list(range(1, starts[-1] + 1))
    records = _Joined(
        path, columns, numbers, has_lines=False, root=root, files=tuple(files), starts=starts
    )
    for at, (_, _, classes, _) in enumerate(tables):
        for name, names in classes.items():
            for row in range(starts[at], starts[at + 1]):
                try:
                    columns[name][row] = _named(columns[name][row], names)
                except ValueError as error:
                    records.fault(problems, row, f"column {name!r}: {error}")
                    columns[name][row] = None
    left = sorted({name for *_, names in tables for name in names})
    return records, [f"columns left out: {', '.join(left)}"] if left else []


def _load_columns(
    file: Path, root: Path
) -> tuple[dict[str, list[object]], dict[str, Sequence[str]], list[str]]:
    """Return cells by column, class names by column, and the columns left out."""
    table = load_table(file)
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            wanted = [one.name for one in schema if one.name != table.column and _is_read(one.type)]
            left = [one for one in schema.names if one not in {table.column, *wanted}]
            check_header(file, [name.strip() for name in schema.names])
            cells = opened.read(columns=wanted)
        classes = _class_names(schema)
        columns: dict[str, list[object]] = {
            name.strip(): cells.column(name).to_pylist() for name in wanted
        }
    except FAULTS as error:
        reason = reason_of(error).removesuffix(".")
        raise DataError(f"cannot be read as Parquet: {reason}; copy it again", file) from error
    inside = file.relative_to(root).as_posix()
    images: list[object] = [f"{inside}/{name}" for name in table.names()]
    if any(len(one) != len(images) for one in columns.values()):
        raise DataError("has columns of different lengths; damaged, make it again", file)
    classes = {name: names for name, names in classes.items() if name in columns}
    return {IMAGE_COLUMNS[0]: images} | columns, classes, left


def _is_read(kind: pa.DataType) -> bool:
    """Return whether cells of this type can contain labels or splits."""
    if any(test(kind) for test in _LISTS) or pa.types.is_dictionary(kind):
        kind = kind.value_type
        return pa.types.is_integer(kind) or _is_plain(kind)
    return _is_plain(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _PLAIN)


def _class_names(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Return the class names of columns that list labels by class number.

    Raises:
        ValueError: the metadata are not JSON of Hugging Face.
    """
    raw = (schema.metadata or {}).get(_HUGGING_FACE)
    if raw is None:
        return {}
    try:
        features = json.loads(raw)["info"]["features"]
        found = {name: _names_of(features[name]) for name in LIST_COLUMNS if name in features}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its metadata {_HUGGING_FACE.decode()!r} are damaged: {error}") from error
    return {name: names for name, names in found.items() if names}


def _names_of(feature: Any) -> list[str]:
    """Return the class names of a feature, or of the feature in a list; [] if it has none."""
    if isinstance(feature, list):
        return _names_of(feature[0]) if feature else []
    if not isinstance(feature, dict):
        raise TypeError("a feature is not an object")
    if feature.get("_type") == "ClassLabel":
        return [str(name) for name in feature.get("names") or []]
    inner = feature.get("feature")
    return _names_of(inner) if isinstance(inner, dict | list) else []


def _named(cell: object, names: Sequence[str]) -> object:
    """Return the names of class numbers; None for -1, which means unknown at Hugging Face.

    Raises:
        ValueError: unknown class.
    """
    if cell is None or cell == -1:
        return None
    found = []
    for number in cell if isinstance(cell, list) else [cell]:
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise ValueError(f"no class {number!r}; there are {len(names)}, from 0")
        found.append(names[number])
    return found


def _splits_of_files(records: _Joined) -> tuple[Split, ...] | None:
    """Return splits from the file names; None if a name contains no split."""
    matches = [_SPLIT_NAME.match(file.name) for file in records.files]
    splits: list[Split] = []
    for at, match in enumerate(matches):
        if match is None:
            return None
        count = records.starts[at + 1] - records.starts[at]
        splits += [SPLIT_NAMES[match[1]]] * count
    return tuple(splits)


PARQUET_IMAGES = Reader(
    name="parquet-images",
    describes="a .parquet, or a folder of them, with images in a column `image` (Hugging Face)",
    detects=lambda path: bool(find_image_tables(path)),
    read=read_parquet_images,
)
