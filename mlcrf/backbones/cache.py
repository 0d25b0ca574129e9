"""Features on disk, found again by what a file holds."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images.containers import find_member

Feature = NDArray[np.float32]

_SCHEMA = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS features (digest BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Stamp:
    """A file as it is known without reading it."""

    path: bytes
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """The stamp that a file has now, also one within a tar; None where there is none."""
        name = str(path.absolute()).encode("utf-8", "surrogateescape")
        try:
            if (member := find_member(path)) is not None:
                return cls(name, member.size, member.mtime_ns)
            status = path.stat()
        except (OSError, ValueError, DataError):
            return None
        return cls(name, status.st_size, status.st_mtime_ns)


class FeatureCache:
    """One SQLite file of features for one network, transform, engine and precision.

    A path leads to the SHA-256 of the content that it had at a certain size and time, and the
    SHA-256 leads to the features: a file that moved is read but not computed again, one that has
    not changed is not even read. Safe to share between processes; a kill loses the last batch.

    Args:
        key: names all that the features depend on but the file.

    Raises:
        DataError: the folder cannot be written, or the file is damaged.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"features-{key}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error
        try:
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise self._broken(error) from error

    def __enter__(self) -> "FeatureCache":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def find(self, paths: Sequence[Path]) -> list[Feature | None]:
        """What is known of each file, None where it is new or has changed or is not there."""
        query = (
            "SELECT vector FROM files JOIN features USING (digest) "
            "WHERE path = ? AND size = ? AND mtime_ns = ?"
        )
        stamps = [Stamp.of(path) for path in paths]
        return [
            self._load(query, (stamp.path, stamp.size, stamp.mtime_ns)) if stamp else None
            for stamp in stamps
        ]

    def find_content(self, digest: bytes) -> Feature | None:
        """What is known of the content that has this SHA-256, whatever file has it."""
        return self._load("SELECT vector FROM features WHERE digest = ?", (digest,))

    def _load(self, query: str, key: tuple[bytes | int, ...]) -> Feature | None:
        try:
            row = self._database.execute(query, key).fetchone()
            return None if row is None else np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise self._broken(error) from error

    def add(self, entries: Sequence[tuple[Stamp, bytes, Feature]]) -> None:
        """Keep features of files, each with the SHA-256 of its content, all or none.

        Args:
            entries: stamps are from before the file was read, so that one that has changed since
                is read again.

        Raises:
            DataError: the disk is full or the file damaged.
        """
        files = [(one.path, one.size, one.mtime_ns, digest) for one, digest, _ in entries]
        features = [(digest, feature.astype("<f4").tobytes()) for _, digest, feature in entries]
        try:
            with self._database:
                self._database.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", files)
                self._database.executemany("REPLACE INTO features VALUES (?, ?)", features)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: the feature cache cannot be used: {error}. Free some space, delete the "
            "file (it is made again), or choose another --cache-dir."
        )
