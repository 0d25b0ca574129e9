"""Read files inside tar files in place, by offset and size."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mlcrf.errors import DataError, reason_of
from mlcrf.images.image import ContainedImage

SUFFIX = ".tar"
_INDEXES = 256  # tar files whose index is cached


@dataclass(frozen=True)
class TarImage(ContainedImage):
    """A file inside a tar file, usually an image."""

    def read(self) -> bytes:
        offset, size = self._find()
        with self.within.open("rb") as stream:
            content = os.pread(stream.fileno(), size, offset)
        if len(content) < size:
            raise OSError(f"{self.within} is cut off inside it")
        return content

    def measure(self) -> tuple[int, int]:
        return self._find()[1], self.within.stat().st_mtime_ns

    def _find(self) -> tuple[int, int]:
        """Return offset and size in the tar file."""
        status = self.within.stat()
        try:
            return _index(self.within, status.st_mtime_ns, status.st_size)[self.inside]
        except KeyError:
            raise OSError(f"no such file in {self.within.name}") from None


def tar_names(tar: Path) -> Iterator[str]:
    """Return the names of the files in a tar file, in order.

    Raises:
        DataError: it is damaged or compressed, or has a duplicate or unsafe name.
    """
    status = tar.stat()
    return iter(_index(tar, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=_INDEXES)
def _index(tar: Path, mtime_ns: int, size: int) -> dict[str, tuple[int, int]]:
    """Return offset and size of each file; `mtime_ns` and `size` only invalidate the cache."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for one in archive:
                if not one.isreg() or one.issparse():
                    continue
                name = PurePosixPath(one.name)
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"contains {one.name!r}, which leads out of it", tar)
                if str(name) in found:
                    raise DataError(f"contains {one.name!r} twice", tar)
                found[str(name)] = one.offset_data, one.size
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(f"cannot be read as a tar file, not compressed: {reason}", tar) from error
    if found and max(offset + length for offset, length in found.values()) > size:
        raise DataError("ends before its last file does; copy it again", tar)
    return found
