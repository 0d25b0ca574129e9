"""Read tables of images and labels (CSV, TSV, JSON lines, Parquet), and save them as CSV."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf import atomic
from mlcrf.data.cells import INVALID, shown_cell, write_csv_row
from mlcrf.data.columns import LIST_COLUMNS, SCORE_PREFIXES, sort_columns
from mlcrf.data.files import FolderListings
from mlcrf.data.manifest import SPLIT_COLUMN, SPLIT_NAMES, Manifest, Split
from mlcrf.data.problems import Problems
from mlcrf.data.readers.reader import Reader, ReadOptions
from mlcrf.data.table_files import IMAGE_COLUMNS, TABLE_SUFFIXES, Records, load_records
from mlcrf.data.tags import (
    Tags,
    parse_tags,
    sniff_separator,
    tag_targets,
    unknown_tags,
    vocabulary,
)
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.images import Image, LocalImage, as_image
from mlcrf.images.containers import find_image_tables
from mlcrf.images.image import UrlImage
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored, is_url, parse_place


def read_table(
    path: Path | Stored, options: ReadOptions = ReadOptions(), *, check_images: bool = True
) -> Manifest:
    """Read a table with one row per image.

    Image paths, or URLs in an object store, are in the first of the columns `image`, `file_name`,
    `filename`, `path`; the optional `split` is train, validation (or val) or test.
    Other columns:

    - `p:LABEL` and `independent:LABEL` are scores of our own predictions: ignored, like further
      columns of paths;
    - `labels`, `tags` or `label` is a list of labels if any cell is not 0, 1 or unknown. Listed
      labels are present, others absent; `[]` is the empty set. Other columns are then ignored,
      but a column of 0, 1 and unknown only is an error, since it could be a label;
    - otherwise each column is a label of 1, 0 or unknown (also 1.0, 0.0, true, false).

    An empty cell, `?` or -1 means unknown, also for a list.

    Args:
        options: if `label_sep` is None, it is the first of `;`, `|`, `,` that occurs.
        check_images: report missing images; in a store they are found only when fetched.

    Raises:
        DataError: all errors in rows, each with its line, or an error of the whole table.
        LabelsError: label columns other than those of `options.labels`.

    Cost: O(cells), and one directory listing for each folder with images.
    """
    problems = Problems(options.max_problems)
    records = load_records(path, problems)
    listings = FolderListings() if check_images else None
    root = options.image_root or path.parent
    return records_manifest(records, root, listings, options, problems)


def records_manifest(
    records: Records,
    root: Path | Stored,
    listings: FolderListings | None,
    options: ReadOptions,
    problems: Problems,
) -> Manifest:
    """Convert rows to a manifest, by the rules and with the errors of `read_table`.

    Args:
        root: folder that paths are relative to.
        listings: checks that images exist; None skips the check.
        problems: errors found so far.
    """
    label_sep, labels = options.label_sep, options.labels
    if label_sep == "":
        raise SettingsError("the label separator is empty; expected a character such as ';' or '|'")
    columns = sort_columns(records)
    images = _image_paths(records, columns.image, root, listings, problems)
    splits = _row_splits(records, problems)
    notes = []
    if columns.ignored:
        ignored = (" ".join(name.split()) for name in columns.ignored)
        notes.append(f"columns left out: {', '.join(ignored)}")
    if columns.listed is None:
        space, targets = _valued_targets(records, columns.valued, labels, problems)
    else:
        tags, more = _listed_tags(records, columns.listed, label_sep, labels, problems)
        notes += more
        problems.raise_if_any()
        space = labels or vocabulary(tags, records.path)
        targets = tag_targets(tags, space)
    problems.raise_if_any()
    return Manifest(
        tuple(images),
        targets,
        space,
        splits,
        records.path.stem,
        tuple(notes),
        lists_positives=columns.listed is not None,
    )


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


def _image_paths(
    records: Records,
    column: str,
    root: Path | Stored,
    listings: FolderListings | None,
    problems: Problems,
) -> list[Image]:
    """Return the images (N,); report missing and duplicate images."""
    first: dict[str, int] = {}
    images: list[Image] = []
    for row, cell in enumerate(records.columns[column]):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            records.fault(problems, row, f"column {column!r} is empty; expected an image path")
            continue
        if not isinstance(cell, str):
            kind = type(cell).__name__
            hint = ""
            if isinstance(records.path, Stored) and isinstance(cell, bytes | dict):
                hint = "; copy a table that contains images to a local disk"
            message = f"column {column!r} contains {kind}, expected a path as text{hint}"
            records.fault(problems, row, message)
            continue
        try:
            image = _find_image(root, cell, listings)
        except DataError as error:
            records.fault(problems, row, str(error))
            continue
        if image is None:
            hint = "" if Path(cell).is_absolute() else f" in {root}; is it the image root?"
            records.fault(problems, row, f"missing image {cell.strip()!r}{hint}")
            image = LocalImage(os.path.join(str(root), cell))  # noqa: PTH118 - quick
        double = first.setdefault(image.address, row)
        if double != row:
            where = records.place(double)
            records.fault(problems, row, f"duplicate row: {cell.strip()!r} is on {where} too")
        images.append(image)
    return images


def _find_image(root: Path | Stored, cell: str, listings: FolderListings | None) -> Image | None:
    """Return the image at the path as written, else without spaces or Windows' backslashes.

    Uses text, since `Path` objects would take most of the time of reading a table.

    Raises:
        DataError: a URL with an unknown scheme or a missing driver.
    """
    if "://" in cell:
        url = cell.strip()
        if listings is not None:
            parse_place(url)
        if is_url(url):
            return as_image(url)
    if isinstance(root, Stored):
        stored = root.at(cell.strip())
        return UrlImage(stored.url, stored.root)
    folder = str(root)
    place = os.path.join(folder, cell)  # noqa: PTH118
    if listings is None or listings.has(place):
        return as_image(place)
    others = (cell.strip(), cell.strip().replace("\\", "/"))
    places = (os.path.join(folder, other) for other in others if other != cell)  # noqa: PTH118
    return next((as_image(one) for one in places if listings.has(one)), None)


def _row_splits(records: Records, problems: Problems) -> tuple[Split, ...] | None:
    if SPLIT_COLUMN not in records.columns:
        return None
    splits = []
    for row, cell in enumerate(records.columns[SPLIT_COLUMN]):
        name = cell.strip() if isinstance(cell, str) else "" if cell is None else cell
        split = SPLIT_NAMES.get(name.lower()) if isinstance(name, str) else None
        if split is None:
            expected = f"expected {', '.join(SPLIT_NAMES)}"
            records.fault(problems, row, f"unknown split {shown_cell(name)}; {expected}")
        splits.append(split or Split.TRAIN)
    return tuple(splits)


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
        wrong = np.flatnonzero(codes[name] == INVALID).tolist()
        if wrong and not (codes[name] >= 0).any():
            example = shown_cell(records.columns[name][wrong[0]])
            problems.add(
                records.path,
                f"column {name!r} contains no 0 or 1, but values such as {example}; remove "
                f"the column, or name it `{LIST_COLUMNS[0]}` if it lists labels",
                line=1,
            )
            continue
        for row in wrong:
            value = shown_cell(records.columns[name][row])
            expected = "expected 1, 0, or an empty cell, ? or -1 for unknown"
            records.fault(problems, row, f"label {name!r} is {value}; {expected}")
    return space, np.stack([codes[name] for name in space], axis=1)


def _listed_tags(
    records: Records,
    column: str,
    label_sep: str | None,
    labels: LabelSpace | None,
    problems: Problems,
) -> tuple[list[Tags], list[str]]:
    """Return the tags of each row (N,), and notes about guesses."""
    cells = records.columns[column]
    separator = label_sep or sniff_separator(cells)
    tags: list[Tags] = []
    for row, cell in enumerate(cells):
        try:
            tags.append(parse_tags(cell, separator))
        except ValueError as error:
            records.fault(problems, row, f"column {column!r}: {error}")
            tags.append(None)
        for message in unknown_tags(tags[-1] or frozenset(), labels) if labels else ():
            records.fault(problems, row, message)
    notes = []
    empty = sum(isinstance(cell, str) and not cell.strip() for cell in cells)
    if empty:
        notes.append(
            f"{empty} empty cells in column {column!r} are taken as unknown; "
            "write [] for an image without labels"
        )
    if separator is None and any(isinstance(cell, str) and " " in cell.strip() for cell in cells):
        notes.append(f"column {column!r} has no separator but spaces: each cell is one label")
    return tags, notes


def _path_in_table(image: Image, folder: Path) -> str:
    if image.location is None:
        return image.name
    inside = image.location.is_relative_to(folder)
    return (image.location.relative_to(folder) if inside else image.location.absolute()).as_posix()


def _is_table(path: Path) -> bool:
    is_named_so = path.is_file() and path.suffix.lower() in TABLE_SUFFIXES
    return is_named_so and not find_image_tables(path)


TABLE = Reader(
    name="table",
    describes="a .csv, .tsv, .parquet or .jsonl table with an image column",
    detects=_is_table,
    read=read_table,
)
