"""Keywords inside images, from predictions; the photo as it was is kept beside it."""

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlcrf.errors import DataError, MlcrfError, MlcrfWarning, printable
from mlcrf.images import Image, open_regular
from mlcrf.keywords.embedded import REPAIR, embedded_packet
from mlcrf.keywords.embedding import EmbeddingPlan, apply, plan
from mlcrf.keywords.exiftool import ExifTool, ExifToolError
from mlcrf.keywords.image_parts import HEAD_BYTES, kind_of, pixels_of
from mlcrf.keywords.keyword_lists import SUBJECT, KeywordPath, OwnKeywords
from mlcrf.keywords.retagging import Author, Tag, has_our_marks
from mlcrf.keywords.xmp import DamagedXmpError, Packet
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.persons_files import (
    keep_earlier,
    require_replaceable,
    rewrite,
    walk_folders,
)
from mlcrf.prediction.photo_files.photo_file_set import Action, Change
from mlcrf.prediction.photo_files.sidecars import keyword_paths, tags_of
from mlcrf.prediction.photo_files.tag_files import BEFORE
from mlcrf.prediction.record import Prediction
from mlcrf.rules import Rules

_HASH = re.compile("[0-9a-f]{64}")


class EmbeddedKeywords:
    """A writer of keywords into images, with exiftool.

    The photo as it was is kept as `.mlcrf-before/HASH/photo.jpg`, where HASH is the SHA-256 of the
    photo with our keywords. So undo finds it if nobody has changed the photo since, whatever its
    name. A copy that undo does not bring back is deleted if the photo of its name has the same
    pixels: another program has changed only its metadata, and these changes count. Other copies may
    be the only originals, and stay.

    Args: as those of `Sidecars`.

    Raises:
        SettingsError: exiftool is not installed, or the name of a label cannot be a keyword.
    """

    kind = "photos"
    is_parallel = False

    def __init__(
        self,
        author: Author | None = None,
        labels: LabelSpace | None = None,
        rules: Rules = Rules(),
        *,
        parent: KeywordPath = (),
        existing: Mapping[str, KeywordPath] = MappingProxyType({}),
        dry_run: bool = False,
    ) -> None:
        self._tool = ExifTool()
        self._paths = keyword_paths(labels, rules, parent, existing) if labels else {}
        self._author, self._dry_run = author, dry_run
        self._undone: list[Path] = []

    def write(self, prediction: Prediction) -> Change:
        """Give a photo the labels of a prediction.

        Raises:
            DataError: it is in no file of its own, or of a kind that exiftool does not write, or
                cannot be read.
            MlcrfError: it cannot be written; it is left unchanged.
        """
        image = prediction.image
        if image.path is None:
            raise DataError("is in no file of its own, which --embed needs; use --xmp", image)
        with _left_unchanged(image.path):
            photo = _Photo.load(image.path)
            tags = tags_of(prediction, self._paths)
            planned = photo.plan(tags, self._author, self._tool, lambda: _keywords(image))
            self._replace(photo, planned)
        action = Action.CHANGED if planned.changes else Action.UNCHANGED
        return Change(photo.path, action, planned.after.added, planned.after.removed)

    def undo(self, photo: Image) -> list[Change]:
        """Bring back the photo as it was; if it has changed since, remove only our keywords."""
        if photo.path is None:
            return []
        with _left_unchanged(photo.path):
            try:
                found = _Photo.load(photo.path)
            except ValueError:  # of a kind that we do not write
                return []
        return [self.undo_file(photo.path)] if has_our_marks(found.content) else []

    def undo_file(self, path: Path) -> Change:
        """Undo one photo, as `undo` does; raises as `write` does."""
        with _left_unchanged(path):
            photo = _Photo.load(path)
            planned = photo.plan((), None, self._tool)
            _require_own_file(path)
            if not self._dry_run:
                kept = photo.kept()
                if kept is None:
                    self._replace(photo, planned, keep=False)
                else:
                    self._bring_back(photo, kept)
                self._undone.append(path)
        action = Action.CHANGED if planned.changes else Action.UNCHANGED
        return Change(path, action, removed=planned.after.removed)

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Yield nothing, since keywords are found with their photo; note what is still kept."""
        self._discard_needless()
        kept = [copy for place, _ in walk_folders(folder) for copy in _copies(place)]
        if kept and not self._dry_run:
            warnings.warn(
                f"{printable(kept[0].parent.parent)}: still holds, with those in folders below, "
                f"{len(kept):,} of the photos as they were before --embed: another program has "
                "changed their pixels, or they were moved, deleted or not writable; delete what "
                "you do not need",
                MlcrfWarning,
                stacklevel=2,
            )
        return iter(())

    def close(self) -> None:
        """Delete copies that undo made needless, and end exiftool."""
        self._discard_needless()
        self._tool.close()

    def _replace(self, photo: "_Photo", planned: EmbeddingPlan, *, keep: bool = True) -> None:
        """Write planned keywords; keep the photo as it was, unless only ours are removed."""
        _require_own_file(photo.path)
        if self._dry_run or not planned.changes:
            return
        new = apply(planned, photo.content, self._tool)
        earlier, place = photo.kept(), _place(photo.path, new)
        if keep:
            keep_earlier(earlier or photo.path, place)
        try:
            photo.require_unchanged()
            rewrite(photo.path, new)
        except (MlcrfError, OSError):
            if keep:
                _discard(place)
            raise
        if earlier is not None:
            _discard(earlier)

    def _bring_back(self, photo: "_Photo", kept: Path) -> None:
        """Replace a photo by its kept copy, with its times; without keywords of an earlier run."""
        photo.require_unchanged()
        kept.replace(photo.path)
        _clear(kept)
        before = _Photo.load(photo.path)
        if has_our_marks(before.content):  # others had changed it between two runs
            self._replace(before, before.plan((), None, self._tool), keep=False)

    def _discard_needless(self) -> None:
        """Delete copies of the names of undone photos whose pixels are those of the photo.

        Once all are undone, since a copy of that name may be that of a photo renamed since.
        """
        kept: dict[Path, list[Path]] = defaultdict(list)
        for folder in {path.parent for path in self._undone}:
            for copy in _copies(folder):
                kept[folder / copy.name].append(copy)
        for path in self._undone:
            for copy in kept.pop(path, ()):
                with suppress(ValueError, OSError):  # pixels that cannot be read may be others
                    if _Photo.load(copy).pixels() == _Photo.load(path).pixels():
                        _discard(copy)
        self._undone.clear()


@dataclass(frozen=True)
class _Photo:
    """A photo in a file of its own, as it was when it was read.

    Attributes:
        kind: see `image_parts.kind_of`.
    """

    path: Path
    content: bytes
    kind: str

    @classmethod
    def load(cls, path: Path) -> "_Photo":
        """Read a photo.

        Raises:
            ValueError: of a kind that exiftool does not write.
        """
        with open_regular(path) as stream:
            head = stream.read(HEAD_BYTES)
            kind = kind_of(path.name, head)
            return cls(path, head + stream.read(), kind)

    def plan(
        self,
        tags: Sequence[Tag],
        author: Author | None,
        tool: ExifTool,
        new: Callable[[], Packet] = Packet.new,
    ) -> EmbeddingPlan:
        """Plan our keywords in the photo; see `embedding.plan`."""
        return plan(self.content, self.kind, tags, author, tool, new)

    def pixels(self) -> object:
        return pixels_of(self.content, self.kind)

    def require_unchanged(self) -> None:
        """Refuse to replace a photo that is no longer as it was read.

        Raises:
            ExifToolError: it is not.
        """
        if self.path.read_bytes() != self.content:
            raise ExifToolError("another program has changed it meanwhile; run again")

    def kept(self) -> Path | None:
        """Return the photo as it was before this content, or None.

        The photo may have been renamed since; a copy that is that of another photo does not count.
        """
        place = _place(self.path, self.content)
        if place.is_file():
            return place
        for copy in sorted(place.parent.glob("*")):
            other = self.path.with_name(copy.name)
            if not other.is_file() or other.read_bytes() != self.content:
                return copy
        return None


@contextmanager
def _left_unchanged(path: Path) -> Iterator[None]:
    """Name the photo in errors of reading and changing it.

    Raises:
        DataError: in their place.
    """
    try:
        yield
    except DamagedXmpError as error:
        raise DataError(f"left unchanged: its XMP: {error}; {REPAIR}", path) from error
    except ValueError as error:
        raise DataError(f"left unchanged: {error}; use --xmp", path) from error
    except ExifToolError as error:
        raise DataError(f"left unchanged: {error}", path) from error
    except OSError as error:
        place = "" if error.filename in (None, str(path)) else f", {printable(error.filename)}"
        raise DataError(f"left unchanged: {error.strerror or error}{place}", path) from error


def _require_own_file(path: Path) -> None:
    if path.is_symlink():
        raise MlcrfError(f"{printable(path)}: is a link and left unchanged")
    require_replaceable(path)


def _keywords(photo: Image) -> Packet:
    """Return the keywords in IPTC and EXIF as XMP; nothing else, since they stay in the photo."""
    packet = Packet.new()
    SUBJECT.add(packet, SUBJECT.fitting(OwnKeywords(embedded_packet(photo)).paths))
    return packet


def _place(path: Path, content: bytes) -> Path:
    """Return the place of a photo as it was, given its content with our keywords."""
    return path.parent / BEFORE / hashlib.sha256(content).hexdigest() / path.name


def _copies(folder: Path) -> Iterator[Path]:
    """Yield the copies of photos that are kept in a folder."""
    for place in (folder / BEFORE).glob("*"):
        if _HASH.fullmatch(place.name):
            yield from place.glob("*")


def _discard(copy: Path) -> None:
    copy.unlink()
    _clear(copy)


def _clear(place: Path) -> None:
    """Remove the folders of a photo that is no longer kept."""
    with suppress(OSError):  # others are in it
        place.parent.rmdir()
        place.parent.parent.rmdir()
