"""One value for an image, wherever its content is: on a disk, in a store, in a file of many."""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mlcrf.errors import DataError
from mlcrf.stores import Stored


@dataclass(frozen=True)
class Stamp:
    """The evidence, without reading a file, that it has not changed.

    Attributes:
        address: see `Image.address`.
        size: in bytes.
        mtime_ns: when it was changed last.
    """

    address: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Image(ABC):
    """An image, identified by the name under which it was listed; nothing is read before `read`.

    Two images are equal if they are of one kind and have one name.

    Attributes:
        name: as it was listed, and as it stands in tables and messages. Bytes of a file name that
            are no UTF-8 are escaped as `os.fsdecode` does.
    """

    name: str

    @abstractmethod
    def read(self) -> bytes:
        """Return the content of the image's file.

        Raises:
            OSError: there is no such image, or it cannot be read.
            DataError: it cannot be fetched, or the file that holds it is damaged.
        """

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path | None:
        """The local file; None if the image is not a file of its own on a disk."""
        return None

    @property
    def container(self) -> Path | None:
        """The local tar or Parquet file that holds the image, if one does."""
        return None

    @property
    def location(self) -> Path | None:
        """The place on a disk, inside the container if there is one; None if it is on no disk."""
        return None

    @property
    def is_remote(self) -> bool:
        """Whether to read it means to wait for a network."""
        return False

    @property
    def file_name(self) -> str:
        """The last part of the name."""
        return PurePath(self.name).name

    @property
    def address(self) -> str:
        """The absolute name, without `..`; links are not followed. A URL stays as it is."""
        if self.location is None:
            return self.name
        return os.path.abspath(self.name)  # noqa: PTH100 - without `..`

    @property
    def key(self) -> str:
        """The absolute name with links resolved, by which images of several tables are matched."""
        location = self.location
        return self.name if location is None else str(location.resolve())

    @property
    def folder(self) -> str:
        """The address of the folder that the image is in."""
        return self.address.rpartition("/" if self.is_remote else os.sep)[0]

    @property
    def below(self) -> str:
        """The part of the name below the place that was listed, where that is known."""
        return self.name

    @property
    def reading_unit(self) -> str:
        """The name of the images that one process should read together: usually the image's own.

        Rows of a Parquet file share the name of their row group, or of 256 rows of it.
        """
        return self.name

    def stamp(self) -> Stamp | None:
        """Return the image's size and time of change; None if they are not known unread."""
        return None

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of the content.

        Raises:
            OSError, DataError: see `read`.
        """
        return hashlib.sha256(self.read()).digest()

    def fetch(self) -> "Image":
        """Return the image with its content in memory; a local file stays one.

        Raises:
            OSError, DataError: see `read`.
        """
        return ImageBytes(self.name, self.read())


@dataclass(frozen=True)
class LocalImage(Image):
    """An image in a file of its own on a disk."""

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def location(self) -> Path:
        return Path(self.name)

    def read(self) -> bytes:
        self._require_regular()
        return self.path.read_bytes()

    def stamp(self) -> Stamp | None:
        try:
            status = os.stat(self.name)  # noqa: PTH116 - quick
        except (OSError, ValueError):  # a ValueError where no file can have such a name
            return None
        return Stamp(self.address, status.st_size, status.st_mtime_ns)

    def fingerprint(self) -> bytes:
        self._require_regular()
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    def fetch(self) -> "LocalImage":
        return self

    def _require_regular(self) -> None:
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise OSError("not a regular file")


@dataclass(frozen=True)
class UrlImage(Image):
    """An image in an object store; its name is its URL.

    Attributes:
        root: the place that was listed, which the URL begins with.
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
    """An image inside a local tar or Parquet file; its name is a path that leads into that.

    Attributes:
        within: the file that holds it.
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
        """The name inside the container."""
        return self.location.relative_to(self.within).as_posix()

    def stamp(self) -> Stamp | None:
        try:
            size, mtime_ns = self.measure()
        except (OSError, ValueError, DataError):
            return None
        return Stamp(self.address, size, mtime_ns)

    @abstractmethod
    def measure(self) -> tuple[int, int]:
        """Return a size and a time of change that change with the image.

        Raises:
            OSError, DataError: see `read`.
        """
