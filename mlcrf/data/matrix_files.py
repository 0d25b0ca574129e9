"""Load matrices of features and labels, of safetensors and LibSVM, as columns of plain values."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.cells import read_number
from mlcrf.data.manifest import SPLIT_COLUMN
from mlcrf.errors import DataError
from mlcrf.hints import counted
from mlcrf.labels import composed
from mlcrf.stores import Stored

FEATURES = "features"  # name of the matrix, and of the column of its rows
_TARGETS = ("labels", "targets")
_ROW = re.compile(r"\s*(-?\d+(,-?\d+)*)?(\s+qid:\d+)?(\s+\d+:[^\s:]+)*\s*(#.*)?")
_FEATURE = re.compile(r"(?<!\S)(\d+):(\S+)")
_LARGEST_INDEX = 2**31 - 2  # what scikit-learn's reader takes
_MOST_NUMBERS = 2**31  # of a dense matrix, 8 GB


@dataclass(frozen=True)
class MatrixContent:
    """The rows of two matrices.

    Attributes:
        columns: `features`, one array (D,) per row; labels, ids and splits, one cell per row.
        names: names of the features (D,), or none.
        labels: columns that are labels.
        lines: line of each row of a text, else its number (N,).
    """

    columns: dict[str, list[object]]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    lines: list[int]


def load_matrices(path: Path | Stored) -> MatrixContent:
    """Load the tensors `features` (N, D) and `labels` or `targets` (N, L) of a safetensors file.

    Labels are 1, 0, and -1 or NaN for unknown. The metadata may hold JSON lists of texts:
    `feature_names`, `label_names`, `ids` and `splits`.

    Raises:
        DataError: the file cannot be read, or its tensors do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes() if isinstance(path, Path) else path.read()
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"cannot be read as safetensors: {error}", path) from error
    arrays = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    features = arrays.get(FEATURES)
    if features is None or features.ndim != 2:
        found = ", ".join(f"{name} {tuple(one.shape)}" for name, one in list(arrays.items())[:5])
        raise DataError(
            f"has no tensor `{FEATURES}` (N, D); found {found or 'none'}. Expected it, and "
            "`labels` (N, L) of 1, 0 and -1",
            path,
        )
    columns: dict[str, list[object]] = {FEATURES: list(features.astype(np.float32))}
    count = len(features)
    given = [name for name in _TARGETS if name in arrays]
    if len(given) > 1:
        raise DataError(f"has the tensors {' and '.join(given)}; keep one of them", path)
    targets = arrays[given[0]] if given else np.zeros((count, 0))
    if targets.ndim != 2 or len(targets) != count:
        raise DataError(
            f"labels have the shape {targets.shape}; expected ({count}, L), a row for each of the "
            f"{count} rows of `{FEATURES}`",
            path,
        )
    read: Callable[[str, int], list[str] | None] = _reader(path, metadata)
    labels = read("label_names", targets.shape[1])
    labels = labels or [f"label {at + 1}" for at in range(targets.shape[1])]
    for name, key in (("id", "ids"), (SPLIT_COLUMN, "splits")):
        if (cells := read(key, count)) is not None:
            columns[name] = list(cells)
    for name, column in zip(labels, targets.T, strict=True):
        if name in columns:
            raise DataError(f"label {name!r} occurs twice, or has another meaning", path)
        columns[name] = column.tolist()
    names = read("feature_names", features.shape[1]) or []
    return MatrixContent(columns, tuple(names), tuple(labels), list(range(1, count + 1)))


def _reader(path: Path | Stored, metadata: dict[str, Any]) -> Callable[[str, int], Any]:
    """Return a function that reads a list of texts of a known length from the metadata."""

    def read(key: str, count: int) -> list[str] | None:
        if key not in metadata:
            return None
        try:
            found = json.loads(metadata[key])
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise DataError(f"metadata {key!r}: expected a JSON list of texts", path)
        if len(found) != count:
            raise DataError(f"metadata {key!r} has {len(found)} texts, expected {count}", path)
        return [composed(one) for one in found]

    return read


def _fault_of(row: str) -> str | None:
    """Return why the features of a row of SVMlight cannot be read, or None."""
    before = -1
    for index, value in _FEATURE.findall(row):
        if not before < int(index) <= _LARGEST_INDEX:
            fault = f"is too large, at most {_LARGEST_INDEX}"
            if int(index) <= before:
                fault = f"follows {before}; expected the numbers of features in rising order"
            return f"feature {index} {fault}"
        before = int(index)
        try:
            read_number(value)
        except ValueError:
            return f"feature {index} is {value!r}, expected a number"
    return None


def load_svmlight(path: Path | Stored) -> MatrixContent:
    """Load a file of LibSVM or SVMlight: `1,3 2:0.5 7:1`, labels and then the features not 0.

    Labels and features are named by their numbers in the file.

    Raises:
        DataError: a line has another form, or the matrix would be too large.
    """
    from sklearn.datasets import load_svmlight_file

    try:
        content = path.read_bytes() if isinstance(path, Path) else path.read()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path) from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not _ROW.fullmatch(line):
            expected = "expected labels and features such as 1,3 2:0.5 7:1"
            raise DataError(f"{line[:40]!r}; {expected}", path, number)
        if row := line.partition("#")[0].strip():
            if fault := _fault_of(row):
                raise DataError(fault, path, number)
            lines.append(number)
    try:
        found = load_svmlight_file(io.BytesIO(text.encode()), multilabel=True, zero_based=True)
    except (ValueError, OverflowError) as error:
        raise DataError(f"cannot be read as LibSVM: {error}", path) from error
    matrix, answers = found
    if matrix.shape[0] != len(lines):
        raise DataError(
            f"{counted(len(lines), 'row')}, of which {matrix.shape[0]} could be read", path
        )
    if matrix.shape[0] * matrix.shape[1] > _MOST_NUMBERS:
        raise DataError(
            f"{matrix.shape[0]} rows of {matrix.shape[1]} features are too many for a dense matrix",
            path,
        )
    listed = [sorted(int(one) for one in row) for row in answers]
    if any(one < 0 for row in listed for one in row):
        raise DataError(
            "has the label -1, as files of one label for a yes or no have; expected the numbers of "
            "the labels of each row",
            path,
        )
    first = 0 if matrix[:, [0]].nnz else 1
    dense: NDArray[np.float32] = matrix[:, first:].astype(np.float32).toarray()
    names = tuple(f"{FEATURES}[{at}]" for at in range(first, matrix.shape[1]))
    columns: dict[str, list[object]] = {
        FEATURES: list(dense),
        "labels": [[str(one) for one in row] for row in listed],
    }
    return MatrixContent(columns, names, (), lines)
