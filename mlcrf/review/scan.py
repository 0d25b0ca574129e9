"""List the images of a folder with the path and the SHA-256 of each."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcrf.errors import DataError
from mlcrf.images import Image, list_images
from mlcrf.images.containers import is_parquet, is_tar


@dataclass(frozen=True)
class Stamped:
    """The size, time and SHA-256 of a file.

    Attributes:
        path: relative to the folder, separated by `/`; bytes that are not UTF-8 are escaped.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str

    def is_at(self, row: Any) -> bool:
        """Return whether a row of the database has the same size, time and SHA-256."""
        return row is not None and (row.size, row.mtime_ns, row.sha256) == (
            self.size,
            self.mtime_ns,
            self.sha256,
        )


def scan_folder(
    folder: Path,
    known: Mapping[str, Stamped],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Stamped], list[str]]:
    """Return all images in and below a folder, by path, without hidden files; see `list_images`.

    Args:
        known: path -> file seen before; files with the same size and time are not read again.

    Returns:
        The files, and an error message for each file that cannot be read.

    Raises:
        DataError: no such folder, no image in it, or a damaged tar or Parquet file.

    Cost: every new file is read once.
    """
    require_folder(folder)
    images = list(list_images([folder]))
    if not images:
        raise DataError(f"{folder}: no images found")
    files, problems = [], []
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        found: Iterator[Stamped | str] = workers.map(
            lambda image: _stamp(image, Path(image.name).relative_to(folder).as_posix(), known),
            images,
        )
        for done, one in enumerate(found, start=1):
            if isinstance(one, str):
                problems.append(one)
            else:
                files.append(one)
            progress(done, len(images))
    return files, problems


def require_folder(folder: Path) -> None:
    """Raise an error unless the folder exists.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        why = "is a file, expected a folder" if folder.exists() else "no such folder"
        if is_tar(folder) or is_parquet(folder):
            why += "; use the folder that contains it"
        raise DataError(f"{folder}: {why}")


def _stamp(image: Image, name: str, known: Mapping[str, Stamped]) -> Stamped | str:
    before, stamp = known.get(name), image.stamp()
    if before and stamp and (before.size, before.mtime_ns) == (stamp.size, stamp.mtime_ns):
        return before
    try:
        digest = image.fingerprint()
        if stamp is None:
            raise OSError("it has changed since it was listed")
    except OSError as error:
        return f"{image}: cannot be read: {error.strerror or error}"
    return Stamped(name, stamp.size, stamp.mtime_ns, digest.hex())
