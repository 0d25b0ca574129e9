"""Parts of a large archive, each tagged on its own, and the merged table.

A part is one Parquet file, which appears once it is complete: rows as in any table of predictions,
and errors. With `--shard`, the part of an image depends only on its name, so processes on many
machines need not communicate, and images added meanwhile belong to exactly one part. A cluster's
parts are consecutive images of the listing.
"""

import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlcrf.errors import DataError, SettingsError
from mlcrf.images import Image
from mlcrf.images.containers import is_parquet, is_tar
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.output import Rows
from mlcrf.prediction.formats.parquet_table import ParquetTable, load_about
from mlcrf.prediction.formats.table import ParquetFile, WideLayout, about_table
from mlcrf.prediction.job import PredictJob
from mlcrf.prediction.record import Origin, Prediction
from mlcrf.stores import Stored

_NAME = re.compile(r"part-(\d+)-of-(\d+)\.parquet")
_MORE = {"error": pa.string(), "listed": pa.int64()}


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1 to `of`, of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse a part such as `3/64`.

        Raises:
            SettingsError: the text does not have this form.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise SettingsError(f"--shard {text}: expected K/N with K from 1 to N, as in 3/64")
        return cls(int(match[1]), int(match[2]))

    def has(self, key: str) -> bool:
        """Return whether a name belongs to this part, by its hash."""
        digest = hashlib.blake2b(os.fsencode(key), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def chooser(
        self, places: Iterable[Path | Stored], *, of_folders: bool
    ) -> Callable[[Image], bool]:
        """Return a filter for the images of this part, by their names below the given folders.

        Folders, tar and Parquet files may have other paths on another machine. Up to 256 rows of a
        Parquet row group stay together, since reading a row decompresses the rows before it.

        Args:
            of_folders: keep images of one folder together.
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
        """Return the path of the part's file."""
        name = f"part-{self.number:05d}-of-{self.of:05d}.parquet"
        return folder / name if isinstance(folder, Path) else folder.at(name)


@dataclass(frozen=True)
class PartFormat:
    """A part: a Parquet table with the further columns `error` and `listed`.

    `error` is why an image could not be tagged, `listed` its index in the whole listing.

    Attributes:
        images: SHA-256 over the names of the part's images, if these are not chosen by name.
    """

    part: Part
    job: PredictJob
    origin: Origin = Origin()
    images: str | None = None
    suffixes: tuple[str, ...] = (".parquet",)
    holds_errors: bool = field(default=True, init=False)

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> Rows:
        abstains, families = self.job.decoder.abstains, self.job.coverage is not None
        about = about_table(labels, self.origin, abstains=abstains, families=families) | {
            "part": [self.part.number, self.part.of],
            "job": self.job.record(),
            "images": self.images,
        }
        layout = WideLayout(labels, abstains=abstains, families=families)
        return _PartRows(path, layout, about)

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        return {}

    def is_finished(self, path: Path | Stored) -> bool:
        """Return whether the part exists, made by an equal job from the same images.

        Raises:
            DataError: the file is damaged, or not a part.
        """
        if not path.exists():
            return False
        about = _load_part(path)
        return bool(about["job"] == self._record() and about["images"] == self.images)

    def require_same_job(self, path: Path | Stored) -> None:
        """Raise a DataError with the first different option if another job made the part."""
        theirs, ours = _load_part(path)["job"], self._record()
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise DataError(
                    f"{path}: was made with another {name.replace('_', '-')}: {theirs.get(name)}, "
                    f"now {ours.get(name)}; choose another --out, or --overwrite"
                )

    def _record(self) -> dict[str, object]:
        record: dict[str, object] = json.loads(json.dumps(self.job.record()))
        return record


class _PartRows:
    def __init__(self, path: Path, layout: WideLayout, about: dict[str, object]) -> None:
        self._layout = layout
        self._file = ParquetFile(path, self._layout.columns | _MORE, about)
        self.close = self._file.close

    def write(self, prediction: Prediction) -> None:
        row = [str(prediction.image)] + [None] * (len(self._layout.columns) - 1)
        if prediction.marginals:
            (row,) = self._layout.rows(prediction)
        # an error may name the image, whose name may not be UTF-8
        error = prediction.error.encode("utf-8", "surrogateescape")
        text = error.decode("utf-8", "backslashreplace") or None
        self._file.write([*row, text, prediction.listed])


class Parts:
    """All parts in a folder, on a disk or in an object store, as one table.

    Attributes:
        labels, origin, abstains, families: see `ParquetTable`.

    Raises:
        DataError: no parts; or a part is missing, damaged, or made by another job.
    """

    def __init__(self, folder: Path | Stored) -> None:
        paths = sorted((one for one in _files(folder) if _NAME.fullmatch(one.name)), key=str)
        if not paths:
            raise DataError(f"{folder}: no part-*.parquet of `mlcrf predict --shard` found")
        abouts = [_load_part(path) for path in paths]
        first = abouts[0]
        for path, about in zip(paths[1:], abouts[1:], strict=True):
            for key, what in (("job", "run or options"), ("labels", "labels")):
                if about[key] != first[key]:
                    raise DataError(f"{path}: was made with other {what} than {paths[0]}")
            if about["part"][1] != first["part"][1]:
                raise DataError(
                    f"{path}: is one of {about['part'][1]} parts, {paths[0].name} one of "
                    f"{first['part'][1]}; keep the parts of one of these numbers"
                )
        _require_all(folder, [about["part"][0] for about in abouts], first["part"][1])
        self._tables = [
            ParquetTable(path, about) for path, about in zip(paths, abouts, strict=True)
        ]
        self._follow_each_other = first["images"] is not None
        self.labels, self.origin = self._tables[0].labels, self._tables[0].origin
        self.abstains = self._tables[0].abstains
        self.families = self._tables[0].families

    def __iter__(self) -> Iterator[Prediction]:
        """Yield the predictions in the order of the listing."""
        if self._follow_each_other:
            return chain.from_iterable(self._tables)
        return heapq.merge(*self._tables, key=lambda one: one.listed)

    def __len__(self) -> int:
        return sum(map(len, self._tables))


def remove_parts(folder: Path | Stored, *, keep: Iterable[Path | Stored] = ()) -> None:
    """Delete the parts in a folder except those in `keep`, and the folder if it is then empty.

    Raises:
        MlcrfError: a part cannot be deleted.
    """
    kept = {path.name for path in keep}
    if not folder.exists():
        return
    for path in _files(folder):
        if _NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)
    if isinstance(folder, Path) and not kept:
        with suppress(OSError):  # other files are in it
            folder.rmdir()


def _require_all(folder: Path | Stored, found: Sequence[int], of: int) -> None:
    if missing := sorted(set(range(1, of + 1)) - set(found)):
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            f"{folder}: {len(missing)} of {of} parts are missing: {shown}; "
            "`mlcrf predict --shard` makes them"
        )


def _load_part(path: Path | Stored) -> dict[str, Any]:
    message = (
        f"{path}: damaged, or not a part of `mlcrf predict --shard`; delete it and run that again"
    )
    try:
        about = load_about(path)
    except DataError as error:
        raise DataError(message) from error
    if about is None or "part" not in about:
        raise DataError(message)
    return about


def _files(folder: Path | Stored) -> Iterable[Path | Stored]:
    if isinstance(folder, Stored):
        return [one for one in folder.walk(lambda _: True) if "/" not in one.below]
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; expected a folder of parts") from error
