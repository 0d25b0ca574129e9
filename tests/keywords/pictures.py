"""Small JPEGs that carry keywords."""

from pathlib import Path

from PIL import Image

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>{}</rdf:Bag></dc:subject>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


def xmp_of(*keywords: str) -> bytes:
    """A packet with these in dc:subject."""
    return XMP.format("".join(f"<rdf:li>{one}</rdf:li>" for one in keywords)).encode()


def iptc_of(*keywords: bytes, utf8: bool = False) -> bytes:
    """IPTC data sets of these keywords."""
    sets = [(1, 90, b"\x1b%G")] if utf8 else []
    sets += [(2, 25, one) for one in keywords]
    return b"".join(
        bytes([0x1C, record, number]) + len(value).to_bytes(2, "big") + value
        for record, number, value in sets
    )


def segment_of(body: bytes, marker: int) -> bytes:
    """An application segment of a JPEG."""
    return bytes([0xFF, 0xE0 + marker]) + (len(body) + 2).to_bytes(2, "big") + body


def make_photo(
    path: Path, *, xmp: bytes = b"", iptc: bytes = b"", exif: Image.Exif | None = None
) -> Path:
    """A picture of 8 px with such metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    more = ({"xmp": xmp} if xmp else {}) | ({"exif": exif} if exif else {})
    Image.new("RGB", (8, 8)).save(path, **more)
    if iptc:
        block = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + b"\0" * (len(iptc) % 2)
        raw = path.read_bytes()
        path.write_bytes(raw[:2] + segment_of(b"Photoshop 3.0\0" + block, 13) + raw[2:])
    return path
