"""Read tables of images and labels (CSV, TSV, JSON lines, Parquet), and save them as CSV."""

import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf import atomic
from mlcrf.data.cells import INVALID, shown_cell, write_csv_row
from mlcrf.data.columns import (
    ABSTAINED,
    SCORE_PREFIXES,
    Columns,
    column_splits,
    describe_invalid,
    sort_columns,
)
from mlcrf.data.feature_columns import FeatureTable, judge_copies, number_rows, take_features
from mlcrf.data.image_paths import find_images
from mlcrf.data.list_columns import leave_open, read_listed_tags
from mlcrf.data.manifest import SPLIT_COLUMN, SPLIT_NAMES, Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.label_studio import is_label_studio
from mlcrf.data.readers.reader import Reader
from mlcrf.data.table_files import IMAGE_COLUMNS, TABLE_SUFFIXES, Records, load_records
from mlcrf.data.tags import tag_targets, vocabulary
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.hints import counted
from mlcrf.images import Image, LocalImage
from mlcrf.images.containers import find_image_tables
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored

_PART = re.compile(rf"(.+)([-_.])({'|'.join(SPLIT_NAMES)})")


def read_table(
    path: Path | Stored, options: ReadOptions = ReadOptions(), *, check_images: bool = True
) -> Manifest:
    """Read a table with one row per image.

    Image paths, or URLs in an object store, are in the first of the columns `image`, `file_name`,
    `filename`, `path`. The optional `split` is train, validation or test; a column of such words
    under another name, or `is_valid` and the like, is used too where there is no doubt (see
    `mlcrf.data.columns`). Other columns:

    - `p:LABEL` and `independent:LABEL` are scores of our own predictions: ignored, like further
      columns of paths;
    - `labels`, `tags` or `label` is a list of labels if any cell is not 0, 1 or unknown. Listed
      labels are present, others absent; `[]` is the empty set. Other columns are then ignored,
      but a column of 0, 1 and unknown only is an error, since it could be a label. Labels that a
      column `abstained` lists, as in our own predictions, are unknown;
    - otherwise each column is a label of 1, 0 or unknown (also 1.0, 0.0, true, false, and yes, no
      and the like where both occur).

    An empty cell, `?`, -1 or `nan` means unknown, also for a list, unless `options.blank` says
    otherwise. Rows of one image with the same labels are one; a table with one row per label, each
    image several times, is read as such.

    Args:
        options: if `label_sep` is None, it is that of `;`, `|`, `,` by which labels repeat most.
        check_images: find images and report missing ones (see `mlcrf.data.image_paths`); in a
            store they are missed only when fetched.

    Raises:
        DataError: all errors in rows, each with its line, or an error of the whole table.
        LabelsError: label columns other than those of `options.labels`.

    Cost: O(cells), and one directory listing for each folder with images.
    """
    problems = Problems(options.max_problems)
    records = load_records(path, problems)
    found = take_features(records, options)
    if found is not None:
        return _numbers_manifest(found, options, problems)
    root = options.image_root or path.parent
    return records_manifest(records, root, options, problems, check_images=check_images)


def records_manifest(
    records: Records,
    root: Path | Stored,
    options: ReadOptions,
    problems: Problems,
    *,
    check_images: bool,
) -> Manifest:
    """Convert rows to a manifest, by the rules and with the errors of `read_table`.

    Args:
        root: folder that paths are relative to.
        problems: errors found so far.
        check_images: see `read_table`.
    """
    columns = sort_columns(records, options)
    images, notes = _find_images(records, columns.image, root, problems, check=check_images)
    manifest = _make_manifest(records, columns, images, notes, options, problems)
    if columns.image in IMAGE_COLUMNS:
        return manifest
    return replace(manifest, facts=(f"images from column {columns.image!r}", *manifest.facts))


def _numbers_manifest(found: FeatureTable, options: ReadOptions, problems: Problems) -> Manifest:
    """Convert rows of numbers to a manifest; report rows whose features are faulty."""
    records = found.records
    if records.labels and options.label_columns is None:
        options = replace(options, label_columns=records.labels)
    columns = sort_columns(records, options, row_names=found.id_column or "")
    rows = number_rows(found, problems)
    manifest = _make_manifest(records, columns, list(rows), list(found.notes), options, problems)
    copies = judge_copies(found, manifest.labels.names, manifest.targets, options)
    splits, facts = manifest.splits, (*found.facts, *manifest.facts)
    part = None if splits is not None else _part_of_name(records.path)
    if part is not None:
        splits = (part,) * len(manifest)
        facts = (*facts, f"split {part.value} by the name of the file")
    return replace(
        manifest,
        feature_names=found.names,
        splits=splits,
        facts=facts,
        notes=(*manifest.notes, *copies),
    )


def _part_of_name(path: Path | Stored) -> Split | None:
    """Return the split that a file's name says, as NAME-train.arff beside NAME-test.arff does."""
    found = _PART.fullmatch(path.stem)
    if found is None or not isinstance(path, Path):
        return None
    name, sign, own = found.groups()
    others = [
        path.with_name(f"{name}{sign}{part}{path.suffix}")
        for part, split in SPLIT_NAMES.items()
        if split is not SPLIT_NAMES[own]
    ]
    return SPLIT_NAMES[own] if any(one.is_file() for one in others) else None


def _make_manifest(
    records: Records,
    columns: Columns,
    images: list[Image],
    notes: list[str],
    options: ReadOptions,
    problems: Problems,
) -> Manifest:
    """Read the splits and labels of rows whose images are known."""
    labels = options.labels
    if options.label_sep == "":
        raise SettingsError("the label separator is empty; expected a character such as ';' or '|'")
    splits = _row_splits(records, columns.split, problems)
    may_open = columns.listed is not None and ABSTAINED not in options.ignore_columns
    opens = may_open and ABSTAINED in columns.ignored
    facts = _facts(columns, used=(ABSTAINED,) if opens else ())
    if columns.listed is None:
        space, targets = _valued_targets(records, columns.valued, labels, problems)
        single = is_long = False
    else:
        listed = read_listed_tags(records, columns.listed, options, problems)
        facts += listed.facts
        notes += listed.notes
        problems.raise_if_any()
        space = labels or vocabulary(listed.tags, records.path)
        targets = tag_targets(listed.tags, space)
        if opens:
            done, lost = leave_open(records, listed, space, targets, problems)
            facts += done
            notes += lost
        single = listed.single
        is_long = single and _is_long(images)
        if is_long:
            facts.append(f"one row per label: {len(images)} rows")
            notes += [
                f"one row per label: a label is taken as present whatever column {name!r} says; "
                "remove rows of labels that are absent"
                for name in columns.ignored
                if name in records.columns and _may_be_scores(records.columns[name])
            ]
    kept = _merge_rows(
        records, columns.image, images, targets, splits, problems, is_long=is_long, single=single
    )
    problems.raise_if_any()
    if len(kept) < len(images) and not is_long:
        notes.append(
            f"{counted(len(images) - len(kept), 'row stands', 'rows stand')} "
            "twice, with the same labels"
        )
    manifest = Manifest(
        tuple(images),
        targets,
        space,
        splits,
        records.path.stem,
        tuple(notes),
        lists_positives=columns.listed is not None,
        facts=tuple(facts),
        lines={str(records.path): np.array(records.lines)},
    )
    return manifest if len(kept) == len(images) else manifest.rows(np.array(kept))


def _facts(columns: Columns, used: Sequence[str]) -> list[str]:
    """Return how the columns were understood, in words; `used` are not left out after all."""
    facts = []
    if columns.words:
        facts.append(f"cells read: {', '.join(columns.words)}")
    if columns.split and columns.split != (SPLIT_COLUMN,):
        facts.append(f"splits from column {', '.join(map(_one_line, columns.split))}")
    if left_out := [_one_line(name) for name in columns.ignored if name not in used]:
        facts.append(f"columns left out: {', '.join(left_out)}")
    return facts


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _text(records: Records, column: str, row: int) -> str:
    return str(records.columns[column][row]).strip()


def _may_be_scores(cells: Sequence[object]) -> bool:
    """Return whether cells are different numbers from 0 to 1, such as scores of labels."""
    try:
        numbers = {float(str(cell)) for cell in set(cells)}
    except (TypeError, ValueError):
        return False
    return len(numbers) > 1 and all(0 <= number <= 1 for number in numbers)


def _is_long(images: Sequence[Image]) -> bool:
    """Return whether most images stand in several rows, as in a table with one row per label."""
    counts = Counter(image.address for image in images)
    return sum(count > 1 for count in counts.values()) * 2 > len(counts)


def _merge_rows(
    records: Records,
    column: str,
    images: Sequence[Image],
    targets: NDArray[np.int8],
    splits: tuple[Split, ...] | None,
    problems: Problems,
    *,
    is_long: bool,
    single: bool,
) -> list[int]:
    """Return the first row of each image; report rows of one image that contradict each other.

    In a table with one row per label, the labels of an image's rows are joined in its first row,
    in place.

    Args:
        single: whether no row has more than one label.
    """
    first: dict[str, int] = {}
    kept = []
    reported = {one.line for one in problems.found}
    remedy = ", or list all labels of an image in one row" if single else ""
    for row, image in enumerate(images):
        before = first.setdefault(image.address, row)
        if before == row:
            kept.append(row)
            continue
        other_split = splits is not None and splits[row] is not splits[before]
        if is_long and not other_split:
            targets[before] = np.maximum(targets[before], targets[row])
        elif records.lines[row] not in reported and (
            other_split or not np.array_equal(targets[row], targets[before])
        ):
            what = "split" if other_split else "labels"
            records.fault(
                problems,
                row,
                f"duplicate row: {_text(records, column, row)!r} is on {records.place(before)} "
                f"too, with other {what}; keep one{remedy}",
            )
    return kept


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Save a manifest as a CSV table that `read_table` reads back: images, targets, splits.

    Paths of images below the table's folder are relative, so that both can be moved together;
    other paths are absolute.

    Raises:
        DataError: a label name with another meaning in a table, or a path that is not UTF-8.
    """
    reserved = [
        name
        for name in manifest.labels
        if name in {IMAGE_COLUMNS[0], SPLIT_COLUMN} or name.startswith(SCORE_PREFIXES)
    ]
    if reserved:
        raise DataError(f"label {reserved[0]!r} has another meaning in a table; rename it", path)
    stream = io.StringIO()
    split_header = [] if manifest.splits is None else [SPLIT_COLUMN]
    write_csv_row(stream, [IMAGE_COLUMNS[0], *split_header, *manifest.labels])
    cells = np.array(["0", "1", ""])[manifest.targets].tolist()  # -1 is the last
    for row, (image, values) in enumerate(zip(manifest.images, cells, strict=True)):
        split = [] if manifest.splits is None else [manifest.splits[row].value]
        write_csv_row(stream, [_path_in_table(image, path.parent), *split, *values])
    try:
        atomic.write_text(path, stream.getvalue())
    except UnicodeEncodeError as error:
        raise DataError("the name of an image is not UTF-8; rename the file", path) from error


def _find_images(
    records: Records, column: str, root: Path | Stored, problems: Problems, *, check: bool
) -> tuple[list[Image], list[str]]:
    """Return the images (N,) and notes on repaired paths; report missing images."""
    cells = records.columns[column]
    paths = [cell if isinstance(cell, str) and cell.strip() else None for cell in cells]
    found = find_images(paths, root, check=check)
    images = []
    for row, image in enumerate(found.images):
        if image is None:
            fault = found.faults.get(row) or _no_path(records, column, row)
            records.fault(problems, row, fault)
        elif row in found.faults:
            records.fault(problems, row, found.faults[row])
        stand_in = LocalImage(os.path.join(str(root), f"row {row}"))  # noqa: PTH118 - quick
        images.append(image or stand_in)
    return images, found.notes


def _no_path(records: Records, column: str, row: int) -> str:
    """Return why a cell is no path."""
    cell = records.columns[column][row]
    if cell is None or isinstance(cell, str):
        return f"column {column!r} is empty; expected an image path"
    hint = ""
    if isinstance(records.path, Stored) and isinstance(cell, bytes | dict):
        hint = "; copy a table that contains images to a local disk"
    return f"column {column!r} contains {type(cell).__name__}, expected a path as text{hint}"


def _row_splits(
    records: Records, columns: Sequence[str], problems: Problems
) -> tuple[Split, ...] | None:
    """Return the split of each row (N,), the one furthest from training if several say one."""
    if not columns:
        return None
    order = {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2}
    result: list[Split] = [Split.TRAIN] * len(records)
    for name in columns:
        found = column_splits(records, name)
        wrong = [row for row, split in enumerate(found) if split is None]
        if len(wrong) > 2 and len(wrong) > len(found) / 2:  # the column is of another kind
            wrong = wrong[:1]
        for row in wrong:
            value = shown_cell(records.columns[name][row])
            expected = f"expected {', '.join(SPLIT_NAMES)}"
            records.fault(problems, row, f"column {name!r}: unknown split {value}; {expected}")
        for row, split in enumerate(found):
            if split is not None and order[split] > order[result[row]]:
                result[row] = split
    return tuple(result)


def _valued_targets(
    records: Records,
    codes: dict[str, NDArray[np.int8]],
    labels: LabelSpace | None,
    problems: Problems,
) -> tuple[LabelSpace, NDArray[np.int8]]:
    """Return labels and targets (N, L) of a table with one column per label."""
    try:
        space = labels or LabelSpace(tuple(codes))
        space.columns_in(codes)
    except LabelsError as error:
        raise LabelsError(f"{records.path}:1: {error}") from error
    for name in space:
        cells = records.columns[name]
        reason = describe_invalid(name, cells, codes[name])
        if reason is not None:
            problems.add(records.path, reason, line=1)
            continue
        for row in np.flatnonzero(codes[name] == INVALID).tolist():
            value = shown_cell(cells[row])
            expected = "expected 1, 0, or an empty cell, ? or -1 for unknown"
            records.fault(problems, row, f"label {name!r} is {value}; {expected}")
    return space, np.stack([codes[name] for name in space], axis=1)


def _path_in_table(image: Image, folder: Path) -> str:
    location = image.location
    if location is None:
        return image.address
    inside = location.is_relative_to(folder)
    return (location.relative_to(folder) if inside else location.absolute()).as_posix()


def _is_table(path: Path) -> bool:
    is_named_so = path.is_file() and path.suffix.lower() in TABLE_SUFFIXES
    return is_named_so and not find_image_tables(path) and not is_label_studio(path)


TABLE = Reader(
    name="table",
    describes="a .csv, .tsv, .parquet, .jsonl, .arff, .safetensors or .svm table of images or of "
    "features",
    detects=_is_table,
    read=read_table,
    uses_image_root=True,
)
