"""A file or folder in an object store."""

import posixpath
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, TypeVar

from mlcrf.errors import DataError, MlcrfError
from mlcrf.stores.drivers import LONGEST_S, PAUSES_S, entries, reason, system, within

_T = TypeVar("_T")


@dataclass(frozen=True)
class Stored:
    """A file or folder in an object store.

    Attributes:
        url: all of it, as in `s3://bucket/folder/1.jpg`.
        root: what the user named, which `url` begins with.
    """

    url: str
    root: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """The part before `://`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.url).suffix

    @property
    def parent(self) -> "Stored":
        """The folder that it is in."""
        return replace(self, url=self.url.removesuffix(self.name).rstrip("/"))

    @property
    def below(self) -> str:
        """The path below what the user named; the name alone if it is that."""
        return self.url.removeprefix(self.root).lstrip("/") or self.name

    def with_name(self, name: str) -> "Stored":
        """Return a file beside it."""
        return replace(self, url=self.url.removesuffix(self.name) + name)

    def at(self, name: str) -> "Stored":
        """Return the file or folder that a relative path leads to from this one."""
        scheme, _, rest = self.url.partition("://")
        return replace(self, url=f"{scheme}://{posixpath.normpath(f'{rest}/{name}')}")

    def read(self) -> bytes:
        """Return the content of the file, after up to three tries.

        Raises:
            DataError: it is not there, or cannot be fetched; names it.
        """
        for pause_s in (*PAUSES_S, None):
            try:
                content: bytes = system(self.scheme).cat_file(self.url)
            except (FileNotFoundError, PermissionError) as error:
                raise self._error("cannot be fetched", error) from error
            except Exception as error:  # what drivers raise is nowhere bounded
                if pause_s is None:
                    raise self._error("cannot be fetched", error) from error
                time.sleep(pause_s)
            else:
                return content
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file, to read from anywhere in it a few megabytes at a time.

        Raises:
            DataError: it cannot be fetched; what the body raises of its own stays as it is, if it
                is one of ours, an OSError, a KeyError or a ValueError.
        """
        try:
            with system(self.scheme).open(self.url, "rb") as stream:
                yield stream
        except (MlcrfError, OSError, KeyError, ValueError):
            raise
        except Exception as error:  # as above
            raise self._error("cannot be fetched", error) from error

    def exists(self) -> bool:
        """Return whether there is such a file or folder.

        Raises:
            DataError: the store does not say so within half a minute, or its bucket is not there.
        """
        driver, bucket = system(self.scheme), self.url.partition("://")[2].partition("/")[0]

        def ask() -> bool:
            if self.scheme == "s3":  # which else says of any failure that there is nothing
                driver.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
            return bool(driver.exists(self.url))

        try:
            return within(LONGEST_S, ask)
        except FileNotFoundError as error:
            raise DataError(f"there is no bucket {bucket!r}", self) from error
        except Exception as error:  # as above
            raise self._error("is out of reach", error) from error

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file.

        Raises:
            MlcrfError: it cannot be deleted.
        """
        try:
            system(self.scheme).rm_file(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except Exception as error:  # as above
            raise self._error("cannot be deleted", error) from error

    def walk(self, wanted: Callable[[str], bool]) -> Iterator["Stored"]:
        """Yield the files below it, or itself, in the order in which a folder on disk is walked.

        By name, those of a folder before the folders in it; what begins with a dot is skipped.
        The names of one folder are held at a time.

        Args:
            wanted: which files, by their names; that of itself is not asked for.

        Raises:
            DataError: it is not there, or the store cannot be asked.
        """
        if not self.exists():
            raise DataError("no such file or folder", self)
        driver = system(self.scheme)
        if self._asked(lambda: bool(driver.isfile(self.url))):
            if self.suffix.lower() == ".tar":
                raise DataError("tar files are read from disks only; copy it to one", self)
            yield self
            return
        folders = [self.url.rstrip("/")]
        while folders:
            folder = folders.pop()
            found = self._asked(partial(entries, driver, folder))
            for name in sorted(name for name, is_folder in found if not is_folder):
                if wanted(name):
                    yield Stored(f"{folder}/{name}", self.url)
            below = sorted(name for name, is_folder in found if is_folder)
            folders += [f"{folder}/{name}" for name in reversed(below) if not name.startswith(".")]

    def _asked(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as error:  # as above
            raise self._error("cannot be listed", error) from error

    def _error(self, what: str, error: Exception) -> DataError:
        name = self.url if self.url.isprintable() else repr(self.url)
        return DataError(f"{what}: {reason(error)}", name)
