"""Save features of images, with what is known of them, as tables that training reads."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlcrf import atomic
from mlcrf.data.cells import write_csv_row
from mlcrf.data.manifest import IMAGE_COLUMN, SPLIT_COLUMN, Split
from mlcrf.data.matrix_files import FEATURES
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN

FEATURE_SUFFIXES = (".parquet", ".safetensors", ".csv")


@dataclass(frozen=True)
class KnownOfImages:
    """Names, labels and splits of images, beside their features.

    Attributes:
        names: names of the images (N,).
        labels: names of the labels (L,).
        targets: 1 present, 0 absent, -1 unknown; int8 (N, L).
        splits: split of each image (N,), or None.

    Raises:
        DataError: a label has the name of another column.
    """

    names: Sequence[str]
    labels: Sequence[str]
    targets: NDArray[np.int8]
    splits: Sequence[Split] | None = None

    def __post_init__(self) -> None:
        for name in (IMAGE_COLUMN, SPLIT_COLUMN, FEATURES):
            if name in self.labels:
                raise DataError(f"label {name!r} has another meaning in a table; rename it")


def save_features(path: Path, features: NDArray[np.float32], known: KnownOfImages) -> None:
    """Save a row for each image, atomically: its name, split, labels and features (N, D).

    In .parquet the features are one column of lists; in .csv, columns `features[0]` and so on; in
    .safetensors a tensor, with names, labels and splits in the metadata.

    Raises:
        DataError: a name is not UTF-8.
    """
    try:
        match path.suffix.lower():
            case ".parquet":
                with atomic.replacing(path) as temporary:
                    pq.write_table(_as_arrow(features, known), temporary)
            case ".csv":
                atomic.write_text(path, _as_csv(features, known))
            case _:
                atomic.write_bytes(path, _as_safetensors(features, known))
    except UnicodeEncodeError as error:
        raise DataError("the name of an image is not UTF-8; rename the file", path) from error


def _as_arrow(features: NDArray[np.float32], known: KnownOfImages) -> pa.Table:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    columns: dict[str, pa.Array] = {IMAGE_COLUMN: pa.array(known.names, pa.string())}
    if known.splits is not None:
        columns[SPLIT_COLUMN] = pa.array([split.value for split in known.splits])
    for label, column in zip(known.labels, known.targets.T, strict=True):
        columns[label] = pa.array(column, mask=column == UNKNOWN)
    return pa.table({**columns, FEATURES: lists})


def _as_csv(features: NDArray[np.float32], known: KnownOfImages) -> str:
    stream = io.StringIO()
    split = [] if known.splits is None else [SPLIT_COLUMN]
    names = [f"{FEATURES}[{at}]" for at in range(features.shape[1])]
    write_csv_row(stream, [IMAGE_COLUMN, *split, *known.labels, *names])
    cells = np.array(["0", "1", ""])[known.targets].tolist()  # -1 is the last
    for row, (name, answers, numbers) in enumerate(zip(known.names, cells, features, strict=True)):
        split = [] if known.splits is None else [known.splits[row].value]
        write_csv_row(stream, [name, *split, *answers, *(str(one) for one in numbers)])
    return stream.getvalue()


def _as_safetensors(features: NDArray[np.float32], known: KnownOfImages) -> bytes:
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.generic]] = {FEATURES: np.ascontiguousarray(features)}
    metadata = {"ids": json.dumps(list(known.names), ensure_ascii=False)}
    if len(known.labels):
        tensors["labels"] = np.ascontiguousarray(known.targets)
        metadata["label_names"] = json.dumps(list(known.labels), ensure_ascii=False)
    if known.splits is not None:
        metadata["splits"] = json.dumps([split.value for split in known.splits])
    content: bytes = save(tensors, metadata)
    return content
