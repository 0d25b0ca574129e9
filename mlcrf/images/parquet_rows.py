"""Read images from Parquet files in any order, efficiently in row order.

A row group is unpacked a few rows at a time, and recent images are cached, so no whole file or row
group is in memory, and images requested in row order, also by several threads, are unpacked once.
Going back within a row group unpacks it again from its start.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from mlcrf.errors import DataError, reason_of
from mlcrf.images.image import ContainedImage
from mlcrf.images.parquet_files import FAULTS, ImageTable, load_table

_OPEN_FILES = 8
_KEPT_BYTES = 2**27  # size of cached images of all files
_ENTRY_BYTES = 200  # overhead of a cached image
_BYTES_AT_ONCE, _ROWS_AT_ONCE = 2**23, 16  # unpacked at a time
_BUFFER_BYTES = 2**20

_Key = tuple[Path, int, int, int]  # file, its time and size, row


@dataclass(frozen=True)
class ParquetImage(ContainedImage):
    """An image in a row of a Parquet file.

    Cost of reading: a few rows if the previous row was read before; at worst its row group.
    """

    @property
    def reading_unit(self) -> str:
        try:
            table = load_table(self.within)
        except (OSError, DataError):  # reported when the image is read
            return self.name
        row = table.row(self.inside)
        return self.name if row is None else str(self.within / table.unit(row))

    def read(self) -> bytes:
        table, row = self._find()
        content = _readers.of(table).read(row)
        if content is None:
            raise OSError(f"column {table.column!r} has no bytes in this row")
        return content

    def measure(self) -> tuple[int, int]:
        """Return the Parquet file's, since an image's own size is unknown before reading."""
        table, _ = self._find()
        return table.size, table.mtime_ns

    def _find(self) -> tuple[ImageTable, int]:
        table = load_table(self.within)
        row = table.row(self.inside)
        if row is None:
            raise OSError(f"no such row in {self.within.name}")
        return table, row


def row_names(path: Path) -> Iterator[str]:
    """Return the names of the images in a Parquet file, in row order.

    Raises:
        DataError: see `load_table`.
    """
    return load_table(path).names()


class _Kept:
    """A cache of recent images, limited in bytes. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._size = most_bytes, 0
        self._found: OrderedDict[_Key, bytes | None] = OrderedDict()
        self._lock = Lock()

    def get(self, key: _Key) -> tuple[bytes | None] | None:
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return (self._found[key],)

    def put(self, key: _Key, content: bytes | None) -> None:
        with self._lock:
            if key not in self._found:
                self._size += len(content or b"") + _ENTRY_BYTES
            self._found[key] = content
            self._found.move_to_end(key)
            while self._size > self._most:
                _, dropped = self._found.popitem(last=False)
                self._size -= len(dropped or b"") + _ENTRY_BYTES


class _Reader:
    """Reader of a file, with a position in a row group. Thread-safe."""

    def __init__(self, table: ImageTable, kept: _Kept) -> None:
        self._table, self._kept = table, kept
        self._lock = Lock()
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group, self._next = -1, 0
        self._faults: dict[int, tuple[int, str]] = {}  # row group -> first unreadable row, reason

    def read(self, row: int) -> bytes | None:
        """Return the content of a row.

        Raises:
            OSError: it cannot be read, or the file has changed.
        """
        group = self._table.group(row)
        with self._lock:
            if (kept := self._kept.get(self._key(row))) is not None:
                return kept[0]
            first_bad, reason = self._faults.get(group, (len(self._table), ""))
            if row >= first_bad:
                raise OSError(reason)
            if group != self._group or row < self._next:
                self._begin(group)
            while True:
                first = self._next
                values = self._step(group)
                if row < self._next:
                    return values[row - first]

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._batches, self._group = iter(()), -1
        if self._file is not None:
            self._file.close()
            self._file = None

    def _key(self, row: int) -> _Key:
        return self._table.path, self._table.mtime_ns, self._table.size, row

    def _begin(self, group: int) -> None:
        table = self._table
        rows = _BYTES_AT_ONCE // max(table.bytes_a_row[group], 1)
        try:
            status = table.path.stat()
            if (status.st_mtime_ns, status.st_size) != (table.mtime_ns, table.size):
                raise OSError("it has changed since it was listed")
            if self._file is None:
                self._file = pq.ParquetFile(
                    table.path,
                    buffer_size=_BUFFER_BYTES,  # else a whole row group is read at once
                    pre_buffer=False,
                    page_checksum_verification=True,
                )
            self._batches = self._file.iter_batches(
                min(max(rows, 1), _ROWS_AT_ONCE),
                row_groups=[group],
                columns=[table.leaf],
                use_threads=False,
            )
        except FAULTS as error:
            self._close()
            raise OSError(f"{table.path.name} cannot be read: {reason_of(error)}") from error
        self._group, self._next = group, table.starts[group]

    def _step(self, group: int) -> list[bytes | None]:
        """Return the next few rows of the row group."""
        try:
            column = next(self._batches).column(0)
            values: list[bytes | None] = (
                column.flatten()[0] if pa.types.is_struct(column.type) else column
            ).to_pylist()
        except (StopIteration, *FAULTS) as error:
            ends = isinstance(error, StopIteration)
            why = "it ends too soon" if ends else reason_of(error)
            reason = f"row group {group} of {self._table.path.name} is damaged: {why}"
            self._faults[group] = self._next, reason
            self._group = -1
            raise OSError(reason) from error
        for row, content in enumerate(values, start=self._next):
            self._kept.put(self._key(row), content)
        self._next += len(values)
        return values


class _Readers:
    """Readers of recent files. Thread-safe; empty after a fork."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all readers, which share locks and files with the parent of a fork."""
        self._kept = _Kept(_KEPT_BYTES)
        self._readers: OrderedDict[tuple[Path, int, int], _Reader] = OrderedDict()
        self._lock = Lock()

    def of(self, table: ImageTable) -> _Reader:
        key = table.path, table.mtime_ns, table.size
        dropped = None
        with self._lock:
            reader = self._readers.setdefault(key, _Reader(table, self._kept))
            self._readers.move_to_end(key)
            if len(self._readers) > _OPEN_FILES:
                _, dropped = self._readers.popitem(last=False)
        if dropped is not None:
            dropped.close()
        return reader


_readers = _Readers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_readers.forget)
