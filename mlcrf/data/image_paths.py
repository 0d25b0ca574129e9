"""Find the images that a data set names: by the path as written, or by a path that is repaired.

All readers find their images here. A repair never chooses between files: where several fit, or
where two paths lead to one file, the path is refused. Each kind of repair is noted, with a count.
"""

import os
import posixpath
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from mlcrf.errors import DataError
from mlcrf.images import Image, as_image
from mlcrf.images.file_kinds import is_image_name
from mlcrf.images.image import UrlImage
from mlcrf.images.listing import is_file, is_folder
from mlcrf.labels import composed, fold
from mlcrf.stores import Stored, is_url, parse_place

# Folders that paths lead through, or leave out, by the habits of other programs.
_USUAL_FOLDERS = frozenset({"images", "image", "imgs", "img", "data", "photos", "jpegimages"})
_FILE_URL = re.compile(r"file://(localhost(?=/))?", re.IGNORECASE)
_OUTSIDE = re.compile(r"/|~/|\.\./|[A-Za-z]:")  # the begin of a path that leaves the image root
_MOST_HINTS = 20  # missing images for which another one is looked for
_MOST_NAMES = 50_000  # file names that are looked at for that
_MOST_FOLDERS = 200


class _Repair(StrEnum):
    """A difference between a path as written and the path of the file, in words for the user."""

    SPACE = "with space around them"
    FILE_URL = "written as file://"
    BACKSLASHES = "with backslashes"
    PERCENT = "that are percent-encoded"
    FOLDERS = "beginning with folders that are not here"
    PLACE = "without the folder of the images"
    CASE = "that differ in case"
    ACCENTS = "with accents composed otherwise"
    SUFFIX = "without suffix"


# Repairs by which two images can become one.
_LOSSY = {_Repair.FOLDERS, _Repair.PLACE, _Repair.CASE, _Repair.SUFFIX}
_Repairs = frozenset[_Repair]


@dataclass(frozen=True)
class FoundImages:
    """The images at N paths.

    Attributes:
        images: one per path (N,); None where the path is None or has a fault.
        faults: row -> reason why its path gives no image.
        notes: one for each kind of repair.
    """

    images: list[Image | None]
    faults: dict[int, str]
    notes: list[str]


def find_images(
    paths: Sequence[str | None], root: Path | Stored, *, check: bool = True
) -> FoundImages:
    """Find the images at paths relative to a root, or at URLs.

    A path that leads to no file is repaired: space around it, `file://`, backslashes,
    percent-encoding; a folder `images`, `data` or the like, or that of the root, that is too much
    or lacking; for a path outside of the root, such as one of another machine, all folders that
    are not here; letter case, composition of accents, and a missing suffix. A repair that keeps
    more of the path is preferred; if several files are left, the path is refused.

    Args:
        root: in an object store, paths are not repaired.
        check: whether the files have to exist; if not, nothing is repaired.

    Cost: O(N), and one directory listing for each folder with images.
    """
    search = _Search(root)
    for row, text in enumerate(paths):
        if text is None:
            search.images.append(None)
            continue
        try:
            search.images.append(search.find(row, text, check=check))
        except DataError as error:
            search.images.append(None)
            search.faults[row] = str(error)
    search.refuse_shared(paths)
    return FoundImages(search.images, search.faults, search.notes())


@dataclass(frozen=True)
class _Folder:
    """The names in a folder; links count as what they lead to."""

    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    def alike(self, name: str, *, is_file: bool) -> list[tuple[str, _Repairs]]:
        """Return the names that a written name can mean, with the repairs of each."""
        if name in (self.files if is_file else self.folders):
            return [(name, frozenset())]
        folded = self._folded_files if is_file else self._folded_folders
        found = folded.get(fold(name))
        if found:
            return [(one, frozenset({_difference(one, name)})) for one in found]
        if not is_file or is_image_name(name):
            return []
        return [(one, frozenset({_Repair.SUFFIX})) for one in self._stems.get(fold(name), ())]

    def closest(self, name: str) -> str | None:
        """Return the image whose name is the most similar among those that sort near it."""
        at = bisect(self._sorted, name)
        near = {_stem(one): one for one in self._sorted[max(at - 200, 0) : at + 200]}
        close = get_close_matches(_stem(name), near, n=1, cutoff=0.7)
        return near[close[0]] if close else None

    @cached_property
    def _folded_files(self) -> dict[str, list[str]]:
        return _grouped((fold(name), name) for name in self.files)

    @cached_property
    def _folded_folders(self) -> dict[str, list[str]]:
        return _grouped((fold(name), name) for name in self.folders)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _grouped((fold(_stem(name)), name) for name in self.files if is_image_name(name))

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(filter(is_image_name, self.files))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - quick


def _difference(one: str, other: str) -> _Repair:
    return _Repair.ACCENTS if composed(one) == composed(other) else _Repair.CASE


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in sorted(pairs):
        groups[key].append(name)
    return dict(groups)


class _Listings:
    """The content of folders; each is listed once, and not at all if the folder above lacks it."""

    def __init__(self) -> None:
        self._listed: dict[str, _Folder | None] = {}

    def at(self, folder: str) -> _Folder | None:
        """Return the names in a folder, none if it does not exist; None if it cannot be listed."""
        if folder not in self._listed:
            if self._is_known_to_lack(folder):
                self._listed[folder] = _Folder()
            else:
                self._list(folder)
        return self._listed[folder]

    def _is_known_to_lack(self, folder: str) -> bool:
        """Return whether the listing of a folder above says that there is no such folder."""
        above, name = os.path.split(folder)
        while above not in self._listed and name:
            above, name = os.path.split(above)
        known = self._listed.get(above)
        return known is not None and name not in known.folders and name not in {"", ".", ".."}

    def _list(self, folder: str) -> None:
        files, folders = [], []
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    if is_file(entry):
                        files.append(entry.name)
                    elif is_folder(entry):
                        folders.append(entry.name)
        except PermissionError:
            self._listed[folder] = None
        except (OSError, ValueError):  # no such folder, or a path that cannot be one
            self._listed[folder] = _Folder()
            above = os.path.dirname(folder)  # noqa: PTH120 - quick
            while above not in self._listed and not os.path.isdir(above):  # noqa: PTH112
                self._listed[above] = _Folder()
                above = os.path.dirname(above)  # noqa: PTH120
            self.at(above)  # its other folders that are missing need no look at the disk then
        else:
            self._listed[folder] = _Folder(frozenset(files), frozenset(folders))

    def has(self, path: str) -> bool:
        """Return whether a file exists; it may be inside a tar or Parquet file.

        Raises:
            DataError: the tar or Parquet file is damaged.
        """
        folder, name = os.path.split(path)
        listed = self.at(folder)
        if listed is None:
            return os.path.isfile(path)  # noqa: PTH113 - any text
        return name in listed.files or _is_within(path)


def _is_within(path: str) -> bool:
    image = as_image(path)
    return image.container is not None and image.stamp() is not None


@dataclass
class _Search:
    """A search for the images of one data set, path by path."""

    root: Path | Stored
    images: list[Image | None] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    _listings: _Listings = field(default_factory=_Listings)
    _repaired: Counter[_Repair] = field(default_factory=Counter)
    _examples: dict[_Repair, str] = field(default_factory=dict)
    _by_repair: dict[str, int] = field(default_factory=dict)  # name of an image -> first row
    _hints: int = 0

    def find(self, row: int, text: str, *, check: bool) -> Image:
        """Return the image at a path.

        Raises:
            DataError: a missing file, or several that the path can mean; a URL with an unknown
                scheme or a missing driver.
        """
        if "://" in text and not _FILE_URL.match(text.strip()):
            url = text.strip()
            if check:
                parse_place(url)
            if is_url(url):
                return as_image(url)
        if isinstance(self.root, Stored):
            stored = self.root.at(text.strip())
            return UrlImage(stored.url, stored.root)
        # Texts, since `Path` objects would take most of the time of reading a table.
        place = os.path.join(self._folder, text)  # noqa: PTH118
        if not check or self._listings.has(place):
            return as_image(place)
        found = self._repaired_places(text)
        if not found:
            raise DataError(self._missing(text))
        if len(found) > 1:
            shown = " or ".join(map(self._shown, sorted(found)[:2]))
            raise DataError(f"image {text.strip()!r} can be {shown}; write the whole path")
        place, repairs = next(iter(found.items()))
        image = as_image(place)
        self._note(row, text, image, repairs)
        return image

    def refuse_shared(self, paths: Sequence[str | None]) -> None:
        """Refuse rows whose image another path names too, if a repair may have confused the two."""
        if not self._by_repair:
            return
        for row, image in enumerate(self.images):
            if image is None:
                continue
            first = self._by_repair.get(image.name, row)
            if first == row:
                continue
            one, other = (_clean(str(paths[at])) for at in sorted((first, row)))
            if one != other:
                self.faults[max(first, row)] = (
                    f"image paths {one!r} and {other!r} both lead to {self._shown(image.name)}; "
                    "write whole paths"
                )

    def notes(self) -> list[str]:
        """Return a note for each kind of repair."""
        return [
            f"image paths {repair}: {count} repaired, such as {self._examples[repair]}"
            for repair, count in self._repaired.items()
        ]

    @cached_property
    def _folder(self) -> str:
        return str(self.root)

    @cached_property
    def _places(self) -> list[str]:
        """The folders in which repaired paths may begin, the root first."""
        listed = self._listings.at(self._folder)
        names = sorted(listed.folders) if listed is not None else []
        usual = [name for name in names if name.lower() in _USUAL_FOLDERS]
        return [self._folder, *(os.path.join(self._folder, name) for name in usual)]  # noqa: PTH118

    @cached_property
    def _own_parts(self) -> tuple[str, ...]:
        return Path(os.path.abspath(self._folder)).parts  # noqa: PTH100 - links are not followed

    def _note(self, row: int, text: str, image: Image, repairs: _Repairs) -> None:
        for repair in sorted(repairs):
            self._repaired[repair] += 1
            if repair not in self._examples:
                self._examples[repair] = f"{text!r} ({self._shown(image.name)})"
        if repairs & _LOSSY:
            self._by_repair.setdefault(image.name, row)

    def _shown(self, place: str) -> str:
        inside = place.removeprefix(os.path.join(self._folder, ""))  # noqa: PTH118
        return repr(inside)

    def _repaired_places(self, text: str) -> dict[str, _Repairs]:
        """Return the files that a path can mean, with the repairs that lead there."""
        found: dict[str, _Repairs] = {}
        for spelled, repairs in _spellings(text):
            place = os.path.join(self._folder, spelled)  # noqa: PTH118
            if self._listings.has(place):
                found[place] = repairs
        if found:
            return found
        for spelled, repairs in _spellings(text):
            for place, more in self._below(spelled).items():
                found[place] = repairs | more
        return found

    def _below(self, path: str) -> dict[str, _Repairs]:
        """Return the files at the longest end of a path that is in one of the usual places.

        A name that is only similar does not exclude the same name at a shorter end of the path.
        """
        parts = _parts(path)
        similar: dict[str, _Repairs] = {}
        for start in self._starts(path, parts):
            same: dict[str, _Repairs] = {}
            alike: dict[str, _Repairs] = {}
            for at, folder in enumerate(self._places):
                moved = {_Repair.FOLDERS} if start else set()
                moved |= {_Repair.PLACE} if at else set()
                for place, repairs in self._matches(folder, parts[start:]):
                    (alike if repairs else same)[place] = repairs | moved
            if same:
                return similar | same
            similar = similar or alike
        return similar

    def _starts(self, path: str, parts: Sequence[str]) -> Iterator[int]:
        """Yield how many leading folders of a path may be left out."""
        own = self._own_parts
        for start in range(len(parts)):
            left_out = parts[:start]
            usual = start == 1 and parts[0].lower() in _USUAL_FOLDERS
            if not start or usual or _OUTSIDE.match(path) or own[-start:] == tuple(left_out):
                yield start

    def _matches(self, folder: str, parts: Sequence[str]) -> Iterator[tuple[str, _Repairs]]:
        """Yield the files at a path below a folder, similar names included."""
        listed = self._listings.at(folder) if parts else None
        if listed is None:
            return
        name, *rest = parts
        for one, repairs in listed.alike(name, is_file=not rest):
            place = os.path.join(folder, one)  # noqa: PTH118
            if not rest:
                yield place, repairs
                continue
            for found, more in self._matches(place, rest):
                yield found, repairs | more

    def _missing(self, text: str) -> str:
        """Return a message with the nearest image that exists."""
        is_outside = bool(_OUTSIDE.match(_clean(text)))
        where = f", and its end is not in {self._folder}" if is_outside else f" in {self._folder}"
        hint = "if the images are elsewhere, use --image-root FOLDER"
        self._hints += 1
        if self._hints <= _MOST_HINTS:
            hint = self._nearest(_parts(_clean(text)), is_outside=is_outside) or hint
        return f"missing image {text.strip()!r}{where}; {hint}"

    def _nearest(self, parts: Sequence[str], *, is_outside: bool) -> str | None:
        if not parts:
            return None
        elsewhere = self._elsewhere.get(fold(parts[-1]), [])
        if elsewhere:
            found = elsewhere[0]
            more = f" (and {len(elsewhere) - 1} more)" if len(elsewhere) > 1 else ""
            ending = "/" + "/".join(parts[-1:] if is_outside else parts)
            if found.endswith(ending):
                return f"{found}{more} exists: use --image-root {found.removesuffix(ending)}"
            return f"the nearest is {found}{more}: correct the path, or use --image-root FOLDER"
        for place in self._places:
            folder = os.path.join(place, *parts[:-1])  # noqa: PTH118
            listed = self._listings.at(folder)
            close = listed.closest(parts[-1]) if listed is not None else None
            if close is not None:
                nearest = self._shown(os.path.join(folder, close))  # noqa: PTH118
                return f"the nearest is {nearest}: correct the path, or use --image-root FOLDER"
        return None

    @cached_property
    def _elsewhere(self) -> dict[str, list[str]]:
        """Images in and near the root, by folded name, as far as they are quickly listed."""
        above = os.path.dirname(os.path.abspath(self._folder))  # noqa: PTH100, PTH120
        below = (place for place, _, _ in os.walk(self._folder))
        places = [*islice(below, _MOST_FOLDERS), above]
        listed = self._listings.at(above)
        beside = sorted(listed.folders) if listed is not None else []
        usual = [name for name in beside if name.lower() in _USUAL_FOLDERS]
        places += [os.path.join(above, name) for name in usual]  # noqa: PTH118
        files = (
            os.path.join(place, name)  # noqa: PTH118
            for place in places
            if (found := self._listings.at(place)) is not None
            for name in sorted(found.files)
            if is_image_name(name)
        )
        pairs = dict.fromkeys(islice(files, _MOST_NAMES))
        return _grouped((fold(os.path.basename(one)), one) for one in pairs)  # noqa: PTH119


def _clean(text: str) -> str:
    """Return a path without space around it, `file://` and backslashes."""
    return _FILE_URL.sub("", text.strip(), count=1).replace("\\", "/")


def _spellings(text: str) -> list[tuple[str, _Repairs]]:
    """Return the path in plain spelling, and decoded if it can be percent-encoded."""
    clean = _clean(text)
    repairs = {
        _Repair.SPACE: text != text.strip(),
        _Repair.FILE_URL: bool(_FILE_URL.match(text.strip())),
        _Repair.BACKSLASHES: "\\" in text,
    }
    own = frozenset(repair for repair, is_made in repairs.items() if is_made)
    decoded = unquote(clean)
    return [(clean, own)] + [(decoded, own | {_Repair.PERCENT})] * (decoded != clean)


def _parts(path: str) -> list[str]:
    return [part for part in posixpath.normpath(path).split("/") if part not in {"", ".", ".."}]
