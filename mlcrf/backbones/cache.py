"""A cache of features on disk, by image content."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.images.image import Stamp

Feature = NDArray[np.float32]

_SCHEMA = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS stamps (
    path BLOB PRIMARY KEY, version TEXT, digest BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS features (digest BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""


class FeatureCache:
    """One SQLite file of features for one network, transform, engine and precision.

    The stamp of a file gives the SHA-256 of its content, and the SHA-256 gives the features: a
    moved file is read but not computed again, an unchanged file is not even read. Safe to share
    between processes; a kill loses the last batch.

    Args:
        key: identifies everything that the features depend on, except the image.

    Raises:
        DataError: the folder cannot be written, or the file is damaged.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"features-{key}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot be a folder of features: {error.strerror}; choose another --cache-dir",
                folder,
            ) from error
        try:
            self._database = sqlite3.connect(self.path, timeout=60)
        except sqlite3.Error as error:
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

    def find(self, images: Sequence[Image]) -> list[Feature | None]:
        """Return the features of each image; None if it is new, changed or missing."""
        query = (
            "SELECT vector FROM stamps JOIN features USING (digest) WHERE path = ? AND version = ?"
        )
        stamps = [image.stamp() for image in images]
        return [
            self._load(query, (_path(stamp), stamp.version)) if stamp else None for stamp in stamps
        ]

    def find_content(self, digest: bytes) -> Feature | None:
        """Return the features of the content with this SHA-256, in any file."""
        return self._load("SELECT vector FROM features WHERE digest = ?", (digest,))

    def _load(self, query: str, key: tuple[bytes | str, ...]) -> Feature | None:
        try:
            row = self._database.execute(query, key).fetchone()
            return None if row is None else np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise self._broken(error) from error

    def add(self, entries: Sequence[tuple[Stamp | None, bytes, Feature]]) -> None:
        """Store features of images, each with the SHA-256 of its content, all or none.

        Args:
            entries: stamps are from before the image was read, so that an image that has changed
                since is read again; an image without a stamp is found by its content only.

        Raises:
            DataError: the disk is full or the file damaged.
        """
        files = [(_path(stamp), stamp.version, digest) for stamp, digest, _ in entries if stamp]
        features = [(digest, feature.astype("<f4").tobytes()) for _, digest, feature in entries]
        try:
            with self._database:
                self._database.executemany("REPLACE INTO stamps VALUES (?, ?, ?)", files)
                self._database.executemany("REPLACE INTO features VALUES (?, ?)", features)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"the feature cache cannot be used: {error}. Free some space, delete the "
            "file (it is made again), or choose another --cache-dir.",
            self.path,
        )


def _path(stamp: Stamp) -> bytes:
    return stamp.address.encode("utf-8", "surrogateescape")
