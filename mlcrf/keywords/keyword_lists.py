"""The lists of keywords that programs keep in XMP, and the order in which each program reads them.

A keyword is a path, from its topmost level down: `("Places", "Sea")`, or `("Sea",)`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

from mlcrf.keywords.xmp import OURS, Packet, Property, parse_xml
from mlcrf.labels import fold

KeywordPath = tuple[str, ...]

# What stands in a level for the sign that separates levels: as digiKam writes `/`, and Immich `|`.
_STAND_IN = {"/": "\\", "|": "/"}
_ONE_SIGN = str.maketrans({"|": "/", "\\": "/"})


def fold_level(name: str) -> str:
    """Return a level in a form where case does not matter, nor what stands for a separator."""
    return fold(name).translate(_ONE_SIGN)


@dataclass(frozen=True)
class KeywordList:
    """A property with keywords, and our mark, a property that lists the values that we added.

    Attributes:
        separator: of levels; "" for a list without levels.
    """

    keywords: Property
    separator: str = ""

    @property
    def mark(self) -> Property:
        """Our property with the values that we added."""
        return self._named("added")

    @property
    def copies(self) -> Property:
        """Our property with a person's keywords that a list got when we made it."""
        return self._named("copied")

    def _named(self, what: str) -> Property:
        """Return a name that no other property has, as some programs do not show namespaces."""
        name = self.keywords.name
        return Property(OURS, f"{what}{name[0].upper()}{name[1:]}")

    def paths(self, packet: Packet) -> list[KeywordPath]:
        """Return the keywords in the list."""
        return [path for value in packet.values(self.keywords) if (path := self.split(value))]

    def marked(self, packet: Packet) -> list[KeywordPath]:
        """Return the keywords that we added."""
        return [self.split(value) for value in packet.values(self.mark)]

    def copied(self, packet: Packet) -> list[KeywordPath]:
        """Return a person's keywords that the list got when we made it; none if we did not."""
        return [self.split(value) for value in packet.values(self.copies)]

    def own(self, packet: Packet) -> list[KeywordPath]:
        """Return the keywords that we did not add."""
        return list((Counter(self.paths(packet)) - Counter(self.marked(packet))).elements())

    def add(self, packet: Packet, paths: Iterable[KeywordPath]) -> None:
        """Append keywords."""
        packet.add(self.keywords, map(self.join, paths))

    def remove(self, packet: Packet, paths: Iterable[KeywordPath]) -> None:
        """Remove the last occurrence of each keyword."""
        packet.remove(self.keywords, map(self.join, paths))

    def note(self, packet: Packet, paths: Iterable[KeywordPath]) -> None:
        """Mark keywords as added by us."""
        packet.add(self.mark, map(self.join, paths))

    def note_copies(self, packet: Packet) -> None:
        """Mark all keywords that we did not add as copies."""
        packet.add(self.copies, map(self.join, self.own(packet)))

    def fitting(self, paths: Iterable[KeywordPath]) -> list[KeywordPath]:
        """Return distinct keywords as the list can hold them: only last levels without levels."""
        fitting = (path if self.separator else path[-1:] for path in paths)
        return list({_folded(path): path for path in fitting}.values())

    def split(self, value: str) -> KeywordPath:
        """Return the levels of a value."""
        levels = value.split(self.separator) if self.separator else [value]
        return tuple(level.strip() for level in levels if level.strip())

    def join(self, path: KeywordPath) -> str:
        """Return a keyword as a value of the list: without levels, its last level.

        A separator inside a level is replaced, so that the level stays one.
        """
        if not self.separator:
            return path[-1]
        stand_in = _STAND_IN[self.separator]
        return self.separator.join(level.replace(self.separator, stand_in) for level in path)


def _folded(path: KeywordPath) -> KeywordPath:
    return tuple(map(fold_level, path))


class _Subject(KeywordList):
    """dc:subject, to which programs such as darktable add all levels of keywords in other lists."""

    def own(self, packet: Packet) -> list[KeywordPath]:
        levels = levels_of_ours(packet)
        return [path for path in super().own(packet) if fold_level(path[0]) not in levels]


class _Categories(KeywordList):
    """Keywords of ACDSee: one text, XML in which assigned categories stand inside their parents.

    Source: as digiKam reads and writes them, core/libs/dmetadata/dmetadata_tags.cpp.
    """

    def paths(self, packet: Packet) -> list[KeywordPath]:
        return [
            tuple(reversed([_name(node), *map(_name, node.iterancestors("Category"))]))
            for root in self._roots(packet)
            for node in root.iter("Category")
            if node.get("Assigned") == "1"
        ]

    def add(self, packet: Packet, paths: Iterable[KeywordPath]) -> None:
        wanted = list(paths)
        for root in self._roots(packet) if wanted else ():
            for path in wanted:
                node = root
                for level in path:
                    node = _child(node, level)
                node.set("Assigned", "1")
            self._write(packet, root)

    def remove(self, packet: Packet, paths: Iterable[KeywordPath]) -> None:
        unwanted = list(paths)
        for root in self._roots(packet) if unwanted else ():
            for path in unwanted:
                nodes = [root]
                for level in path:
                    nodes.append(_child(nodes[-1], level))
                nodes[-1].set("Assigned", "0")
                while len(nodes) > 1 and not len(nodes[-1]) and nodes[-1].get("Assigned") != "1":
                    leaf = nodes.pop()
                    nodes[-1].remove(leaf)
            self._write(packet, root)

    def _roots(self, packet: Packet) -> list[etree._Element]:
        """Return the parsed text; empty if there is none, or it is damaged."""
        for value in packet.values(self.keywords):
            try:
                return [parse_xml(value.encode())]
            except ValueError:  # another program's damage; it stays as it is
                return []
        return []

    def _write(self, packet: Packet, root: etree._Element) -> None:
        packet.set_text(self.keywords, etree.tostring(root, encoding="unicode"))


def _name(category: etree._Element) -> str:
    return (category.text or "").strip()


def _child(node: etree._Element, level: str) -> etree._Element:
    """Return the category of a name in another; a new one if there is none."""
    for one in node.iterchildren("Category"):
        if _name(one) == level:
            return one
    new = etree.SubElement(node, "Category", Assigned="0")
    new.text = level
    return new


SUBJECT = _Subject(Property("dc", "subject"))
HIERARCHICAL_SUBJECT = KeywordList(Property("lr", "hierarchicalSubject"), "|")
TAGS_LIST = KeywordList(Property("digiKam", "TagsList", "Seq"), "/")
LAST_KEYWORD = KeywordList(Property("MicrosoftPhoto", "LastKeywordXMP"), "/")
LAST_KEYWORD_0 = KeywordList(Property("MicrosoftPhoto0", "LastKeywordXMP"), "/")
CATALOG_SETS = KeywordList(Property("mediapro", "CatalogSets"), "|")
CATEGORIES = _Categories(Property("acdsee", "categories"), "/")

READING_ORDERS = {
    # core/libs/dmetadata/dmetadatasettingscontainer.cpp, defaultTagValues()
    "digiKam": (
        TAGS_LIST,
        LAST_KEYWORD,
        LAST_KEYWORD_0,
        HIERARCHICAL_SUBJECT,
        CATALOG_SETS,
        CATEGORIES,
        SUBJECT,
    ),
    # src/common/exif.cc, _exif_decode_xmp_data()
    "darktable": (HIERARCHICAL_SUBJECT, SUBJECT),
    # server/src/services/metadata.service.ts, getTagList(); then IPTC in the image
    "Immich": (TAGS_LIST, HIERARCHICAL_SUBJECT),
    # internal/meta/xmp_document.go
    "PhotoPrism": (SUBJECT,),
    # not published; as Lightroom Classic writes them itself
    "Lightroom": (HIERARCHICAL_SUBJECT, SUBJECT),
}
"""The lists of which each program shows the first that is not empty."""

LISTS = tuple(dict.fromkeys(one for order in READING_ORDERS.values() for one in order))
FIRST = tuple(dict.fromkeys(order[0] for order in READING_ORDERS.values()))
"""The lists that a sidecar needs so that every program finds all keywords in its first list."""


ADDED_LEVELS = Property(OURS, "addedLevels")
"""Our mark for names above our keywords that a person did not have."""


def levels_of_ours(packet: Packet) -> set[str]:
    """Return the names above our keywords, folded, that are no levels of a person's keywords."""
    added = {fold_level(name) for name in packet.values(ADDED_LEVELS)}
    if not added:
        return added
    others = (place for place in LISTS if place is not SUBJECT)
    return added - {
        fold_level(level) for one in others for path in one.own(packet) for level in path
    }


class OwnKeywords:
    """The keywords in a packet that are not ours; case does not matter.

    Args:
        lists: where to look.

    Attributes:
        paths: each keyword once; a name that is a level of another keyword only if it stands alone
            in a list with levels, too.
        levels: all names at any level, folded.
    """

    def __init__(self, packet: Packet, lists: Iterable[KeywordList] = LISTS) -> None:
        distinct: dict[KeywordPath, KeywordPath] = {}
        with_levels: set[KeywordPath] = set()
        for place in lists:
            for path in place.own(packet):
                folded = _folded(path)
                distinct.setdefault(folded, path)
                if place.separator:
                    with_levels.add(folded)
        self._folded = frozenset(distinct)
        self._names = {folded[-1] for folded in distinct}
        self.levels = {level for folded in distinct for level in folded}
        deep = {level for folded in distinct if len(folded) > 1 for level in folded}
        self.paths = [
            path
            for folded, path in distinct.items()
            if folded in with_levels or folded[0] not in deep
        ]

    def __contains__(self, name: str) -> bool:
        return fold_level(name) in self._names

    def hold(self, path: KeywordPath) -> bool:
        """Return whether a keyword is among them; a name without levels may be at any level."""
        folded = _folded(path)
        return folded in self._folded or (len(folded) == 1 and folded[0] in self.levels)

    def named(self, name: str) -> tuple[KeywordPath, ...]:
        """Return the keywords of a name."""
        return tuple(path for path in self.paths if fold_level(path[-1]) == fold_level(name))
