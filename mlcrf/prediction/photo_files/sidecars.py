"""Keywords in XMP sidecars, from predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from mlcrf.errors import DataError, MlcrfError, printable
from mlcrf.images import Image
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.keyword_lists import KeywordPath, fold_level
from mlcrf.keywords.photo_keywords import damaged_sidecar, load_sidecar
from mlcrf.keywords.retagging import (
    Author,
    Retagged,
    Tag,
    has_our_marks,
    require_taggable,
    retag,
)
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.keywords.xmp import MAX_BYTES, Packet
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.persons_files import (
    remove,
    require_replaceable,
    rewrite,
    walk_folders,
)
from mlcrf.prediction.photo_files.photo_file_set import Action, Change
from mlcrf.prediction.record import Prediction
from mlcrf.rules import Rules

# New sidecars of the same content: many images have no metadata, or only those of their camera.
_REPEATED, _SMALL = 1000, 4096


class Sidecars:
    """A writer of one XMP sidecar per photo; `mlcrf.keywords.retagging.retag` edits its tags.

    A label that implies others is written below each label that it implies directly.

    Args:
        labels: the names to write; not needed to undo.
        author: None if tags are only removed.
        parent: levels above our keywords.
        existing: keywords of the collection by folded name, which are used instead.

    Raises:
        SettingsError: the name of a label cannot be a keyword.
    """

    kind = "sidecars"
    is_parallel = True

    def __init__(
        self,
        places: PhotoPlaces,
        author: Author | None = None,
        labels: LabelSpace | None = None,
        rules: Rules = Rules(),
        *,
        parent: KeywordPath = (),
        existing: Mapping[str, KeywordPath] = MappingProxyType({}),
        dry_run: bool = False,
    ) -> None:
        self._paths = keyword_paths(labels, rules, parent, existing) if labels else {}
        self._places, self._author, self._dry_run = places, author, dry_run
        self._from_small = lru_cache(_REPEATED)(self._from_bytes)

    def write(self, prediction: Prediction) -> Change:
        """Give the photo's sidecar the labels of a prediction.

        A new sidecar begins with the metadata in the image, which programs would not show else.

        Raises:
            DataError: an existing sidecar cannot be read, and is left unchanged; or the metadata in
                the image cannot be read.
            MlcrfError: the sidecar cannot be written.
        """
        tags, photo = tags_of(prediction, self._paths), prediction.image
        path = self._places.sidecar(photo)
        if tags and not path.is_file():
            return self._write(path, None, self._make_new(photo, tags))
        return self._retag(path, tags, self._author, lambda: embedded_packet(photo))

    def undo(self, photo: Image) -> list[Change]:
        """Remove our tags from all sidecars that may be the photo's; raises as `write` does."""
        return [self.undo_file(path) for path in self._places.all_sidecars(photo)]

    def undo_file(self, path: Path) -> Change:
        """Remove our tags from a sidecar; raises as `write` does."""
        return self._retag(path, (), None)

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Yield sidecars with our tags in a folder and below it, of whatever images."""
        for place, names in walk_folders(folder):
            for path in (place / name for name in names if name.lower().endswith(".xmp")):
                try:
                    ours = has_our_marks(load_sidecar(path))
                except DataError:
                    ours = True  # `undo_file` reports it
                if ours:
                    yield path

    def close(self) -> None:
        """Do nothing."""

    def _retag(
        self,
        path: Path,
        tags: Sequence[Tag],
        author: Author | None,
        new: Callable[[], Packet] = Packet.new,
    ) -> Change:
        old = load_sidecar(path) if path.is_file() else None
        try:
            result = retag(old, tags, author, new)
        except ValueError as error:
            raise damaged_sidecar(path, error) from error
        return self._write(path, old, result)

    def _make_new(self, photo: Image, tags: Sequence[Tag]) -> Retagged:
        packet = embedded_packet(photo)
        content = packet.to_bytes()
        if len(content) <= _SMALL:
            return self._from_small(content, tuple(tags))
        return retag(None, tags, self._author, lambda: packet)

    def _from_bytes(self, packet: bytes, tags: Sequence[Tag]) -> Retagged:
        return retag(None, tags, self._author, lambda: Packet(packet))

    def _write(self, path: Path, old: bytes | None, result: Retagged) -> Change:
        match old, result.content:
            case None, None:
                action = Action.NONE
            case None, _:
                action = Action.NEW
            case _, None:
                action = Action.DELETED
            case _:
                action = Action.UNCHANGED if result.content == old else Action.CHANGED
        if action in (Action.NEW, Action.CHANGED, Action.DELETED):
            require_replaceable(path)
            if len(result.content or b"") > MAX_BYTES:
                raise MlcrfError(
                    f"{printable(path)}: left unchanged: with these keywords it would have more "
                    f"than {MAX_BYTES // 2**20} MB"
                )
            if self._dry_run:
                pass
            elif result.content is None:
                remove(path)
            else:
                rewrite(path, result.content)
        return Change(path, action, result.added, result.removed)


def tags_of(prediction: Prediction, paths: Mapping[str, tuple[KeywordPath, ...]]) -> list[Tag]:
    """Return the labels of a prediction as keywords, given the paths of each label."""
    confirmed = frozenset(prediction.confirmed)
    return [Tag(paths[one][0][-1], paths[one], one in confirmed) for one in prediction.labels]


def keyword_paths(
    labels: LabelSpace,
    rules: Rules,
    parent: KeywordPath,
    existing: Mapping[str, KeywordPath],
) -> dict[str, tuple[KeywordPath, ...]]:
    """Return each label's keywords: that of the collection, else one per label that it implies.

    Only labels that it implies directly count; further up, only the first keyword of each label.

    Args: as those of `Sidecars`.

    Raises:
        SettingsError: the name of a label cannot be a keyword.
    """
    require_taggable(labels, parent)
    parents: dict[str, list[str]] = {name: [] for name in labels}
    for child, above in rules.parents.items():
        for one in above:
            if one not in rules.with_parents(set(above) - {one}):
                parents[labels.names[child]].append(labels.names[one])

    def first(name: str) -> KeywordPath:
        if fold_level(name) in existing:
            return existing[fold_level(name)]
        above = parents[name]
        return (*(first(above[0]) if above else parent), name)

    return {
        name: tuple((*first(one), name) for one in above)
        if above and fold_level(name) not in existing
        else (first(name),)
        for name, above in parents.items()
    }
