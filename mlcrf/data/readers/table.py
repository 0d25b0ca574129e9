"""Tables of images and labels: CSV, TSV, JSON lines and Parquet; and saving a manifest as one."""

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
    """Read a table with one row an image.

    The paths, or URLs in an object store, stand in the first of the columns `image`, `file_name`,
    `filename`, `path`; the optional `split` says train, validation (or val) or test. What the
    other columns are:

    - `p:LABEL` and `independent:LABEL` are scores that our own predictions carry: ignored, and so
      are further columns of paths;
    - `labels`, `tags` or `label` is a list of labels if any cell in it is more than 0, 1 or
      unknown. What is listed is present, all else absent; `[]` is the empty set. Other columns
      are then ignored, unless one holds nothing but 0, 1 and unknown: that is ambiguous;
    - otherwise each column is a label of 1, 0 or unknown (also 1.0, 0.0, true, false).

    Unknown is an empty cell, `?` or -1, in a list too.

    Args:
        options: `label_sep`, if None, is the first of `;`, `|`, `,` that occurs.
        check_images: whether a missing image is a fault; that one is missing in a store shows
            when it is fetched.

    Raises:
        DataError: everything that is wrong with the rows, each with its line, or what is wrong
            with the table as a whole.
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
    """Return what rows say, by the rules and with the errors of `read_table`.

    Args:
        root: folder that paths are relative to.
        listings: tells which images there are; None where that is known.
        problems: what was wrong with the rows so far.
    """
    label_sep, labels = options.label_sep, options.labels
    if label_sep == "":
        raise SettingsError("the label separator is empty; expected a sign such as ';' or '|'")
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

    Images below the folder of the table are written relative to it, so that both can move
    together; others as absolute paths.

    Raises:
        DataError: a label whose name would not be read as one, or a path that is not UTF-8.
    """
    reserved = [
        name
        for name in manifest.labels
        if name in {IMAGE_COLUMNS[0], SPLIT_COLUMN} or name.startswith(SCORE_PREFIXES)
    ]
    if reserved:
        raise DataError(f"label {reserved[0]!r} means something else in a table; rename it", path)
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
    """Return the images (N,); every one that is missing or stands twice is noted."""
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
                hint = "; a table with images in it is read from disks only, copy it to one"
            message = f"column {column!r} holds {kind}, expected a path as text{hint}"
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
            records.fault(problems, row, f"duplicate row: {cell.strip()!r} stands on {where} too")
        images.append(image)
    return images


def _find_image(root: Path | Stored, cell: str, listings: FolderListings | None) -> Image | None:
    """Return the image as written; if there is none, without space or Windows' backslashes.

    In text rather than `Path` objects, which would take most of the time of reading a table.

    Raises:
        DataError: a URL of a kind that we do not know, or whose driver is not installed.
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
    """Labels and targets (N, L) of a table with one column a label."""
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
                f"column {name!r} holds no 0 or 1 but the like of {example}; remove the column, "
                f"or name it `{LIST_COLUMNS[0]}` if it lists labels",
                line=1,
            )
            continue
        for row in wrong:
            value = shown_cell(records.columns[name][row])
            expected = "expected 1, 0, or for unknown an empty cell, ? or -1"
            records.fault(problems, row, f"label {name!r} is {value}; {expected}")
    return space, np.stack([codes[name] for name in space], axis=1)


def _listed_tags(
    records: Records,
    column: str,
    label_sep: str | None,
    labels: LabelSpace | None,
    problems: Problems,
) -> tuple[list[Tags], list[str]]:
    """Tags of each row (N,), and notes on what had to be guessed."""
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
