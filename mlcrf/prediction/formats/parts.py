"""An archive tagged in parts, each by a process of its own, and the parts made one table again.

Which part a picture is in depends on its name alone, so that processes on many machines need not
know of each other, and pictures that are added meanwhile belong to one part too. A part is one
Parquet file, and there once it is whole: rows as in any table of predictions, and the errors.
"""

import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from mlcrf.errors import DataError, SettingsError
from mlcrf.images import Image, as_image
from mlcrf.images.containers import is_parquet, is_tar
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.layouts import WideLayout
from mlcrf.prediction.formats.table import ParquetFile
from mlcrf.prediction.record import Prediction, Rows
from mlcrf.stores import Stored

_NAME = re.compile(r"part-(\d+)-of-(\d+)\.parquet")
_KEY = b"mlcrf"
_MORE = {"error": pa.string(), "listed": pa.int64(), "name": pa.binary()}
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Shard:
    """One part of several: `number` of 1 to `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `3/64`.

        Raises:
            SettingsError: it is no such thing.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise SettingsError(f"--shard {text}: expected K/N with K from 1 to N, as in 3/64")
        return cls(int(match[1]), int(match[2]))

    def has(self, key: str) -> bool:
        """Whether what is named so is in this part: an N-th of all names is."""
        digest = hashlib.blake2b(os.fsencode(key), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def chooser(
        self, places: Iterable[Path | Stored], *, of_folders: bool
    ) -> Callable[[Image], bool]:
        """Which pictures are in this part, by their names below the folders among the places.

        The folders themselves, and tar and Parquet files, may be elsewhere on another machine.
        The rows of a row group of Parquet stay together up to 256 of them, since who reads one
        unpacks those before it.

        Args:
            of_folders: keep pictures of one folder together.
        """
        tops = [
            place if place.is_dir() else place.parent
            for place in places
            if isinstance(place, Path) and (place.is_dir() or is_tar(place) or is_parquet(place))
        ]

        def has(image: Image) -> bool:
            if image.is_remote:
                return self.has(image.below)
            unit = Path(image.name if of_folders else image.reading_unit)
            inside = next((one for one in tops if unit.is_relative_to(one)), None)
            name = unit if inside is None else unit.relative_to(inside)
            return self.has(str(name.parent if of_folders else name))

        return has

    def path(self, folder: Path | Stored) -> Path | Stored:
        """Where the part is kept."""
        name = f"part-{self.number:05d}-of-{self.of:05d}.parquet"
        return folder / name if isinstance(folder, Path) else folder.at(name)


@dataclass(frozen=True)
class ShardForm:
    """How a part is written: as `Table` writes `.parquet`, with these columns more.

    `error`, of what could not be tagged; `listed`, the place of the picture in the whole listing;
    `name`, of a picture whose name is no UTF-8, its bytes.

    Attributes:
        made_with: the run and the options that rows depend on; parts are of one table only where
            they agree.
    """

    shard: Shard
    made_with: Mapping[str, Any]
    endings: tuple[str, ...] = (".parquet",)
    holds_errors: bool = field(default=True, init=False)

    def open(self, path: Path, ending: str, labels: LabelSpace) -> Rows:
        """Begin the file."""
        about = {
            "shard": [self.shard.number, self.shard.of],
            "made_with": dict(self.made_with),
            "labels": list(labels),
        }
        return _ShardRows(path, labels, json.dumps(about))

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """None."""
        return {}

    def is_finished(self, path: Path | Stored) -> bool:
        """Whether the part is there already.

        Raises:
            DataError: there is one that was made with another run or other options, or no part.
        """
        if not path.exists():
            return False
        theirs, ours = _about(path)["made_with"], json.loads(json.dumps(dict(self.made_with)))
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise DataError(
                    f"{path}: was made with another {name}: {theirs.get(name)}, now "
                    f"{ours.get(name)}; choose another --out, or --overwrite"
                )
        return True


class _ShardRows:
    def __init__(self, path: Path, labels: LabelSpace, about: str) -> None:
        self._layout = WideLayout(labels)
        columns = self._layout.columns | _MORE
        self._file = ParquetFile(path, pa.schema(list(columns.items()), {_KEY: about.encode()}))
        self._nothing = [None] * (len(self._layout.columns) - 2)

    def write(self, prediction: Prediction) -> None:
        if prediction.marginals:
            (row,) = self._layout.rows(prediction)
        else:
            row = ["", None, *self._nothing]
        record = dict(zip(self._layout.columns, row, strict=True))
        name = os.fsencode(str(prediction.image))
        record["image"] = name.decode("utf-8", "backslashreplace")
        record["name"] = name if record["image"] != str(prediction.image) else None
        record["listed"] = prediction.listed
        # an error may name the picture, whose name may be no text
        error = prediction.error.encode("utf-8", "surrogateescape")
        record["error"] = error.decode("utf-8", "backslashreplace") or None
        self._file.write(record)

    def close(self) -> None:
        self._file.close()


class Shards:
    """All parts in a folder, on a disk or in an object store, as the one table that they are.

    Attributes:
        labels: by their names in the table.
        digest: of the run that made them.

    Raises:
        DataError: there is none, one is missing or damaged, or they do not belong together.
    """

    def __init__(self, folder: Path | Stored) -> None:
        names = [path for path in _listed(folder) if _NAME.fullmatch(path.name)]
        if not names:
            raise DataError(f"{folder}: no part-*.parquet of `mlcrf predict --shard` is there")
        self._paths = sorted(names, key=str)
        first = _about(self._paths[0])
        for path in self._paths[1:]:
            about = _about(path)
            for part, what in (("made_with", "run or options"), ("labels", "labels")):
                if about[part] != first[part]:
                    raise DataError(f"{path}: was made with other {what} than {self._paths[0]}")
            if about["shard"][1] != first["shard"][1]:
                raise DataError(
                    f"{path}: is one of {about['shard'][1]} parts, {self._paths[0].name} one of "
                    f"{first['shard'][1]}; keep those of one number only"
                )
        self._require_all(folder, [_about(path)["shard"][0] for path in self._paths], first)
        self.labels = LabelSpace(tuple(first["labels"]))
        self.digest = str(first["made_with"]["run"])

    def __iter__(self) -> Iterator[Prediction]:
        """What was said of each picture, in the order in which they were listed."""
        streams = [_predictions(path, self.labels) for path in self._paths]
        return heapq.merge(*streams, key=lambda one: one.listed)

    def __len__(self) -> int:
        """How many pictures there are."""
        total = 0
        for path in self._paths:
            with _opened(path) as source:
                total += parquet.read_metadata(source).num_rows
        return total

    @staticmethod
    def _require_all(folder: Path | Stored, found: Sequence[int], first: Mapping[str, Any]) -> None:
        of = first["shard"][1]
        if missing := sorted(set(range(1, of + 1)) - set(found)):
            shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise DataError(
                f"{folder}: {len(missing)} of {of} parts are missing: {shown}; "
                "`mlcrf predict --shard` makes them"
            )


def _listed(folder: Path | Stored) -> Iterable[Path | Stored]:
    if isinstance(folder, Stored):
        return [one for one in folder.walk(lambda _: True) if "/" not in one.below]
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; expected a folder of parts") from error


def _opened(path: Path | Stored) -> AbstractContextManager[Path | BinaryIO]:
    return nullcontext(path) if isinstance(path, Path) else path.opened()


def _about(path: Path | Stored) -> dict[str, Any]:
    try:
        with _opened(path) as source:
            metadata = parquet.read_schema(source).metadata or {}
            about: dict[str, Any] = json.loads(metadata[_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: no part of `mlcrf predict --shard`, or damaged; delete it and make it again"
        ) from error
    return about


def _predictions(path: Path | Stored, labels: LabelSpace) -> Iterator[Prediction]:
    try:
        with _opened(path) as source, parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield _prediction(row, labels)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and make it again") from error


def _prediction(row: Mapping[str, Any], labels: LabelSpace) -> Prediction:
    name = row["name"] if row["name"] is not None else row["image"].encode()
    error = Prediction(as_image(os.fsdecode(name)), error=row["error"] or "", listed=row["listed"])
    if row["labels"] is None:
        return error
    return replace(
        error,
        labels=tuple(row["labels"]),
        marginals=tuple(row[f"p:{label}"] for label in labels),
        independent=tuple(row[f"independent:{label}"] for label in labels),
    )
