"""Text files of tags, `photo.txt` beside `photo.jpg`, in the layout that training reads."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from mlcrf import atomic
from mlcrf.errors import DataError, MlcrfError, MlcrfWarning, SettingsError, printable
from mlcrf.images import Image, open_regular
from mlcrf.images.file_kinds import is_image_name
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.persons_files import (
    keep_earlier,
    remove,
    require_replaceable,
    rewrite,
    walk_folders,
)
from mlcrf.prediction.photo_files.photo_file_set import Action, Change
from mlcrf.prediction.record import Prediction

LOG = ".mlcrf-tags"
BEFORE = ".mlcrf-before"


class TagFiles:
    """A writer of one text file per photo, with one tag per line.

    The format cannot record who wrote a file. So a hidden file `.mlcrf-tags` in each folder holds
    one SHA-256 per line, over name and content of each tag file that mlcrf wrote there. A file that
    is not listed, or has changed since, belongs to a person. If it is replaced, it is kept in a
    hidden folder `.mlcrf-before`, from which `undo` brings it back.

    Args:
        replace: replace a person's files, too.

    Raises:
        SettingsError: training would not read a label back as it was written.
    """

    kind = "tag files"
    is_parallel = True

    def __init__(
        self,
        places: PhotoPlaces,
        labels: LabelSpace | None = None,
        *,
        replace: bool = False,
        dry_run: bool = False,
    ) -> None:
        for name in labels or ():
            if "," in name or name == "?":
                raise SettingsError(
                    f"label {name!r}: means something else in a tag file, where a comma separates "
                    "tags and ? is unknown; give it another name with --rename"
                )
        self._places, self._replace, self._dry_run = places, replace, dry_run
        self._log: tuple[Path | None, set[str]] = (None, set())
        self._log_lock = Lock()
        self._undone: set[Path] = set()
        self._kept: list[Path] = []  # a person's files that undo does not bring back

    def write(self, prediction: Prediction) -> Change:
        """Write the labels of a prediction.

        Raises:
            DataError: the file belongs to a person, or to another image too.
            MlcrfError: the file cannot be written.
        """
        photo = prediction.image
        path = self._places.tag_file(photo)
        others = [name for name in self._places.rivals(photo) if is_image_name(name)]
        if others:
            raise DataError(
                f"{printable(path)}: would be the tag file of {others[0]} too; rename one of them"
            )
        new = "".join(f"{name}\n" for name in prediction.labels).encode()
        old = _content(path)
        if old == new:
            return Change(path, Action.UNCHANGED)
        persons = old is not None and not self._is_ours(path, old)
        if persons and not self._replace:
            raise DataError(
                f"{printable(path)}: exists and is not by mlcrf; --replace-txt replaces it"
            )
        require_replaceable(path)
        if not self._dry_run:
            if persons:
                _keep(path)
            with self._log_lock:
                self._note(path, new)
            rewrite(path, new)
        before, now = _tags(old or b""), _tags(new)
        added = tuple(name for name in now if name not in before)
        removed = tuple(name for name in before if name not in now)
        return Change(path, Action.NEW if old is None else Action.CHANGED, added, removed)

    def undo(self, photo: Image) -> list[Change]:
        """Delete the photo's tag file, or bring back the one that was there before.

        A file that mlcrf did not write, or that has changed since, stays.
        """
        path = self._places.tag_file(photo)
        if _content(path) is None and not _kept(path).exists():
            return []
        return [self.undo_file(path)]

    def undo_file(self, path: Path) -> Change:
        """Undo one file, as `undo` does."""
        content, before = _content(path), _kept(path)
        brings_back = before.exists()
        if content is not None and not self._is_ours(path, content):
            if brings_back:
                self._kept.append(before)
            return Change(path, Action.UNCHANGED)
        require_replaceable(path)
        if not self._dry_run:
            self._undone.add(path.parent)
            if brings_back:
                before.replace(path)
            else:
                remove(path)
        action = Action.CHANGED if brings_back else Action.DELETED
        return Change(path, action, removed=tuple(_tags(content or b"")))

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Yield our tag files in a folder and below it, and places of a person's that we keep."""
        for place, names in walk_folders(folder):
            texts = [place / name for name in names if LOG in names and name.endswith(".txt")]
            texts += [place / path.name for path in sorted((place / BEFORE).glob("*.txt"))]
            for path in dict.fromkeys(texts):
                try:
                    content = _content(path)
                    ours = content is None or self._is_ours(path, content)
                except DataError:
                    ours = True  # `undo_file` reports it
                if ours or _kept(path).exists():
                    yield path

    def close(self) -> None:
        """After deletions, remove from the log all files that no longer exist as written.

        Note the person's files that are still kept, as those in their places have changed since.
        """
        if self._kept:
            warnings.warn(
                f"{printable(self._kept[0])}: still kept, as it was before --replace-txt"
                + (f", with {len(self._kept) - 1:,} others" if self._kept[1:] else "")
                + "; the file in its place has changed since: move it back or delete it yourself",
                MlcrfWarning,
                stacklevel=2,
            )
        for folder in self._undone:
            with suppress(OSError):  # it is missing, or not empty
                (folder / BEFORE).rmdir()
            left = _load_log(folder) & set(_digests(folder))
            if left:
                atomic.write_text(folder / LOG, "".join(f"{one}\n" for one in sorted(left)))
            else:
                atomic.remove(folder / LOG)

    def _is_ours(self, path: Path, content: bytes) -> bool:
        with self._log_lock:
            return _digest(path, content) in self._written_in(path.parent)

    def _written_in(self, folder: Path) -> set[str]:
        if self._log[0] != folder:
            self._log = (folder, _load_log(folder))
        return self._log[1]

    def _note(self, path: Path, content: bytes) -> None:
        """Log a file before it is written: an entry without a file does no harm."""
        digest, written = _digest(path, content), self._written_in(path.parent)
        if digest in written:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (path.parent / LOG).open("a", encoding="ascii") as stream:
                stream.write(f"{digest}\n")
        except OSError as error:
            raise MlcrfError(
                f"{printable(path)}: cannot be written, nor {LOG} beside it: "
                f"{error.strerror or error}"
            ) from error
        written.add(digest)


def _kept(path: Path) -> Path:
    """Return the place where a person's tag file is kept."""
    return path.parent / BEFORE / path.name


def _keep(path: Path) -> None:
    """Keep a person's tag file before it is replaced.

    Raises:
        MlcrfError: it cannot be kept, or an earlier one is kept already.
    """
    kept = _kept(path)
    if path.is_symlink():
        raise MlcrfError(f"{printable(path)}: is a link and not replaced")
    if kept.exists() and _content(kept) != _content(path):
        raise MlcrfError(
            f"{printable(path)}: not replaced, since an earlier version is kept as "
            f"{printable(kept)}; move one of them away"
        )
    keep_earlier(path, kept)


def _content(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Raises:
        DataError: the file cannot be read.
    """
    if not os.path.lexists(path):
        return None
    try:
        with open_regular(path) as stream:
            return stream.read()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error


def _tags(content: bytes) -> list[str]:
    lines = content.decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _digest(path: Path, content: bytes) -> str:
    return hashlib.sha256(os.fsencode(path.name) + b"\0" + content).hexdigest()


def _digests(folder: Path) -> Iterator[str]:
    """Yield the digests of the tag files in a folder; what cannot be read is none of ours."""
    for path in folder.glob("*.txt"):
        with suppress(DataError):
            yield _digest(path, _content(path) or b"")


def _load_log(folder: Path) -> set[str]:
    return set((_content(folder / LOG) or b"").decode("ascii", "replace").split())
