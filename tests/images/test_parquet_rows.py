"""Pictures out of Parquet files: in any order, by several threads and processes, damaged or not."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from mlcrf.images import Image, as_image
from mlcrf.images import parquet_rows as rows
from mlcrf.images.containers import members
from mlcrf.images.parquet_files import load_table
from tests.data.readers.test_parquet_images import make_parquet


def content(row: int) -> bytes:
    return Random(row).randbytes(1000)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """100 rows in row groups of 30, each different, with checksums."""
    pictures = [{"image": content(row)} for row in range(100)]
    options = {"row_group_size": 30, "write_page_checksum": True, "use_dictionary": False}
    return make_parquet(tmp_path / "x.parquet", pictures, **options)


def read(image: Path | Image) -> bytes:
    return as_image(image).read()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that were begun, in order; nothing is kept from before."""
    found: list[int] = []
    whole = pq.ParquetFile.iter_batches

    def watched(
        self: pq.ParquetFile, size: int, *, row_groups: list[int], **rest: object
    ) -> object:
        found.extend(row_groups)
        return whole(self, size, row_groups=row_groups, **rest)

    rows._readers.forget()
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    return found


def test_a_row_group_is_unpacked_once(table: Path, begun: list[int]) -> None:
    """In the order of rows, by four threads at once."""
    paths = list(members(table))
    begun.clear()
    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(read, paths)) == [content(row) for row in range(100)]
    assert begun == [0, 1, 2, 3]


def test_any_order_with_little_kept(
    table: Path, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was dropped is read again; never more is kept than may be."""
    monkeypatch.setattr(rows, "_KEPT_BYTES", 5000)
    rows._readers.forget()
    order = Random(0).sample(list(enumerate(members(table))), 100)
    for row, path in order:
        assert read(path) == content(row)
        assert rows._readers._kept._size <= 5000
    assert len(begun) > 10


def test_few_files_are_open(tmp_path: Path, begun: list[int]) -> None:
    """Those that were read last."""
    paths = [make_parquet(tmp_path / f"{n}.parquet", [{"image": content(n)}]) for n in range(20)]
    for number, path in enumerate(paths):
        assert read(path / "0000000.jpg") == content(number)
    assert len(rows._readers._readers) == rows._OPEN_FILES
    assert begun == [0] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_reads_too(table: Path) -> None:
    """Even where it happened while another thread held the locks."""
    first, last = table / "0000000.jpg", table / "0000099.jpg"
    assert read(first) == content(0)
    with rows._readers._lock, rows._readers._kept._lock:
        child = os.fork()
        if not child:
            os._exit(0 if read(last) == content(99) and read(first) == content(0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read(last) == content(99)


def test_damage_is_of_one_row_group(table: Path, begun: list[int]) -> None:
    """Its rows are an error each, found out once; all others are read."""
    raw = bytearray(table.read_bytes())
    spot = raw.index(content(40))
    raw[spot : spot + 9] = bytes(9)
    table.write_bytes(raw)
    for row, path in enumerate(members(table)):
        if 30 <= row < 60:
            with pytest.raises(OSError, match=r"row group 1 of x\.parquet is damaged: .*CRC"):
                read(path)
        else:
            assert read(path) == content(row)
    assert begun == [0, 1, 2, 3]


def test_rows_without_a_picture(tmp_path: Path) -> None:
    """Null, or a struct without bytes."""
    kinds = {"image": [{"bytes": None, "path": "a.jpg"}, None, {"bytes": b"x", "path": "b.jpg"}]}
    path = make_parquet(tmp_path / "x.parquet", [{"image": one} for one in kinds["image"]])
    for name in ("0000000.jpg", "0000001.jpg"):
        with pytest.raises(OSError, match="column 'image' has no bytes"):
            read(path / name)
    assert read(path / "0000002.jpg") == b"x"


def test_a_file_that_is_written_anew(table: Path) -> None:
    """Is read anew; what was found in the old one is refused."""
    old = load_table(table)
    make_parquet(table, [{"image": b"new"}])
    assert [read(path) for path in members(table)] == [b"new"]
    with pytest.raises(OSError, match="has changed since"):
        rows._readers.of(old).read(99)
