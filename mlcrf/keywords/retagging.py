"""Write, replace or remove our tags in an XMP packet; keep the tags of people."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lxml import etree

from mlcrf.errors import SettingsError
from mlcrf.keywords.xmp import OURS, Packet, Property
from mlcrf.labels import fold


@dataclass(frozen=True)
class Author:
    """The name of the model that made the tags, and the SHA-256 of its weights, if known."""

    model: str
    weights: str


@dataclass(frozen=True)
class Tag:
    """A label as a keyword.

    Attributes:
        name: the keyword.
        paths: for each direct parent, the names from its topmost parent down to this keyword; only
            the keyword if it has no parent.
        confirmed: True if a person confirmed the tag; it is then stored as a person's.
    """

    name: str
    paths: tuple[tuple[str, ...], ...]
    confirmed: bool = False


@dataclass(frozen=True)
class Retagged:
    """A sidecar with new tags.

    Attributes:
        content: the new content, equal to the old if nothing changed; None for no file.
        added, removed: changes of the keywords in dc:subject.
    """

    content: bytes | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A property with keywords, and our mark, a property that lists the values that we added."""

    keywords: Property
    mark: Property
    separator: str = ""  # of levels; "" without levels

    def levels(self, value: str) -> list[str]:
        return value.split(self.separator) if self.separator else [value]

    def named(self, value: str) -> str:
        return fold(self.levels(value)[-1])

    def values(self, tags: Sequence[Tag], among: Sequence[Tag]) -> list[str]:
        """Return values for the tags; omit paths that are prefixes of another tag's path."""
        if not self.separator:
            return [tag.name for tag in tags]
        passed = {path[:end] for tag in among for path in tag.paths for end in range(1, len(path))}
        paths = [path for tag in tags for path in tag.paths if path not in passed]
        return [self.separator.join(path) for path in dict.fromkeys(paths)]


# Names that no other property has, since some programs do not show namespaces.
_SUBJECT = _Place(Property("dc", "subject"), Property(OURS, "addedSubject"))
_PLACES = (
    _SUBJECT,
    _Place(
        Property("lr", "hierarchicalSubject"),
        Property(OURS, "addedHierarchicalSubject"),
        separator="|",
    ),
    _Place(Property("digiKam", "TagsList", "Seq"), Property(OURS, "addedTagsList"), separator="/"),
)
_MODEL, _WEIGHTS = Property(OURS, "taggedBy"), Property(OURS, "taggedByWeights")
_MADE_FILE = Property(OURS, "madeFile")


def require_taggable(names: Iterable[str]) -> None:
    """Refuse names that XMP cannot store as one keyword.

    Raises:
        SettingsError: a name contains a separator of levels, or a character that is not allowed in
            XML.
    """
    signs = [place.separator for place in _PLACES if place.separator]
    for name in names:
        sign = next((sign for sign in signs if sign in name), None)
        fault = f"{sign} separates levels of keywords in XMP" if sign else None
        try:
            etree.Element("name").text = name
        except ValueError:
            fault = "it contains a character that is not allowed in XML"
        if fault:
            raise SettingsError(f"label {name!r}: {fault}; give it another name with --rename")


def retag(raw: bytes | None, tags: Sequence[Tag], author: Author | None) -> Retagged:
    """Replace our previous tags in a sidecar by new ones.

    Tags are added to dc:subject, lr:hierarchicalSubject and digiKam:TagsList, and are listed in
    properties of our own, the marks. A value without a mark belongs to a person and is kept.

    - A name that a person added to any of the three, at any level, is not added again; if we added
      it too, it belongs to the person from then on.
    - A tag of ours that a person removed from dc:subject is not added again.
    - A confirmed tag is added without a mark.

    Names are compared without regard to case.

    Args:
        raw: the current sidecar; None if there is none.
        tags: all tags of the photo; empty to remove ours.
        author: the model; None also forgets which tags people removed. A file that we made is
            deleted once it is empty.

    Raises:
        ValueError: the sidecar cannot be read; see `Packet`.
    """
    if raw is None and not tags:
        return Retagged(None)
    packet = Packet.new() if raw is None else Packet(raw)
    before = _snapshot(packet)
    made = raw is None or bool(packet.values(_MADE_FILE))
    marks = {place: packet.values(place.mark) for place in _PLACES}
    own = {
        place: Counter(packet.values(place.keywords)) - Counter(marks[place]) for place in _PLACES
    }
    theirs = {
        fold(name) for place in _PLACES for value in own[place] for name in place.levels(value)
    }
    refused = _taken_out(packet, marks[_SUBJECT]) - theirs if author else set[str]()
    packet.remove_ours()
    free = [tag for tag in tags if fold(tag.name) not in theirs | refused]
    confirmed, ours = ([tag for tag in free if tag.confirmed is said] for said in (True, False))
    marked = False
    for place in _PLACES:
        packet.remove(
            place.keywords,
            [one for one in marks[place] if place.named(one) not in theirs or own[place][one]],
        )
        given = place.values(ours, among=free)
        packet.add(place.keywords, [*place.values(confirmed, among=confirmed), *given])
        noted = [*given, *(one for one in marks[place] if place.named(one) in refused)]
        packet.add(place.mark, noted)
        marked = marked or bool(noted)
    if marked and author is not None:
        packet.add_text(_MODEL, author.model)
        if author.weights:
            packet.add_text(_WEIGHTS, author.weights)
        if made:
            packet.add_text(_MADE_FILE, "True")
    after = _snapshot(packet)
    subject = _SUBJECT.keywords
    added, removed = after[subject] - before[subject], before[subject] - after[subject]
    content: bytes | None = packet.to_bytes()
    if made and packet.is_empty:
        content = None
    elif after == before and raw is not None:
        content = raw
    return Retagged(content, tuple(added), tuple(removed))


def marked_names(packet: Packet) -> set[str]:
    """Return our keywords in a packet, folded."""
    return {fold(name) for name in packet.values(_SUBJECT.mark)}


def own_keywords(packet: Packet) -> list[str]:
    """Return the values of dc:subject that are not ours."""
    keywords = Counter(packet.values(_SUBJECT.keywords)) - Counter(packet.values(_SUBJECT.mark))
    return list(keywords)


def _taken_out(packet: Packet, marked: list[str]) -> set[str]:
    return {fold(one) for one in Counter(marked) - Counter(packet.values(_SUBJECT.keywords))}


def _snapshot(packet: Packet) -> dict[Property, Counter[str]]:
    """Return all values that `retag` may change."""
    changing = [one for place in _PLACES for one in (place.keywords, place.mark)]
    return {one: Counter(packet.values(one)) for one in (*changing, _MODEL, _WEIGHTS, _MADE_FILE)}
