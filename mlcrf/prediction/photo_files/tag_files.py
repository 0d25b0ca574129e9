"""Text files of tags, `photo.txt` beside `photo.jpg`, in the layout that training reads."""

import hashlib
import os
from pathlib import Path

from mlcrf import atomic
from mlcrf.errors import DataError, MlcrfError, SettingsError, printable
from mlcrf.images import Image
from mlcrf.images.file_kinds import is_image_name
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.photo_file_set import Action, Change
from mlcrf.prediction.record import Prediction

LOG = ".mlcrf-tags"


class TagFiles:
    """A writer of one text file per photo, with one tag per line.

    The format cannot record who wrote a file. So a hidden file `.mlcrf-tags` in each folder holds
    one SHA-256 per line, over name and content of each tag file that mlcrf wrote there. A file that
    is not listed, or has changed since, belongs to a person.

    Args:
        overwrite: replace a person's files, too.

    Raises:
        SettingsError: training would not read a label back as it was written.
    """

    kind = "tag files"

    def __init__(
        self,
        places: PhotoPlaces,
        labels: LabelSpace | None = None,
        *,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> None:
        for name in labels or ():
            if "," in name or name == "?":
                raise SettingsError(
                    f"label {name!r}: means something else in a tag file, where a comma separates "
                    "tags and ? is unknown; give it another name with --rename"
                )
        self._places, self._overwrite, self._dry_run = places, overwrite, dry_run
        self._log: tuple[Path | None, set[str]] = (None, set())
        self._undone: set[Path] = set()

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
        if old is not None and not self._overwrite and not self._is_ours(path, old):
            raise DataError(
                f"{printable(path)}: exists and is not by mlcrf; --overwrite replaces it"
            )
        if not self._dry_run:
            self._note(path, new)
            atomic.write_bytes(path, new)
        before, now = _tags(old or b""), _tags(new)
        added = tuple(name for name in now if name not in before)
        removed = tuple(name for name in before if name not in now)
        return Change(path, Action.NEW if old is None else Action.CHANGED, added, removed)

    def undo(self, photo: Image) -> list[Change]:
        """Delete the photo's tag file if mlcrf wrote it and it has not changed since."""
        path = self._places.tag_file(photo)
        content = _content(path)
        if content is None:
            return []
        if not self._is_ours(path, content):
            return [Change(path, Action.UNCHANGED)]
        if not self._dry_run:
            atomic.remove(path)
            self._undone.add(path.parent)
        return [Change(path, Action.DELETED, removed=tuple(_tags(content)))]

    def close(self) -> None:
        """After deletions, remove from the log all files that no longer exist as written."""
        for folder in self._undone:
            there = (_digest(path, _content(path) or b"") for path in folder.glob("*.txt"))
            left = _load_log(folder) & set(there)
            if left:
                atomic.write_text(folder / LOG, "".join(f"{one}\n" for one in sorted(left)))
            else:
                atomic.remove(folder / LOG)

    def _is_ours(self, path: Path, content: bytes) -> bool:
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
                f"{printable(path.parent / LOG)}: cannot be written: {error.strerror or error}"
            ) from error
        written.add(digest)


def _content(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes() if os.path.lexists(path) else None
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error


def _tags(content: bytes) -> list[str]:
    lines = content.decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _digest(path: Path, content: bytes) -> str:
    return hashlib.sha256(os.fsencode(path.name) + b"\0" + content).hexdigest()


def _load_log(folder: Path) -> set[str]:
    return set((_content(folder / LOG) or b"").decode("ascii", "replace").split())
