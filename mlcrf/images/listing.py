"""List the images in files and folders, each once."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cache
from itertools import islice
from pathlib import Path

from mlcrf.choices import RawPairs
from mlcrf.errors import DataError
from mlcrf.images.containers import as_image, find_containers, is_parquet, is_tar, members
from mlcrf.images.file_kinds import (
    Kind,
    is_companion_name,
    is_image_name,
    is_raw_name,
    kind_of_file,
    kind_of_folder,
    stem_of,
    stems_beside_raw,
)
from mlcrf.images.image import Image, LocalImage, UrlImage
from mlcrf.images.left_out import LeftOut
from mlcrf.images.number_rows import NumberRow
from mlcrf.stores import Stored


def walk_images(
    folder: Path, left_out: LeftOut | None = None, raw_pairs: RawPairs = RawPairs.ONE
) -> Iterator[LocalImage]:
    """Yield the images in a folder and below it: those in the folder by name, then its folders.

    Left out are files that are no images, hidden files, and folders that are linked, hidden, or
    contain thumbnails, deleted files or the files of a photo program (`file_kinds`); also links to
    images that are listed by their own name, and RAW files with a JPEG or HEIC of the same name in
    their folder.

    Args:
        left_out: counts what is left out, except sidecars and text files of images in the folder.
        raw_pairs: whether such RAW files are left out.

    Raises:
        DataError: the folder cannot be listed. A folder below it that cannot is left out.
    """
    left_out = LeftOut() if left_out is None else left_out
    yield from _Listing([folder], left_out, raw_pairs).walk(folder, 0)


def require_there(place: Path) -> None:
    """Raise a DataError if a local place does not exist."""
    if not place.exists():
        hint = "; `-` must be the only one" if str(place) == "-" else ""
        raise DataError(f"no such file or folder{hint}", place)


def list_images(
    places: Iterable[Path | Stored],
    left_out: LeftOut | None = None,
    raw_pairs: RawPairs = RawPairs.ONE,
) -> Iterator[Image]:
    """Yield the images in files and folders, each once; folders are walked as in `walk_images`.

    A given file is listed, and a given folder is walked, whatever its name. A tar or Parquet file
    gives its images in order, and so do such files in a folder without other images. Folders in an
    object store are walked in the same way. An image that several places reach is listed at the
    first.

    Args:
        left_out: counts what is left out.
        raw_pairs: see `walk_images`; RAW files that are named, or in object stores, tar and Parquet
            files, are listed all the same.

    Raises:
        DataError: a place does not exist or cannot be listed, its store cannot be reached, or a tar
            or Parquet file is damaged.

    Memory: does not grow with the number of images below the places.
    """
    places = list(places)
    left_out = LeftOut() if left_out is None else left_out
    listing = _Listing(places, left_out, raw_pairs)
    for position, place in enumerate(places):
        if isinstance(place, Path):
            yield from listing.images(place, position)
        else:
            yield from listing.stored_images(place, position)


def list_named(images: Iterable[Image], left_out: LeftOut) -> Iterator[Image]:
    """Yield each image of a list once, by its name with links resolved."""
    seen, real_folder = set[str](), cache(os.path.realpath)
    for image in images:
        if image.is_remote or isinstance(image, NumberRow):
            key = image.key
        else:
            key = _real_path(image.name, real_folder)
        if key in seen:
            left_out.add(Kind.REPEATED, image.name)
        else:
            seen.add(key)
            yield image


class _Listing:
    """The places of a listing, by their URLs, or by their paths with links resolved.

    A walk reaches the folders that it does not leave out. What an earlier place reaches or names is
    not listed again.

    Args:
        places: files and folders.
        left_out: counts what is left out.
        raw_pairs: see `walk_images`.

    Raises:
        DataError: a local place does not exist.
    """

    def __init__(
        self, places: Sequence[Path | Stored], left_out: LeftOut, raw_pairs: RawPairs
    ) -> None:
        self._left_out, self._raw_pairs = left_out, raw_pairs
        self._real_folder = cache(os.path.realpath)
        self._containers = set[str]()
        self._folders: dict[str, int] = {}  # position of the first place with a path or URL
        self._files: dict[str, int] = {}
        for position, place in enumerate(places):
            if not isinstance(place, Path):
                self._folders.setdefault(place.url.rstrip("/"), position)
                continue
            require_there(place)
            known = self._folders if place.is_dir() else self._files
            known.setdefault(self._real(place), position)

    def images(self, place: Path, position: int) -> Iterator[Image]:
        """Yield the images of the place at a position that no earlier place has."""
        real = self._real(place)
        if place.is_dir():
            is_repeated = self._reaches(real, before=position)
            if is_repeated and any(True for _ in walk_images(place)):
                self._left_out.add(Kind.REPEATED, str(place))
                return
            if not is_repeated:
                found = self.walk(place, position)
                first = next(found, None)
                if first is not None:
                    yield first
                    yield from found
                    return
        elif not is_tar(place) and not is_parquet(place):
            if self._files[real] < position or self._lists(real, before=position):
                self._left_out.add(Kind.REPEATED, str(place))
            else:
                yield as_image(place)
            return
        for container in find_containers(place):
            if container != place:
                self._left_out.take_back(container.name)
            yield from self._members(container)

    def stored_images(self, place: Stored, position: int) -> Iterator[Image]:
        """Yield the images of the place at a position in an object store, as `images` does."""

        def is_new(url: str) -> bool:
            return self._folders.get(url, position) >= position

        if self._reaches(place.url.rstrip("/"), before=position):
            self._left_out.add(Kind.REPEATED, place.url)
            return
        found = place.walk(
            self._left_out.takes_file, lambda url: is_new(url) and self._left_out.takes_folder(url)
        )
        yield from (UrlImage(one.url, one.root) for one in found if is_new(one.url))

    def _members(self, container: Path) -> Iterator[Image]:
        real = self._real(container)
        if real in self._containers:
            self._left_out.add(Kind.REPEATED, str(container))
            return
        self._containers.add(real)
        inside, all_count = members(container), is_parquet(container)
        yield from (one for one in inside if all_count or self._left_out.takes_file(one.file_name))

    def walk(self, folder: Path, position: int) -> Iterator[LocalImage]:
        """Yield the images of a folder as in `walk_images`, except those of earlier places."""
        top = "" if str(folder) == "." else os.path.join(folder, "")  # noqa: PTH118 - quick
        waiting = [(top, os.path.join(self._real(folder), ""))]  # noqa: PTH118 - with a separator
        while waiting:
            shown, real = waiting.pop()
            try:
                files, links, folders = _entries(shown or ".")
            except OSError as error:
                if shown == top:
                    raise DataError(f"cannot be listed: {error.strerror}", folder) from error
                self._left_out.add(Kind.UNREADABLE, shown)
                continue
            yield from self._images_in(shown, real, files, links, position)
            below = []
            for name in folders:
                if name in links:
                    if os.path.realpath(real + name) not in self._folders:
                        self._left_out.add(Kind.LINKED_FOLDER, shown + name)
                    continue
                named = self._folders.get(real + name)
                if named is not None and (named < position or kind_of_folder(name) is not None):
                    continue  # another place has it
                if self._left_out.takes_folder(shown + name):
                    below.append((shown + name + os.sep, real + name + os.sep))
            waiting += reversed(below)

    def _images_in(
        self, shown: str, real: str, files: Sequence[str], links: Set[str], position: int
    ) -> Iterator[LocalImage]:
        """Yield the images among the files of a folder, given as listed and without links."""
        owners, paired = frozenset[str](), frozenset[str]()  # as long as no file needs them
        for name in files:
            kind = kind_of_file(name)
            named = self._files.get(real + name) if self._files else None
            if named is not None and (named < position or kind is not None):
                continue  # another place has it
            if self._raw_pairs is RawPairs.ONE and named is None and is_raw_name(name):
                paired = paired or stems_beside_raw(files)
                if stem_of(name).lower() in paired:
                    self._left_out.add_file(Kind.RAW_OF_PAIR, name)
                    continue
            if kind is not None:
                if is_companion_name(name):
                    owners = owners or _owners(files)
                    if stem_of(name) in owners:
                        continue
                self._left_out.add_file(kind, name)
                continue
            if name in links and self._has_target(real + name):
                self._left_out.add(Kind.REPEATED, shown + name)
                continue
            yield LocalImage(shown + name)

    def _has_target(self, link: str) -> bool:
        """Return whether the image that a link leads to is listed by its own name."""
        target = os.path.realpath(link)
        is_listed = target in self._files or self._lists(target, before=sys.maxsize)
        return is_listed and os.path.isfile(target)  # noqa: PTH113 - quick

    def _lists(self, file: str, *, before: int) -> bool:
        """Return whether the walk of a place before a position lists a file."""
        folder, name = os.path.split(file)
        return is_image_name(name) and self._reaches(folder, before=before)

    def _reaches(self, folder: str, *, before: int) -> bool:
        """Return whether the walk of a place before a position reaches a folder."""
        while self._folders.get(folder, before) >= before:
            above, name = os.path.split(folder)
            if above == folder or kind_of_folder(name) is not None:
                return False
            folder = above
        return True

    def _real(self, place: Path) -> str:
        return _real_path(str(place), self._real_folder)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a file; a link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a folder; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: str) -> tuple[list[str], set[str], list[str]]:
    """Return the names of files, of links and of folders; files and folders in order."""
    files: list[str] = []
    links: set[str] = set()
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                links.add(entry.name)
            (folders if is_folder(entry) else files).append(entry.name)
    return sorted(files), links, sorted(folders)


def _owners(files: Sequence[str]) -> frozenset[str]:
    """Return the names of the images among files, with and without their suffix."""
    images = [name for name in files if is_image_name(name)]
    return frozenset((*images, *map(stem_of, images)))


def _real_path(path: str, real_folder: Callable[[str], str]) -> str:
    """Return a path with links resolved; quick for many files of a folder."""
    if ".." in path or os.path.islink(path):  # noqa: PTH114 - quick
        return os.path.realpath(path)
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - quick
    return os.path.join(real_folder(folder), name)  # noqa: PTH118 - quick


class ListedImages:
    """Images that are listed again for each iteration, so that none is kept in memory.

    Args:
        listing: lists all images from the first, and counts what it leaves out.
        limit: maximum number of images; None for all.
        chosen: filter; None for all.

    Attributes:
        left_out: what the last complete iteration has left out.
    """

    def __init__(
        self,
        listing: Callable[[LeftOut], Iterable[Image]],
        *,
        limit: int | None = None,
        chosen: Callable[[Image], bool] | None = None,
    ) -> None:
        self._listing, self._limit, self._chosen = listing, limit, chosen
        self._count: int | None = None
        self.left_out = LeftOut()

    def __iter__(self) -> Iterator[Image]:
        return (image for _, image in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Image]]:
        """Yield each image with its position in the whole listing, from 0."""
        left_out = LeftOut()
        for number, image in enumerate(islice(self._listing(left_out), self._limit)):
            if self._chosen is None or self._chosen(image):
                yield number, image
        self.left_out = left_out

    def any_listed(self) -> bool:
        """Return whether any image is listed, chosen or not."""
        left_out = LeftOut()
        found = any(True for _ in self._listing(left_out))
        if not found:
            self.left_out = left_out
        return found

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count
