"""Parquet files that contain images: find the column of images and the names of rows.

An image is a value of bytes, or of a struct of `bytes` and `path` as Hugging Face writes it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from mlcrf.errors import DataError, reason_of

SUFFIX = ".parquet"
# Exceptions of pyarrow for damaged files, and for values that Python cannot represent.
FAULTS = (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException)

_COLUMN = "image"
_PATH_COLUMNS = ("file_name", "filename", "path")  # a table of paths, if there is no `image`
_INDEXES = 256  # files whose metadata are cached
_LONGEST_NAME = 200  # bytes of a file name, which leaves room for `.xmp`
_NAMES_AT_ONCE = 64
_UNIT_ROWS = 256

# Photos hardly compress, so a file that claims to unpack to far more contains no photos.
_LARGE_BYTES = 2**26
_MOST_TIMES = 100
_LARGEST_IMAGE = 2**29


class Kind(Enum):
    """The content of a Parquet file."""

    IMAGES = auto()
    PATHS = auto()  # a table of image paths
    NEITHER = auto()
    DAMAGED = auto()


@dataclass(frozen=True)
class ImageTable:
    """A Parquet file of images, as it was at a certain time and size.

    Attributes:
        column: the column of images; `leaf` is its field of bytes.
        starts: first row of each row group, and the number of rows (G + 1).
        bytes_a_row: mean size of a row in each row group (G,).
        rows: row of each name; None if rows are named by number.
    """

    path: Path
    size: int
    mtime_ns: int
    column: str
    leaf: str
    starts: tuple[int, ...]
    bytes_a_row: tuple[int, ...]
    rows: dict[str, int] | None = field(repr=False, compare=False)

    def __len__(self) -> int:
        return self.starts[-1]

    def names(self) -> Iterator[str]:
        if self.rows is not None:
            return iter(self.rows)
        return (_numbered(row) for row in range(len(self)))

    def row(self, name: str) -> int | None:
        """Return the row with a name, or None."""
        if self.rows is not None:
            return self.rows.get(name)
        number = name.removesuffix(".jpg")
        row = int(number) if number.isascii() and number.isdecimal() else len(self)
        return row if row < len(self) and _numbered(row) == name else None

    def group(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    def unit(self, row: int) -> str:
        """Return a name shared by up to 256 rows of a row group, to be read together."""
        group = self.group(row)
        return f"{group}.{(row - self.starts[group]) // _UNIT_ROWS}"


def load_table(path: Path) -> ImageTable:
    """Load the metadata of a Parquet file of images; no image is read.

    Rows are named by the `path` of their images if all are distinct and safe, else by their
    numbers from 0, `0000123.jpg`.

    Raises:
        DataError: not a Parquet file, damaged, no column of images, or a decompression bomb.

    Cost: reads its footer and the paths, once until the file changes.
    """
    status = path.stat()
    return _load(path, status.st_mtime_ns, status.st_size)


def kind_of(path: Path) -> Kind:
    """Return the kind of a Parquet file, by its columns."""
    try:
        schema = pq.read_schema(path)
    except FAULTS:
        return Kind.DAMAGED
    if image_column(schema) is not None:
        return Kind.IMAGES
    texts = [one for one in (_COLUMN, *_PATH_COLUMNS) if _is_text(schema, one)]
    return Kind.PATHS if texts else Kind.NEITHER


def image_column(schema: pa.Schema) -> str | None:
    """Return the column `image` if it has images; else the only column with images, or None.

    A table without `image` but with a column of paths is a table of paths.
    """
    if _COLUMN in schema.names:
        return _COLUMN if holds_images(schema.field(_COLUMN).type) else None
    found = [one.name for one in schema if holds_images(one.type)]
    are_paths = any(_is_text(schema, one) for one in _PATH_COLUMNS)
    return found[0] if len(found) == 1 and not are_paths else None


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column of this type can contain images."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def check_claims(path: Path, metadata: pq.FileMetaData) -> None:
    """Refuse a file whose metadata claim an implausible size.

    Uses the metadata of row groups only, since pyarrow ends the process on some damaged metadata of
    columns.

    Raises:
        DataError: a decompression bomb, or inconsistent numbers.
    """
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    rows, unpacked = [g.num_rows for g in groups], [g.total_byte_size for g in groups]
    size = path.stat().st_size
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows or sum(rows) > _MOST_TIMES * size:
        raise DataError(
            f"claims {metadata.num_rows:,} rows in {size:,} bytes; damaged, or no images",
            path,
        )
    bomb = sum(unpacked) > _LARGE_BYTES and sum(unpacked) > _MOST_TIMES * size
    large = any(n > _LARGEST_IMAGE * max(of, 1) for n, of in zip(unpacked, rows, strict=True))
    if bomb or large or min(unpacked, default=0) < 0:
        raise DataError(
            f"claims to unpack {size:,} bytes to {sum(unpacked):,}: a decompression bomb, "
            "or damaged",
            path,
        )


@lru_cache(maxsize=_INDEXES)
def _load(path: Path, mtime_ns: int, size: int) -> ImageTable:
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            column = image_column(schema)
            if column is None:
                raise DataError(f"{_no_images(schema)}", path)
            kind = schema.field(column).type
            is_struct = pa.types.is_struct(kind)
            leaf = f"{column}.bytes" if is_struct else column
            check_claims(path, metadata)
            rows = None
            if is_struct and kind.get_field_index("path") >= 0:
                rows = _names(file, f"{column}.path")
            groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    except FAULTS as error:
        reason = reason_of(error).removesuffix(".")
        raise DataError(f"cannot be read as Parquet: {reason}; copy it again", path) from error
    starts = tuple(accumulate((one.num_rows for one in groups), initial=0))
    average = tuple(one.total_byte_size // max(one.num_rows, 1) for one in groups)
    return ImageTable(path, size, mtime_ns, column, leaf, starts, average, rows)


def _names(file: pq.ParquetFile, leaf: str) -> dict[str, int] | None:
    """Map paths to rows; None if a path is missing, duplicate or unsafe."""
    rows: dict[str, int] = {}
    for batch in file.iter_batches(_NAMES_AT_ONCE, columns=[leaf], use_threads=False):
        for text in batch.column(0).flatten()[0].to_pylist():
            if not isinstance(text, str) or not _is_safe(text) or text in rows:
                return None
            rows[text] = len(rows)
    return rows


def _is_safe(text: str) -> bool:
    """Return whether a path is relative, normalised and printable, without `..`."""
    path = PurePosixPath(text)
    return (
        str(path) == text
        and not path.is_absolute()
        and bool(path.name)
        and text.isprintable()
        and "\\" not in text
        and ".." not in path.parts
        and all(len(part.encode("utf-8", "replace")) <= _LONGEST_NAME for part in path.parts)
    )


def _no_images(schema: pa.Schema) -> str:
    found = ", ".join(f"{one.name!r} ({str(one.type)[:40]})" for one in list(schema)[:10])
    return (
        f"has no column of images; found {found or 'no column'}. Expected {_COLUMN!r} of bytes, "
        "or of structs with `bytes`"
    )


def _numbered(row: int) -> str:
    return f"{row:07d}.jpg"


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_text(schema: pa.Schema, name: str) -> bool:
    if schema.get_field_index(name) < 0:
        return False
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)
