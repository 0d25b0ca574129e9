"""Features on disk, found again by what a file holds."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError

Feature = NDArray[np.float32]

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS features (digest BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""


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
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
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
        return [self._find(path) for path in paths]

    def _find(self, path: Path) -> Feature | None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        query = (
            "SELECT vector FROM files JOIN features USING (digest) "
            "WHERE path = ? AND size = ? AND mtime_ns = ?"
        )
        key = (_name(path), status.st_size, status.st_mtime_ns)
        try:
            row = self._database.execute(query, key).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return None if row is None else np.frombuffer(row[0], dtype="<f4").astype(np.float32)

    def add(self, entries: Sequence[tuple[Path, bytes, Feature]]) -> None:
        """Keep features of files with the SHA-256 of their content, all or none.

        Raises:
            DataError: the disk is full or the file damaged.
        """
        files, features = [], []
        for path, digest, feature in entries:
            status = path.stat()
            files.append((_name(path), status.st_size, status.st_mtime_ns, digest))
            features.append((digest, feature.astype("<f4").tobytes()))
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


def _name(path: Path) -> bytes:
    return str(path.absolute()).encode("utf-8", "surrogateescape")
