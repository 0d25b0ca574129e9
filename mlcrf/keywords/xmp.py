"""Parse XMP packets safely, and read and change lists of texts; the rest is kept.

Source: ISO 16684-1 (XMP), sections 6 and 7; RDF/XML in the forms that it allows.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lxml import etree

from mlcrf.version import __version__

MAX_BYTES = 16 * 2**20  # sidecars with long editing histories have several hundred kilobytes

OURS = "mlcrf"
NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "MicrosoftPhoto0": "http://ns.microsoft.com/photo/1.0",  # as exiftool writes it
    "mediapro": "http://ns.iview-multimedia.com/mediapro/1.0/",
    "acdsee": "http://ns.acdsee.com/iptc/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    OURS: "urn:mlcrf:tags/1.0/",
}
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_ROOT, _DESCRIPTION, _ITEM = f"{{{_RDF}}}RDF", f"{{{_RDF}}}Description", f"{{{_RDF}}}li"
_ABOUT, _VALUE = f"{{{_RDF}}}about", f"{{{_RDF}}}value"
_NODE_ID = f"{{{_RDF}}}nodeID"
_NUMBERED = re.compile(
    re.escape(f"{{{_RDF}}}_") + r"\d+"
)  # rdf:_1, which RDF allows in place of rdf:li
_CONTAINERS = tuple(f"{{{_RDF}}}{kind}" for kind in ("Bag", "Seq", "Alt"))
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_PROPERTIES = ("{" + _RDF, "{http://www.w3.org/XML/1998/namespace}")

_NAMES = " ".join(f'xmlns:{name}="{NAMESPACES[name]}"' for name in ("dc", "lr", "digiKam"))
_NEW = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="mlcrf {__version__}">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about="" {_NAMES}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@dataclass(frozen=True)
class Property:
    """A property: its usual prefix, its name, and the kind of list for its values."""

    prefix: str
    name: str
    container: Literal["Bag", "Seq", "Alt"] = "Bag"

    @cached_property
    def tag(self) -> str:
        return f"{{{NAMESPACES[self.prefix]}}}{self.name}"

    def __str__(self) -> str:
        return f"{self.prefix}:{self.name}"


class DamagedXmpError(ValueError):
    """XMP that cannot be read; the text says why."""


def parse_xml(raw: bytes, *, huge: bool = False) -> etree._Element:
    """Parse XML without loading or expanding anything.

    Args:
        huge: allow texts of more than 10 MB.

    Raises:
        DamagedXmpError: not XML, damaged, or with a DOCTYPE.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=huge
    )
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as error:
        raise DamagedXmpError(f"it is not XML: {' '.join(str(error.msg).split())}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise DamagedXmpError("it declares a document type, which is not allowed")
    return root


def without_padding(raw: bytes) -> bytes:
    """Return XMP without the zeros and spaces that some programs leave after it in an image."""
    return raw if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else raw.rstrip(b"\0 \n")


class Packet:
    """An XMP packet, such as the content of a sidecar.

    Args:
        huge: read it whatever its size.

    Raises:
        DamagedXmpError: not XMP, damaged, too large, or with a DOCTYPE (not used by XMP, and it
            could declare entities).
    """

    def __init__(self, raw: bytes, *, huge: bool = False) -> None:
        if len(raw) > MAX_BYTES and not huge:
            raise DamagedXmpError(f"it has more than {MAX_BYTES // 2**20} MB")
        root = parse_xml(raw, huge=huge)
        self._tree = root.getroottree()
        found = root if root.tag == _ROOT else next(root.iter(_ROOT), None)
        if found is None:
            raise DamagedXmpError("it contains no rdf:RDF")
        self._rdf = found
        self._by_tag: dict[str, list[str | etree._Element]] | None = None
        self._declared = raw.startswith((b"<?xml ", b"\xef\xbb\xbf<?xml "))

    @classmethod
    def new(cls) -> "Packet":
        """Return a packet without properties."""
        return cls(_NEW.encode())

    def to_bytes(self) -> bytes:
        """Return the packet as UTF-8, with the instructions and comments around it."""
        root = self._tree.getroot()
        parts = [*reversed(list(root.itersiblings(preceding=True))), root, *root.itersiblings()]
        lines = [etree.tostring(part, encoding="UTF-8", with_tail=False) for part in parts]
        if self._declared:
            lines.insert(0, b'<?xml version="1.0" encoding="UTF-8"?>')
        return b"\n".join(lines) + b"\n"

    @property
    def is_empty(self) -> bool:
        """True if it has no properties."""
        return not any(len(one) or self._attributes(one) for one in self._descriptions())

    def values(self, wanted: Property) -> list[str]:
        """Return the texts of a property, in any form that RDF allows, without empty texts."""
        texts: list[str] = []
        for found in self._properties().get(wanted.tag, ()):
            if isinstance(found, str):
                texts.append(found)
            else:
                texts += [_text(item) for item in self._items(found) or [found]]
        return [text.strip() for text in texts if text.strip()]

    def add(self, wanted: Property, values: Iterable[str]) -> None:
        """Append values to a property's list, which is created if missing."""
        container = None
        for value in values:
            if container is None:
                container = self._container(wanted)
            item = etree.Element(_ITEM)
            item.text = value
            if wanted.container == "Alt":
                item.set(_LANGUAGE, "x-default")
            _append(container, item)

    def set_text(self, wanted: Property, text: str) -> None:
        """Make a property a single text."""
        self.discard(wanted)
        self._property(wanted).text = text

    def discard(self, wanted: Property) -> None:
        """Remove a property in all its forms."""
        for description in self._descriptions():
            if wanted.tag in description.attrib:
                del description.attrib[wanted.tag]
        for element in self._elements(wanted):
            node = self._referenced(element)
            if node is not None:
                _remove(node)
            _remove(element)
        self._changed()

    def remove(self, wanted: Property, values: Iterable[str]) -> None:
        """Remove the last occurrence of each value; also remove a list that becomes empty."""
        left = Counter(values)
        items = [item for element in self._elements(wanted) for item in self._items(element)]
        for item in reversed(items):
            text = _text(item).strip()
            if left[text]:
                left[text] -= 1
                _remove(item)
        if items and not self.values(wanted):
            self.discard(wanted)

    def extend(self, other: "Packet") -> None:
        """Move all properties of another packet into this one."""
        for description in list(other._descriptions()):
            _append(self._rdf, description)
        self._changed()

    def drop(self, unwanted: Callable[[str, int], bool]) -> None:
        """Remove properties by their names, `{namespace}name`, and numbers of characters."""
        for description in self._descriptions():
            for name in self._attributes(description):
                if unwanted(name, len(description.get(name, ""))):
                    del description.attrib[name]
            for element in list(description.iterchildren(etree.Element)):
                text = etree.tostring(element, encoding="unicode", with_tail=False)
                if unwanted(str(element.tag), len(text)):
                    _remove(element)
        self._changed()

    def remove_ours(self) -> bool:
        """Remove all properties of our namespace, and descriptions that become empty.

        Returns:
            Whether there was one.
        """
        start = f"{{{NAMESPACES[OURS]}}}"
        found = False
        for description in list(self._descriptions()):
            before = len(description) + len(self._attributes(description))
            for name in [name for name in self._attributes(description) if name.startswith(start)]:
                del description.attrib[name]
            for element in description.findall(f"{start}*"):
                _remove(element)
            after = len(description) + len(self._attributes(description))
            found = found or after < before
            if before and not after and len(list(self._descriptions())) > 1:
                _remove(description)
        self._changed()
        return found

    def _properties(self) -> dict[str, list[str | etree._Element]]:
        """Return all properties by tag: attributes, then elements. `_changed` forgets them."""
        if self._by_tag is None:
            self._by_tag = {}
            for description in self._descriptions():
                for name, text in description.attrib.items():
                    self._by_tag.setdefault(str(name), []).append(str(text))
            for description in self._descriptions():
                for element in description.iterchildren(etree.Element):
                    self._by_tag.setdefault(str(element.tag), []).append(element)
        return self._by_tag

    def _changed(self) -> None:
        self._by_tag = None

    def _descriptions(self) -> Iterator[etree._Element]:
        return self._rdf.iterchildren(_DESCRIPTION)

    @staticmethod
    def _attributes(description: etree._Element) -> list[str]:
        names = [str(name) for name in description.attrib]
        return [name for name in names if not name.startswith(_NOT_PROPERTIES)]

    def _elements(self, wanted: Property) -> list[etree._Element]:
        found = self._properties().get(wanted.tag, ())
        return [one for one in found if not isinstance(one, str)]

    def _referenced(self, element: etree._Element) -> etree._Element | None:
        """Return the node that a property names by rdf:nodeID, or None."""
        name = element.get(_NODE_ID)
        nodes = self._rdf.iter(*_CONTAINERS) if name is not None else ()
        return next((node for node in nodes if node.get(_NODE_ID) == name), None)

    def _items(self, element: etree._Element) -> list[etree._Element]:
        """Return the items of a property's list; none if it is not a list."""
        node = self._referenced(element)
        places = [element if node is None else node, *element.iterchildren(*_CONTAINERS)]
        return [
            item
            for place in places
            for item in place.iterchildren(etree.Element)
            if item.tag == _ITEM or _NUMBERED.fullmatch(str(item.tag))
        ]

    def _container(self, wanted: Property) -> etree._Element:
        """Return the list of a property; any other form than one plain list is made one."""
        found = self._properties().get(wanted.tag, ())
        if len(found) == 1 and not isinstance(found[0], str) and len(found[0]) == 1:
            (container,) = found[0]
            plain = all(item.tag == _ITEM for item in container.iterchildren(etree.Element))
            if container.tag in _CONTAINERS[:2] and plain:
                return container
        values = self.values(wanted)
        self.discard(wanted)
        container = etree.Element(f"{{{_RDF}}}{wanted.container}")
        _append(self._property(wanted), container)
        self.add(wanted, values)
        return container

    def _property(self, wanted: Property) -> etree._Element:
        """Return a new, empty element for a property.

        It is added to the first description that declares its namespace, else to the first; our own
        properties get a separate description, which can be removed without a trace.
        """
        uri = NAMESPACES[wanted.prefix]
        there = list(self._descriptions())
        place = next((one for one in there if uri in one.nsmap.values()), None)
        if place is None and there and wanted.prefix != OURS:
            place = there[0]
        if place is None:
            about = there[0].get(_ABOUT, "") if there else ""
            place = etree.Element(_DESCRIPTION, {_ABOUT: about}, nsmap={wanted.prefix: uri})
            _append(self._rdf, place)
        new_names = {} if uri in place.nsmap.values() else {wanted.prefix: uri}
        element = etree.Element(wanted.tag, nsmap=new_names or None)
        _append(place, element)
        self._changed()
        return element


def _text(element: etree._Element) -> str:
    """Return the text of a property or an item; with qualifiers it is one level deeper."""
    value = element.find(f".//{_VALUE}") if len(element) else None
    if value is None:
        for one in element.iter(etree.Element):
            if _VALUE in one.attrib:  # the same in RDF's short form
                return str(one.attrib[_VALUE])
    return "".join(map(str, (element if value is None else value).itertext()))


def _append(parent: etree._Element, child: etree._Element) -> None:
    """Append a child with the parent's indentation, or on a line of its own."""
    if len(parent):
        child.tail, parent[-1].tail = parent[-1].tail, parent.text
    else:
        before, above = parent.getprevious(), parent.getparent()
        space = before.tail if before is not None else above.text if above is not None else ""
        indent = "\n" + (space or "").rpartition("\n")[2]
        parent.text, child.tail = f"{indent} ", indent
    parent.append(child)


def _remove(child: etree._Element) -> None:
    parent, before = child.getparent(), child.getprevious()
    assert parent is not None
    if child.getnext() is None:
        if before is not None:
            before.tail = child.tail
        else:
            parent.text = None
    parent.remove(child)
