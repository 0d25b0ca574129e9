"""Parquet files written by mlcrf, read back row by row."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from mlcrf.data.columns import ABSTAINED
from mlcrf.errors import DataError, reason_of
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.table import (
    METADATA_KEY,
    NAMES_KEY,
    OPEN_LABELS,
    SETS,
    SURELY,
    WideLayout,
)
from mlcrf.prediction.record import Family, Origin, Prediction
from mlcrf.rules import Rules
from mlcrf.stores import Stored

_ROWS_AT_ONCE = 256


class ParquetTable:
    """A wide table, or one part of it.

    Args:
        about: metadata from `load_about`.

    Attributes:
        labels: labels in the order of the columns.
        origin: the model that made the table.
        abstains: whether the table says which labels are left open.
        families: whether the table has families of label sets.
    """

    def __init__(self, path: Path | Stored, about: Mapping[str, Any]) -> None:
        self._path = path
        self.labels = LabelSpace(tuple(about["labels"]))
        self.abstains = bool(about.get("abstains", False))
        self.families = bool(about.get("families", False))
        origin = about["origin"]
        rules = origin["rules"]
        self.origin = Origin(
            origin["model"],
            origin["digest"],
            None if rules is None else Rules(tuple((child, parent) for child, parent in rules)),
            origin.get("decision", ""),
        )

    def __len__(self) -> int:
        with _opened(self._path) as source:
            return int(parquet.read_metadata(source).num_rows)

    def __iter__(self) -> Iterator[Prediction]:
        """Yield the predictions in the order of the file.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with _opened(self._path) as source, parquet.ParquetFile(source) as file:
                names = json.loads((file.metadata.metadata or {}).get(NAMES_KEY.encode(), "{}"))
                at = 0
                for batch in file.iter_batches(_ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        if str(at) in names:
                            row["image"] = os.fsdecode(bytes.fromhex(names[str(at)]))
                        yield self._prediction(row, at)
                        at += 1
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = reason_of(error)
            raise DataError(
                f"{self._path}: damaged ({reason}); delete the file and create it again"
            ) from error

    def _prediction(self, row: Mapping[str, Any], at: int) -> Prediction:
        image, listed = as_image(row["image"]), row.get("listed", at)
        if row["labels"] is None:
            return Prediction(image, error=row["error"], listed=listed)
        family = None
        if self.families and row[SETS] is not None:
            family = Family(tuple(row[SURELY]), tuple(row[OPEN_LABELS]), row[SETS])
        return Prediction(
            image,
            tuple(row["labels"]),
            tuple(row[f"p:{label}"] for label in self.labels),
            tuple(row[f"independent:{label}"] for label in self.labels),
            abstained=tuple(row.get(ABSTAINED) or ()),
            error=row.get("error") or "",
            listed=listed,
            family=family,
        )


def load_about(path: Path | Stored) -> dict[str, Any] | None:
    """Load the metadata of a Parquet file; return None if it is not a wide table by mlcrf.

    Raises:
        DataError: the file cannot be read as Parquet.
    """
    try:
        with _opened(path) as source:
            schema = parquet.read_schema(source)
        about: dict[str, Any] = json.loads((schema.metadata or {})[METADATA_KEY])
        wanted = WideLayout(LabelSpace(tuple(about["labels"]))).columns
    except (KeyError, json.JSONDecodeError):
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise DataError(f"{path}: cannot be read as Parquet: {reason}") from error
    return about if set(wanted) <= set(schema.names) else None


def _opened(path: Path | Stored) -> AbstractContextManager[Path | BinaryIO]:
    return nullcontext(path) if isinstance(path, Path) else path.opened()
