"""Write, replace or remove our tags in an XMP packet; keep the tags of people."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from lxml import etree

from mlcrf.errors import SettingsError
from mlcrf.keywords.keyword_lists import (
    ADDED_LEVELS,
    FIRST,
    LISTS,
    SUBJECT,
    KeywordList,
    KeywordPath,
    OwnKeywords,
    fold_level,
    levels_of_ours,
)
from mlcrf.keywords.sealing import Earlier, seal, unseal
from mlcrf.keywords.xmp import NAMESPACES, OURS, Packet, Property


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
    paths: tuple[KeywordPath, ...]
    confirmed: bool = False

    def spelled_as(self, theirs: OwnKeywords) -> "Tag":
        """Return the tag with a person's spelling and paths, if the person has a keyword of it."""
        paths = theirs.named(self.name)
        return replace(self, name=paths[0][-1], paths=paths) if paths else self


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


_MODEL, _WEIGHTS = Property(OURS, "taggedBy"), Property(OURS, "taggedByWeights")
_MADE_FILE = Property(OURS, "madeFile")


def require_taggable(names: Iterable[str], parent: Iterable[str] = ()) -> None:
    """Refuse names, and levels above them, that XMP cannot store as one keyword.

    Raises:
        SettingsError: a name contains a separator of levels, or a character that is not allowed in
            XML.
    """
    for name in names:
        if fault := keyword_fault(name):
            raise SettingsError(f"label {name!r}: {fault}; give it another name with --rename")
    for level in parent:
        if fault := keyword_fault(level):
            raise SettingsError(f"--parent {level}: {fault}; write levels as Auto|AI")


def keyword_fault(name: str) -> str | None:
    """Return why XMP cannot store a name as one keyword, or None if it can."""
    signs = sorted({one.separator for one in FIRST if one.separator})
    sign = next((sign for sign in signs if sign in name), None)
    if sign:
        return f"{sign} separates levels of keywords in XMP"
    try:
        etree.Element("name").text = name
    except ValueError:
        return "it contains a character that is not allowed in XML"
    return None


def retag(
    raw: bytes | None,
    tags: Sequence[Tag],
    author: Author | None,
    new: Callable[[], Packet] = Packet.new,
    elsewhere: Collection[str] = (),
) -> Retagged:
    """Replace our previous tags in a sidecar by new ones.

    Our tags are added to every list of keywords that is there, and listed in properties of our own,
    the marks. A value without a mark belongs to a person and is kept. A list that some program
    reads before all others is made if it is missing; it gets all keywords of the person, too.

    - A name that a person added to any list is not ours: lists that lack it get it as the person
      wrote it, without a mark. If we added it before, it is the person's from then on.
    - A tag of ours that a person removed from dc:subject is not added again.
    - A confirmed tag is added as the person's.

    Without tags, a sidecar that nobody else changed since gets its earlier bytes again, or is
    deleted if there was none. Names are compared without regard to case.

    Args:
        raw: the current sidecar; None if there is none.
        tags: all tags of the image; empty to remove ours.
        author: the model; None also forgets which tags people removed.
        new: makes the packet that a new sidecar begins with. If a sidecar has no keywords, those of
            this packet are the person's.
        elsewhere: see `without_ours`.

    Raises:
        ValueError: the sidecar cannot be read; see `Packet`.
    """
    if raw is None and not tags:
        return Retagged(None)
    current = None if raw is None else Packet(raw)
    earlier = Earlier(None) if raw is None else without_ours(raw, elsewhere)
    packet = new() if earlier.content is None else Packet(earlier.content)
    before = _snapshot(current or packet)
    theirs = OwnKeywords(packet)
    if tags and earlier.content is not None and not theirs.paths:
        theirs = OwnKeywords(new())  # without keywords in the sidecar, programs show the image's
    confirmed = [tag for tag in tags if tag.confirmed and tag.name not in theirs]
    if confirmed:
        _add(packet, confirmed, theirs)
        earlier, theirs = Earlier(packet.to_bytes()), OwnKeywords(packet)
    untouched = _snapshot(packet)
    refused = set[str]() if current is None or author is None else _refused(current)
    refused = {name for name in refused if name not in theirs}
    made = [place for place in LISTS if not place.paths(packet)]
    added = _add(packet, [tag for tag in tags if fold_level(tag.name) not in refused], theirs)
    for place in LISTS:
        marked = [] if current is None else place.marked(current)
        place.note(packet, added.get(place, ()))
        place.note(packet, [path for path in marked if fold_level(path[-1]) in refused])
    for place in made:
        place.note_copies(packet)
    above = {level for paths in added.values() for path in paths for level in path[:-1]}
    names = {fold_level(tag.name) for tag in tags}
    packet.add(
        ADDED_LEVELS, sorted(one for one in above if fold_level(one) not in theirs.levels | names)
    )
    if author is not None and (refused or any(added.values())):
        packet.set_text(_MODEL, author.model)
        if author.weights:
            packet.set_text(_WEIGHTS, author.weights)
        if earlier.content is None:
            packet.set_text(_MADE_FILE, "True")
    after = _snapshot(packet)
    if raw is not None and after == before:
        return Retagged(raw)
    needless = earlier.content is None and not refused and not any(added.values())
    content = earlier.content if needless or after == untouched else seal(packet, earlier)
    was, now = before[SUBJECT.keywords], after[SUBJECT.keywords]
    return Retagged(
        content,
        tuple(name for name in now - was if fold_level(name) in names),
        tuple(was - now),
    )


def has_our_marks(raw: bytes) -> bool:
    """Return whether a sidecar may have properties of ours, without parsing it."""
    return NAMESPACES[OURS].encode() in raw


def marked_names(packet: Packet) -> set[str]:
    """Return our keywords in a packet, folded."""
    return {fold_level(path[-1]) for place in LISTS for path in place.marked(packet)}


def own_keywords(packet: Packet) -> list[str]:
    """Return the keywords that are not ours, the last level of each."""
    return [path[-1] for place in LISTS for path in place.own(packet)]


def without_ours(raw: bytes, elsewhere: Collection[str] = ()) -> Earlier:
    """Return a sidecar without our tags: as it was before, or what other programs left of it.

    In what they left, a list that we made is removed if it holds nothing but what we put there, and
    the person's keywords among that are still in the lists that we did not make.

    Args:
        elsewhere: further keywords of the person, in IPTC.

    Raises:
        ValueError: the sidecar cannot be read; see `Packet`.
    """
    packet = Packet(raw)
    earlier = unseal(raw, packet)
    if earlier is not None:
        return earlier
    made = bool(packet.values(_MADE_FILE))
    own = {place: place.own(packet) for place in LISTS}
    theirs = {fold_level(path[-1]) for paths in own.values() for path in paths}
    levels = levels_of_ours(packet)
    SUBJECT.remove(
        packet, [path for path in SUBJECT.paths(packet) if fold_level(path[0]) in levels]
    )
    for place in LISTS:
        marked = place.marked(packet)
        place.remove(
            packet,
            [one for one in marked if fold_level(one[-1]) not in theirs or one in own[place]],
        )
    made_lists = [place for place in LISTS if place.copied(packet)]
    kept = OwnKeywords(packet, [place for place in LISTS if place not in made_lists])
    names = {fold_level(name) for name in elsewhere}
    for place in made_lists:
        left = place.paths(packet)
        if set(left) <= set(place.copied(packet)) and all(
            kept.hold(path) or fold_level(path[-1]) in names for path in left
        ):
            packet.discard(place.keywords)
    if not packet.remove_ours():
        return Earlier(raw)
    return Earlier(None if made and packet.is_empty else packet.to_bytes())


def _refused(packet: Packet) -> set[str]:
    """Return the names of our tags that a person removed from dc:subject."""
    left = Counter(SUBJECT.marked(packet)) - Counter(SUBJECT.paths(packet))
    return {fold_level(path[-1]) for path in left}


def _add(
    packet: Packet, tags: Sequence[Tag], theirs: OwnKeywords
) -> dict[KeywordList, list[KeywordPath]]:
    """Add tags to the lists that lack them, and return those that are not a person's.

    Lists that some program reads before all others are made, with the person's keywords in them.
    """
    spelled = [tag.spelled_as(theirs) for tag in tags]
    kept = [tag for tag in spelled if tag.name in theirs]
    ours = [tag for tag in spelled if tag.name not in theirs]
    added: dict[KeywordList, list[KeywordPath]] = {}
    for place in LISTS if tags else ():
        if not place.paths(packet):
            if place not in FIRST:
                continue
            place.add(packet, place.fitting(theirs.paths))
        there = {fold_level(level) for path in place.paths(packet) for level in path}
        missing = [tag for tag in ours if fold_level(tag.name) not in there]
        added[place] = _paths(place, missing, among=spelled)
        lacking = [tag for tag in kept if fold_level(tag.name) not in there]
        place.add(packet, [*_paths(place, lacking, among=kept), *added[place]])
    return added


def _paths(place: KeywordList, tags: Sequence[Tag], among: Sequence[Tag]) -> list[KeywordPath]:
    """Return the paths of tags in a list; omit paths that are prefixes of another tag's path."""
    passed = {path[:end] for tag in among for path in tag.paths for end in range(1, len(path))}
    if not place.separator:
        passed = set()
    return place.fitting([path for tag in tags for path in tag.paths if path not in passed])


def _snapshot(packet: Packet) -> dict[Property, Counter[str]]:
    """Return all values that `retag` may change."""
    lists = (one for place in LISTS for one in (place.keywords, place.mark, place.copies))
    others = (ADDED_LEVELS, _MODEL, _WEIGHTS, _MADE_FILE)
    return {one: Counter(packet.values(one)) for one in (*lists, *others)}
