"""Files and folders in object stores, and parsing of their URLs."""

import posixpath
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from mlcrf.errors import DataError, MlcrfError
from mlcrf.stores.drivers import DRIVERS, LONGEST_S, PAUSES_S, entries, reason, system, within

_T = TypeVar("_T")


@dataclass(frozen=True)
class Stored:
    """A file or folder in an object store.

    Attributes:
        url: the whole URL, such as `s3://bucket/folder/1.jpg`.
        root: the place given by the user, a prefix of `url`.
    """

    url: str
    root: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.url).suffix

    @property
    def parent(self) -> "Stored":
        return replace(self, url=self.url.removesuffix(self.name).rstrip("/"))

    @property
    def below(self) -> str:
        """The path relative to the place given by the user; the name if it is that place."""
        return self.url.removeprefix(self.root).lstrip("/") or self.name

    def with_name(self, name: str) -> "Stored":
        return replace(self, url=self.url.removesuffix(self.name) + name)

    def at(self, name: str) -> "Stored":
        """Return the file or folder at a relative path."""
        scheme, _, rest = self.url.partition("://")
        return replace(self, url=f"{scheme}://{posixpath.normpath(f'{rest}/{name}')}")

    def read(self) -> bytes:
        """Return the content of the file, after up to three tries.

        Raises:
            DataError: it does not exist, or cannot be fetched.
        """
        for pause_s in (*PAUSES_S, None):
            try:
                content: bytes = system(self.scheme).cat_file(self.url)
            except (FileNotFoundError, PermissionError) as error:
                raise self._error("cannot be fetched", error) from error
            except Exception as error:  # drivers may raise any exception
                if pause_s is None:
                    raise self._error("cannot be fetched", error) from error
                time.sleep(pause_s)
            else:
                return content
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file for random access, a few megabytes at a time.

        Raises:
            DataError: it cannot be fetched. From the body, MlcrfError, OSError, KeyError and
                ValueError pass unchanged.
        """
        try:
            with system(self.scheme).open(self.url, "rb") as stream:
                yield stream
        except (MlcrfError, OSError, KeyError, ValueError):
            raise
        except Exception as error:  # as above
            raise self._error("cannot be fetched", error) from error

    def exists(self) -> bool:
        """Return whether the file or folder exists.

        Raises:
            DataError: the store does not answer within half a minute, or has no such bucket.
        """
        driver, bucket = system(self.scheme), self.url.partition("://")[2].partition("/")[0]

        def ask() -> bool:
            if self.scheme == "s3":  # else any failure is reported as a missing file
                driver.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
            return bool(driver.exists(self.url))

        try:
            return within(LONGEST_S, ask)
        except FileNotFoundError as error:
            raise DataError(f"there is no bucket {bucket!r}", self) from error
        except Exception as error:  # as above
            raise self._error("cannot be reached", error) from error

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

    def walk(
        self,
        wanted: Callable[[str], bool],
        entered: Callable[[str], bool] = lambda url: True,
    ) -> Iterator["Stored"]:
        """Yield the files below a folder, or the file itself, in the order of `walk_images`.

        The names of one folder are in memory at a time.

        Args:
            wanted: filter of file names; not applied to the file itself.
            entered: filter of the URLs of folders below this one.

        Raises:
            DataError: it does not exist, or the store cannot be reached.
        """
        if not self.exists():
            raise DataError("no such file or folder", self)
        driver = system(self.scheme)
        if self._asked(lambda: bool(driver.isfile(self.url))):
            if self.suffix.lower() == ".tar":
                raise DataError("tar files can be read from a local disk only; copy it there", self)
            yield self
            return
        folders = [self.url.rstrip("/")]
        while folders:
            folder = folders.pop()
            found = self._asked(partial(entries, driver, folder))
            for name in sorted(name for name, is_folder in found if not is_folder):
                if wanted(name):
                    yield Stored(f"{folder}/{name}", self.url)
            below = sorted(f"{folder}/{name}" for name, is_folder in found if is_folder)
            folders += [url for url in reversed(below) if entered(url)]

    def _asked(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as error:  # as above
            raise self._error("cannot be listed", error) from error

    def _error(self, what: str, error: Exception) -> DataError:
        name = self.url if self.url.isprintable() else repr(self.url)
        return DataError(f"{what}: {reason(error)}", name)


def parse_place(text: str) -> Path | Stored:
    """Parse a path or a URL.

    Raises:
        DataError: an unknown scheme, no bucket, or a driver that is not installed.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or not scheme.isidentifier():
        return Path(text)
    if scheme not in DRIVERS:
        known = ", ".join(f"{one}://" for one in DRIVERS)
        raise DataError(f"unknown kind of address; expected a path or one of {known}", text)
    if scheme == "file" and not rest.startswith("/"):
        raise DataError("is not absolute; expected file:///folder", text)
    if scheme in ("s3", "gs") and not rest.strip("/"):
        raise DataError(f"names no bucket; expected {scheme}://bucket/folder", text)
    driver = DRIVERS[scheme]
    if driver is not None and not _is_installed(driver[0]):
        raise DataError(
            f"this needs {driver[0]}, not installed here; pip install {driver[1]}", text
        )
    return Stored(text, text)


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def is_url(text: str) -> bool:
    """Return whether a name is a URL with a known scheme; any other name is a path."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in DRIVERS


def parse_target(text: str) -> Path | Stored:
    """Parse the address of an output; `file://` becomes a path.

    Raises:
        DataError: see `parse_place`.
    """
    place = parse_place(text)
    if isinstance(place, Stored) and place.scheme == "file":
        return Path(text.removeprefix("file://"))
    return place
