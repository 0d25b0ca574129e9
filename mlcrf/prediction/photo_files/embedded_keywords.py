"""Keywords inside JPEGs, from predictions; the photo as it was is kept beside it."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from mlcrf.errors import DataError, MlcrfError, printable
from mlcrf.images import Image
from mlcrf.implications import Implications
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.exiftool import ExifTool
from mlcrf.keywords.jpeg_keywords import JpegPlan, apply, is_jpeg, plan
from mlcrf.keywords.keyword_lists import SUBJECT, KeywordPath, OwnKeywords
from mlcrf.keywords.retagging import Author, has_our_marks
from mlcrf.keywords.xmp import Packet
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.persons_files import (
    keep_earlier,
    require_replaceable,
    rewrite,
)
from mlcrf.prediction.photo_files.photo_file_set import Action, Change
from mlcrf.prediction.photo_files.sidecars import keyword_paths, tags_of
from mlcrf.prediction.photo_files.tag_files import BEFORE
from mlcrf.prediction.record import Prediction


class EmbeddedKeywords:
    """A writer of keywords into JPEGs, with exiftool.

    The photo as it was is kept as `.mlcrf-before/HASH/photo.jpg`, where HASH is the SHA-256 of the
    photo with our keywords. So undo finds it if nobody has changed the photo since, whatever its
    name.

    Args: as those of `Sidecars`.

    Raises:
        SettingsError: exiftool is not installed, or the name of a label cannot be a keyword.
    """

    kind = "photos"

    def __init__(
        self,
        author: Author | None = None,
        labels: LabelSpace | None = None,
        implications: Implications = Implications(),
        *,
        parent: KeywordPath = (),
        existing: Mapping[str, KeywordPath] = MappingProxyType({}),
        dry_run: bool = False,
    ) -> None:
        self._tool = ExifTool()
        self._paths = keyword_paths(labels, implications, parent, existing) if labels else {}
        self._author, self._dry_run = author, dry_run

    def write(self, prediction: Prediction) -> Change:
        """Give a JPEG the labels of a prediction.

        Raises:
            DataError: it is no JPEG in a file of its own, or cannot be read.
            MlcrfError: it cannot be written; it is left unchanged.
        """
        photo = prediction.image
        path, content = _load(photo)
        if not is_jpeg(content):
            raise DataError("is no JPEG, and --embed changes only these; use --xmp", path)
        tags = tags_of(prediction, self._paths)
        try:
            planned = plan(content, tags, self._author, self._tool, lambda: _keywords(photo))
            if planned.changes:
                self._replace(path, content, planned)
        except ValueError as error:
            raise _unreadable(path, error) from error
        action = Action.CHANGED if planned.changes else Action.UNCHANGED
        return Change(path, action, planned.after.added, planned.after.removed)

    def undo(self, photo: Image) -> list[Change]:
        """Bring back the photo as it was; if it has changed since, remove only our keywords."""
        if photo.path is None:
            return []
        path, content = _load(photo)
        return [self.undo_file(path)] if is_jpeg(content) and has_our_marks(content) else []

    def undo_file(self, path: Path) -> Change:
        """Undo one photo, as `undo` does; raises as `write` does."""
        content = path.read_bytes()
        try:
            planned = plan(content, (), None, self._tool)
            kept = _kept(path, content)
            if kept is None:
                self._replace(path, content, planned, keep=False)
            else:
                _require_own_file(path)
                before = kept.read_bytes()
                if not self._dry_run:
                    kept.replace(path)
                    _clear(kept)
                    if has_our_marks(before):  # it had been changed by others between two runs
                        self._replace(path, before, plan(before, (), None, self._tool), keep=False)
        except ValueError as error:
            raise _unreadable(path, error) from error
        action = Action.CHANGED if planned.changes else Action.UNCHANGED
        return Change(path, action, removed=planned.after.removed)

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Yield nothing: keywords in a photo are found with it."""
        return iter(())

    def close(self) -> None:
        """End exiftool."""
        self._tool.close()

    def _replace(self, path: Path, old: bytes, planned: JpegPlan, *, keep: bool = True) -> None:
        """Write planned keywords; keep the photo as it was, unless only ours are removed."""
        _require_own_file(path)
        if self._dry_run or not planned.changes:
            return
        try:
            new = apply(planned, old, self._tool)
        except MlcrfError as error:
            raise MlcrfError(f"{printable(path)}: left unchanged: {error}") from error
        earlier = _kept(path, old)
        place = _place(path, new)
        if keep:
            keep_earlier(earlier or path, place)
        try:
            rewrite(path, new)
        except MlcrfError:
            if keep:
                place.unlink()
                _clear(place)
            raise
        if earlier is not None:
            earlier.unlink()
            _clear(earlier)


def _load(photo: Image) -> tuple[Path, bytes]:
    if photo.path is None:
        raise DataError("is in no file of its own, which --embed needs; use --xmp", photo)
    try:
        return photo.path, photo.path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", photo.path) from error


def _require_own_file(path: Path) -> None:
    if path.is_symlink():
        raise MlcrfError(f"{printable(path)}: is a link and left unchanged")
    require_replaceable(path)


def _unreadable(path: Path, error: ValueError) -> DataError:
    return DataError(f"left unchanged: {error}; use --xmp", path)


def _keywords(photo: Image) -> Packet:
    """Return the keywords in IPTC and EXIF as XMP; nothing else, since they stay in the photo."""
    packet = Packet.new()
    SUBJECT.add(packet, SUBJECT.fitting(OwnKeywords(embedded_packet(photo)).paths))
    return packet


def _place(path: Path, content: bytes) -> Path:
    """Return the place of a photo as it was, given its content with our keywords."""
    return path.parent / BEFORE / hashlib.sha256(content).hexdigest() / path.name


def _kept(path: Path, content: bytes) -> Path | None:
    """Return the photo as it was before this content, or None; it may have been renamed since."""
    place = _place(path, content)
    if place.is_file():
        return place
    others = sorted(place.parent.glob("*"))
    return next((one for one in others if not (path.parent / one.name).exists()), None)


def _clear(place: Path) -> None:
    """Remove the folders of a photo that is no longer kept."""
    with suppress(OSError):  # others are in it
        place.parent.rmdir()
        place.parent.parent.rmdir()
