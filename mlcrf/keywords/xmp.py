"""Parse XMP packets safely, and read and change lists of texts; the rest is kept.

Source: ISO 16684-1 (XMP), sections 6 and 7; RDF/XML in the forms that it allows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lxml import etree

from mlcrf.version import __version__

MAX_BYTES = 16 * 2**20  # sidecars with long editing histories have several hundred kilobytes

OURS = "mlcrf"
NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    OURS: "urn:mlcrf:tags/1.0/",
}
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_ROOT, _DESCRIPTION, _ITEM = f"{{{_RDF}}}RDF", f"{{{_RDF}}}Description", f"{{{_RDF}}}li"
_ABOUT = f"{{{_RDF}}}about"
_CONTAINERS = tuple(f"{{{_RDF}}}{kind}" for kind in ("Bag", "Seq", "Alt"))
_NOT_PROPERTIES = ("{" + _RDF, "{http://www.w3.org/XML/1998/namespace}")

_NAMES = " ".join(f'xmlns:{name}="{uri}"' for name, uri in NAMESPACES.items() if name != OURS)
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
    container: Literal["Bag", "Seq"] = "Bag"

    @property
    def tag(self) -> str:
        return f"{{{NAMESPACES[self.prefix]}}}{self.name}"


class Packet:
    """An XMP packet, such as the content of a sidecar.

    Raises:
        ValueError: not XMP, damaged, too large, or with a DOCTYPE (not used by XMP, and it could
            declare entities).
    """

    def __init__(self, raw: bytes) -> None:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has {len(raw)} bytes; the limit is {MAX_BYTES}")
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
        )
        try:
            root = etree.fromstring(raw, parser)
        except etree.XMLSyntaxError as error:
            raise ValueError(f"it is not XML: {' '.join(str(error.msg).split())}") from error
        self._tree = root.getroottree()
        if self._tree.docinfo.internalDTD is not None:
            raise ValueError("it declares a document type, which is not allowed in XMP")
        found = root if root.tag == _ROOT else next(root.iter(_ROOT), None)
        if found is None:
            raise ValueError("it contains no rdf:RDF")
        self._rdf = found
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
        texts = [_item_text(item) for item in self._items(wanted)]
        for description in self._descriptions():
            texts.append(description.get(wanted.tag, ""))
            texts += [
                one.text or "" for one in description.iterchildren(wanted.tag) if not len(one)
            ]
        return [text.strip() for text in texts if text.strip()]

    def add(self, wanted: Property, values: Iterable[str]) -> None:
        """Append values to a property's list, which is created if missing."""
        container = None
        for value in values:
            if container is None:
                container = self._container(wanted)
            item = etree.Element(_ITEM)
            item.text = value
            _append(container, item)

    def add_text(self, wanted: Property, text: str) -> None:
        """Add a property with a single text."""
        self._property(wanted).text = text

    def remove(self, wanted: Property, values: Iterable[str]) -> None:
        """Remove the last occurrence of each value; also remove a list that becomes empty."""
        left = Counter(values)
        for item in reversed(list(self._items(wanted))):
            text = _item_text(item).strip()
            if left[text]:
                left[text] -= 1
                container = item.getparent()
                assert container is not None
                _remove(item)
                if not len(container):
                    element = container.getparent()
                    assert element is not None
                    _remove(element)

    def remove_ours(self) -> None:
        """Remove all properties of our namespace, and descriptions that become empty."""
        start = f"{{{NAMESPACES[OURS]}}}"
        for description in list(self._descriptions()):
            before = len(description) + len(self._attributes(description))
            for name in [name for name in self._attributes(description) if name.startswith(start)]:
                del description.attrib[name]
            for element in description.findall(f"{start}*"):
                _remove(element)
            after = len(description) + len(self._attributes(description))
            if before and not after and len(list(self._descriptions())) > 1:
                _remove(description)

    def _descriptions(self) -> Iterator[etree._Element]:
        return self._rdf.iterchildren(_DESCRIPTION)

    @staticmethod
    def _attributes(description: etree._Element) -> list[str]:
        names = [str(name) for name in description.attrib]
        return [name for name in names if not name.startswith(_NOT_PROPERTIES)]

    def _items(self, wanted: Property) -> Iterator[etree._Element]:
        for description in self._descriptions():
            for element in description.iterchildren(wanted.tag):
                for container in element.iterchildren(*_CONTAINERS):
                    yield from container.iterchildren(_ITEM)

    def _container(self, wanted: Property) -> etree._Element:
        """Return the list of a property; a single value is moved into a new list."""
        alone = []
        for description in self._descriptions():
            if wanted.tag in description.attrib:
                alone.append(str(description.attrib.pop(wanted.tag)))
            for element in description.findall(wanted.tag):
                container = next(element.iterchildren(*_CONTAINERS), None)
                if container is not None:
                    return container
                alone.append(element.text or "")
                _remove(element)
        container = etree.Element(f"{{{_RDF}}}{wanted.container}")
        _append(self._property(wanted), container)
        self.add(wanted, [text.strip() for text in alone if text.strip()])
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
        return element


def _item_text(item: etree._Element) -> str:
    """Return the text of a list's item; with qualifiers it is one level deeper."""
    value = item.find(f".//{{{_RDF}}}value") if len(item) else None
    return (item.text if value is None else value.text) or ""


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
