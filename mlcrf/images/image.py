"""Image references: a local file, an object in a store, or a member of a tar or Parquet file."""

import hashlib
import io
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO

from mlcrf.errors import DataError
from mlcrf.stores import Stored


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; a pipe is refused, since opening it would wait for a writer.

    Raises:
        OSError: it does not exist, cannot be read, or is no regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("a folder, not an image" if stat.S_ISDIR(mode) else "not a regular file")
    return path.open("rb")


@dataclass(frozen=True)
class Stamp:
    """Address, size, times and inode, to detect changes without reading the file.

    Programs set the time of modification as they like, and so a file may be replaced by one of the
    same size and time; the time of change and the inode tell.

    Attributes:
        address: see `Image.address`.
        size: size in bytes.
        mtime_ns: time of last modification, in nanoseconds.
        ctime_ns: time of last change of content or metadata; of the container, if there is one.
        inode: number of the file on its disk; of the container, if there is one.
    """

    address: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def version(self) -> str:
        """All but the address, as text."""
        return f"{self.size} {self.mtime_ns} {self.ctime_ns} {self.inode}"


@dataclass(frozen=True)
class Image(ABC):
    """An image, identified by its listed name; content is read only by `read()`.

    Images are equal if they have the same type and the same name.

    Attributes:
        name: as listed, and as shown in tables and messages. Non-UTF-8 bytes in a file name are
            escaped as `os.fsdecode` does.
    """

    name: str

    @abstractmethod
    def read(self) -> bytes:
        """Return the content of the image's file.

        Raises:
            OSError: the image does not exist, or cannot be read.
            DataError: it cannot be fetched, or its tar or Parquet file is damaged.
        """

    def open(self) -> IO[bytes]:
        """Open the content for reading; of a local file nothing is read yet.

        Raises:
            OSError, DataError: see `read`; a folder, pipe or device is no image.
        """
        return io.BytesIO(self.read())

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path | None:
        """The local file; None if the image is not a local file of its own."""
        return None

    @property
    def container(self) -> Path | None:
        """The local tar or Parquet file that contains the image, or None."""
        return None

    @property
    def location(self) -> Path | None:
        """The local path, which may lead into a container; None if the image is not local."""
        return None

    @property
    def is_remote(self) -> bool:
        """True if reading the image needs the network."""
        return False

    @property
    def file_name(self) -> str:
        return PurePath(self.name).name

    @property
    def address(self) -> str:
        """The absolute name, without `..`; links are not followed. A URL stays as it is."""
        if self.location is None:
            return self.name
        return os.path.abspath(self.name)  # noqa: PTH100 - without `..`

    @property
    def key(self) -> str:
        """The absolute name with links resolved, to match images of several tables."""
        location = self.location
        return self.name if location is None else str(location.resolve())

    @property
    def folder(self) -> str:
        """The address of the image's folder."""
        return self.address.rpartition("/" if self.is_remote else os.sep)[0]

    @property
    def below(self) -> str:
        """The name relative to the listed place, if known."""
        return self.name

    @property
    def reading_unit(self) -> str:
        """A name shared by images that one process should read together.

        Rows of a Parquet file share the name of up to 256 rows of their row group; other images
        have their own name.
        """
        return self.name

    def stamp(self) -> Stamp | None:
        """Return what changes with the file; None if it is unknown without reading."""
        return None

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of the content.

        Raises:
            OSError, DataError: see `read`.
        """
        return hashlib.sha256(self.read()).digest()

    def fetch(self) -> "Image":
        """Return the image with its content in memory; a local file is returned unchanged.

        Raises:
            OSError, DataError: see `read`.
        """
        return ImageBytes(self.name, self.read())


@dataclass(frozen=True)
class LocalImage(Image):
    """An image in a local file of its own."""

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def location(self) -> Path:
        return Path(self.name)

    @property
    def address(self) -> str:
        return os.path.abspath(self.name)  # noqa: PTH100 - without a `Path`, which is slow

    @property
    def key(self) -> str:
        return os.path.realpath(self.name)

    def open(self) -> IO[bytes]:
        return open_regular(self.path)

    def read(self) -> bytes:
        with self.open() as stream:
            return stream.read()

    def stamp(self) -> Stamp | None:
        try:
            status = os.stat(self.name)  # noqa: PTH116 - quick
        except (OSError, ValueError):  # a ValueError if no file can have this name
            return None
        return Stamp(
            self.address, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
        )

    def fingerprint(self) -> bytes:
        with open_regular(self.path) as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    def fetch(self) -> "LocalImage":
        return self


@dataclass(frozen=True)
class UrlImage(Image):
    """An image in an object store; its name is its URL.

    Attributes:
        root: the listed place, a prefix of the URL.
    """

    root: str = field(default="", compare=False)

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def below(self) -> str:
        return self.name.removeprefix(self.root).lstrip("/") or self.file_name

    def read(self) -> bytes:
        return Stored(self.name).read()


@dataclass(frozen=True)
class ImageBytes(Image):
    """An image in memory, such as an upload."""

    content: bytes = field(repr=False)

    def read(self) -> bytes:
        return self.content

    def fetch(self) -> "ImageBytes":
        return self


@dataclass(frozen=True)
class ContainedImage(Image):
    """An image inside a local tar or Parquet file; its name is a path into that file.

    Attributes:
        within: the tar or Parquet file.
    """

    within: Path = field(compare=False)

    @property
    def container(self) -> Path:
        return self.within

    @property
    def location(self) -> Path:
        return Path(self.name)

    @property
    def inside(self) -> str:
        return self.location.relative_to(self.within).as_posix()

    def stamp(self) -> Stamp | None:
        try:
            size, mtime_ns = self.measure()
            status = self.within.stat()
        except (OSError, ValueError, DataError):
            return None
        return Stamp(self.address, size, mtime_ns, status.st_ctime_ns, status.st_ino)

    @abstractmethod
    def measure(self) -> tuple[int, int]:
        """Return a size and a modification time that change with the image.

        Raises:
            OSError, DataError: see `read`.
        """
