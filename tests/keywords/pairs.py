"""Images and sidecars as programs leave them: drawn lists, forms of RDF, encodings and names."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

from tests.keywords.pictures import iptc_of, make_photo

KeywordPath = tuple[str, ...]
KEYWORDS = [
    ("Sea",),
    ("Places", "Italy", "Lago di Como"),
    ("Places", "Sea"),
    ("Nature", "Tree"),
    ("Grandma's <garden> & more",),
    ("straße",),
    ("日本",),
    ("people",),
    ("Who", "people", "Ann"),
    ("x" * 300,),
    ("Film", "B/W"),
    ("B/W",),
    ("Orange",),
    ("Fruit", "Orange"),
]
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "MicrosoftPhoto0": "http://ns.microsoft.com/photo/1.0",
    "mediapro": "http://ns.iview-multimedia.com/mediapro/1.0/",
    "acdsee": "http://ns.acdsee.com/iptc/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "darktable": "http://darktable.sf.net/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
}
LISTS = {
    "dc:subject": "",
    "lr:hierarchicalSubject": "|",
    "digiKam:TagsList": "/",
    "MicrosoftPhoto:LastKeywordXMP": "/",
    "MicrosoftPhoto0:LastKeywordXMP": "/",
    "mediapro:CatalogSets": "|",
    "acdsee:categories": "/",
}
OTHERS = [
    "<xmp:Rating>4</xmp:Rating>",
    '<darktable:history><rdf:Seq><rdf:li darktable:num="0" darktable:params="0aff"/></rdf:Seq>'
    "</darktable:history>",
    '<crs:ToneCurve rdf:parseType="Resource"><crs:x>1</crs:x></crs:ToneCurve>',
    '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">A title</rdf:li></rdf:Alt></dc:title>',
    "<!-- a comment -->",
]


def _items(values: list[str], tag: str = "rdf:li") -> str:
    return "".join(
        f"<{tag.format(at)}>{escape(one)}</{tag.format(at)}>" for at, one in enumerate(values, 1)
    )


def _resources(values: list[str]) -> str:
    return "".join(
        f"<rdf:li rdf:parseType='Resource'><rdf:value>{escape(one)}</rdf:value></rdf:li>"
        for one in values
    )


FORMS: dict[str, Callable[[str, list[str]], str]] = {
    "bag": lambda name, values: f"<{name}><rdf:Bag>{_items(values)}</rdf:Bag></{name}>",
    "seq": lambda name, values: f"<{name}>\n<rdf:Seq>\n{_items(values)}\n</rdf:Seq></{name}>",
    "alt": lambda name, values: f"<{name}><rdf:Alt>{_items(values)}</rdf:Alt></{name}>",
    "numbered": lambda name, values: (
        f"<{name}><rdf:Bag>{_items(values, 'rdf:_{}')}</rdf:Bag></{name}>"
    ),
    "qualified": lambda name, values: f"<{name}><rdf:Bag>{_resources(values)}</rdf:Bag></{name}>",
    "resource": lambda name, values: (
        f'<{name} rdf:parseType="Resource">{_items(values, "rdf:_{}")}</{name}>'
    ),
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "declared": lambda text: f'<?xml version="1.0" encoding="UTF-8"?>\r\n{text}'.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end first": lambda text: "\ufeff".encode("utf-16-be") + text.encode("utf-16-be"),
    "latin-1": lambda text: ('<?xml version="1.0" encoding="ISO-8859-1"?>\n' + text).encode(
        "latin-1", "xmlcharrefreplace"
    ),
}


@dataclass
class Pair:
    """A photo, perhaps a sidecar of it, and the person's keywords.

    Attributes:
        lists: keywords in each list of XMP, of the sidecar or, without one, of the photo.
        embedded: further keywords in the photo, if a program would look for them there.
    """

    photo: Path
    sidecar: Path | None = None
    lists: dict[str, list[KeywordPath]] = field(default_factory=dict)
    embedded: list[KeywordPath] = field(default_factory=list)


def joined(separator: str, path: KeywordPath) -> str:
    """A value of a list; digiKam puts a backslash where a level has its separator."""
    return separator.join(level.replace("/", "\\") if separator == "/" else level for level in path)


def _categories(paths: list[KeywordPath]) -> str:
    def nested(path: KeywordPath) -> str:
        inside = nested(path[1:]) if path[1:] else ""
        assigned = 0 if inside else 1
        return f'<Category Assigned="{assigned}">{escape(path[0])}{inside}</Category>'

    return f"<Categories>{''.join(map(nested, paths))}</Categories>"


def draw_sidecar(draw: random.Random) -> tuple[bytes, dict[str, list[KeywordPath]]]:
    """A packet, and the keywords that it holds."""
    names = draw.sample(sorted(LISTS), draw.randint(0, 4))
    if "MicrosoftPhoto0:LastKeywordXMP" in names and "MicrosoftPhoto:LastKeywordXMP" in names:
        names.remove("MicrosoftPhoto0:LastKeywordXMP")
    lists = {name: draw.sample(KEYWORDS, draw.randint(1, 4)) for name in names}
    if "dc:subject" in lists:
        lists["dc:subject"] = [path[-1:] for path in lists["dc:subject"]]
    attributes, bodies, nodes = "", [*draw.sample(OTHERS, draw.randint(0, 3))], ""
    for at, (name, paths) in enumerate(lists.items()):
        values = [joined(LISTS[name], path) for path in paths]
        if name == "acdsee:categories":
            bodies.append(f"<{name}>{escape(_categories(paths))}</{name}>")
        elif len(values) == 1 and draw.random() < 0.3:
            attributes += f" {name}={quoteattr(values[0])}"
        elif len(values) == 1 and draw.random() < 0.3:
            bodies.append(f"<{name}>{escape(values[0])}</{name}>")
        elif draw.random() < 0.1:
            bodies.append(f'<{name} rdf:nodeID="n{at}"/>')
            nodes += f'<rdf:Bag rdf:nodeID="n{at}">{_items(values)}</rdf:Bag>'
        else:
            bodies.append(FORMS[draw.choice(sorted(FORMS))](name, values))
    draw.shuffle(bodies)
    spaces = " ".join(f'xmlns:{name}="{uri}"' for name, uri in SPACES.items())
    if draw.random() < 0.3 and bodies:  # a description for each property, as exiftool writes
        texts = [
            f'<rdf:Description rdf:about="" {spaces}>{one}</rdf:Description>' for one in bodies
        ]
        bodies = [f'<rdf:Description rdf:about="" {spaces}{attributes}/>', *texts]
    else:
        start = f'<rdf:Description rdf:about="" {spaces}{attributes}>'
        bodies = [start, *bodies, "</rdf:Description>"]
    inside = draw.choice(["\n  ", ""]).join([*bodies, nodes])
    text = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/'
        f'22-rdf-syntax-ns#">{inside}</rdf:RDF></x:xmpmeta>'
    )
    if draw.random() < 0.3:
        text = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{text}<?xpacket end="w"?>'
        return draw.choice([str.encode, ENCODINGS["utf-16"]])(text), lists
    return ENCODINGS[draw.choice(sorted(ENCODINGS))](text), lists


def draw_photo(
    draw: random.Random, path: Path
) -> tuple[dict[str, list[KeywordPath]], list[KeywordPath]]:
    """Make a photo, and return its keywords in XMP, and in IPTC and EXIF."""
    xmp, iptc, exif = b"", b"", Image.Exif()
    lists: dict[str, list[KeywordPath]] = {}
    others: list[KeywordPath] = []
    if draw.random() < 0.3:
        xmp, lists = draw_sidecar(draw)
    if draw.random() < 0.3:
        iptc = iptc_of("Möwe".encode(), b"sea", b"Boat", utf8=True)
        others += [("Möwe",), ("sea",), ("Boat",)]
    if draw.random() < 0.2:
        exif[0x9C9E] = "Boat;Fähre;".encode("utf-16-le") + b"\0\0"
        others += [("Boat",), ("Fähre",)]
    make_photo(path, xmp=xmp, iptc=iptc, exif=exif)
    return lists, others


def draw_pairs(folder: Path, count: int) -> list[Pair]:
    """Photos in a folder; most have a sidecar, of either name."""
    pairs = []
    for number in range(count):
        draw = random.Random(number)
        pair = Pair(folder / f"{number:04}.jpg")
        pair.lists, pair.embedded = draw_photo(draw, pair.photo)
        if draw.random() < 0.7:
            name = draw.choice(["{0.name}.xmp", "{0.stem}.xmp"]).format(pair.photo)
            pair.sidecar = pair.photo.with_name(name)
            content, lists = draw_sidecar(draw)
            pair.sidecar.write_bytes(content)
            inside = [path for paths in pair.lists.values() for path in paths] + pair.embedded
            pair.lists, pair.embedded = lists, [] if lists else inside
        pairs.append(pair)
    return pairs
