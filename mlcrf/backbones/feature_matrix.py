"""Features of more images than fit in memory: a matrix in mapped files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Union

import numpy as np
from numpy.typing import NDArray

from mlcrf import atomic
from mlcrf.errors import DataError

SHARD_ROWS = 2**16


class MappedMatrix:
    """Rows of float32 (N, D) in mapped .npy files; a slice is again a `MappedMatrix`.

    Only `numpy.asarray` reads the rows. The system caches as many as fit in memory.
    """

    def __init__(self, pieces: Sequence[NDArray[np.float32]]) -> None:
        self._pieces = tuple(pieces)
        self._ends = np.cumsum([len(piece) for piece in pieces])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return int(self._ends[-1]), self._pieces[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> "MappedMatrix":
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of files are sliced with step 1, got {step}")
        begins = self._ends - [len(piece) for piece in self._pieces]
        parts = [
            piece[max(0, start - begin) : max(0, stop - begin)]
            for piece, begin in zip(self._pieces, begins.tolist(), strict=True)
        ]
        return MappedMatrix([part for part in parts if len(part)] or [parts[0][:0]])

    def __add__(self, other: "MappedMatrix") -> "MappedMatrix":
        return MappedMatrix(self._pieces + other._pieces)

    def __array__(
        self, dtype: np.dtype[np.float32] | None = None, copy: bool | None = None
    ) -> NDArray[np.float32]:
        if copy is False:
            raise ValueError("rows of a file cannot be read without a copy")
        whole = np.concatenate(self._pieces)
        return whole if dtype is None else whole.astype(dtype, copy=False)


Matrix = Union[NDArray[np.float32], MappedMatrix]  # noqa: UP007  needed at run time


def join(first: Matrix, second: Matrix) -> Matrix:
    """Join the rows of two matrices of the same type."""
    if isinstance(first, MappedMatrix):
        assert isinstance(second, MappedMatrix)
        return first + second
    return np.concatenate([first, np.asarray(second)])


def read_rows(matrix: Matrix, rows: slice) -> NDArray[np.float32]:
    """Read some rows into memory."""
    return np.asarray(matrix[rows])


def spread_rows(count: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of `count` rows, evenly apart, since rows may be in an order."""
    chosen = min(count, most)
    return np.arange(chosen) * count // max(chosen, 1)


def read_spread(matrix: Matrix, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read single rows into memory."""
    if isinstance(matrix, MappedMatrix):
        return np.concatenate([np.asarray(matrix[row : row + 1]) for row in rows.tolist()])
    some: NDArray[np.float32] = np.asarray(matrix)[rows]
    return some


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"{number:06d}.npy"


def count_shards(count: int) -> int:
    """Return the number of shards for `count` rows."""
    return max(1, -(-count // SHARD_ROWS))


def write_shard(path: Path, rows: Iterable[NDArray[np.float32]], shape: tuple[int, int]) -> None:
    """Write one shard atomically, in blocks.

    Raises:
        DataError: there are more or fewer rows than the shape says.
        MlcrfError: the disk is full or the folder cannot be written.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    written = 0
    with atomic.replacing(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in rows:
            stream.write(np.ascontiguousarray(block, "<f4").data)
            written += len(block)
        if written != shape[0]:
            raise DataError(f"expected {shape[0]} rows to write, got {written}", path)


def map_file(path: Path) -> NDArray[np.float32]:
    """Map the rows of one shard; pickled objects are refused.

    Raises:
        OSError, ValueError: the file cannot be mapped, or is not a shard.
    """
    mapped: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="r")
    return mapped


def map_shards(folder: Path, count: int, num_features: int) -> MappedMatrix:
    """Map a matrix of `count` rows from its shards.

    Raises:
        DataError: a shard is missing or damaged.
    """
    return MappedMatrix(list(_map(folder, count, num_features)))


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Return whether the shard exists and has this shape."""
    try:
        return path.exists() and map_file(path).shape == shape
    except (OSError, ValueError):
        return False


def _map(folder: Path, count: int, num_features: int) -> Iterator[NDArray[np.float32]]:
    for number in range(count_shards(count)):
        path, rows = shard_path(folder, number), min(SHARD_ROWS, count - number * SHARD_ROWS)
        try:
            piece = map_file(path)
            if piece.shape != (rows, num_features) or piece.dtype != np.float32:
                raise ValueError(f"it contains {piece.dtype} {piece.shape}")
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot be used: {error}; delete it, it will be recreated", path
            ) from error
        yield piece
