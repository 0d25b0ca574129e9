"""The segments of a JPEG, without a decoder: XMP apart from IPTC, pixels, and the rest."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlcrf.keywords.xmp import without_padding

_XMP, _EXTENDED_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_START, _START_OF_SCAN, _COMMENT = b"\xff\xd8", 0xDA, 0xFE
_APP0, _APP1, _APP13, _APP15 = 0xE0, 0xE1, 0xED, 0xEF
_IPTC, _IPTC_DIGEST = 0x0404, 0x0425  # resources of Photoshop


@dataclass(frozen=True)
class JpegSegments:
    """The segments of a JPEG, by what they hold.

    Attributes:
        xmp: its XMP packet; None if it has none.
        has_iptc: True if it has IPTC.
        pixels: what the image is decoded from, and all that follows it.
        others: other segments, and resources of Photoshop, but XMP and IPTC.
    """

    xmp: bytes | None
    has_iptc: bool
    pixels: tuple[bytes, ...]
    others: tuple[bytes, ...]

    @classmethod
    def split(cls, content: bytes) -> "JpegSegments":
        """Split the content of a JPEG.

        Raises:
            ValueError: its segments are damaged, or its XMP is in several.
        """
        packets: list[bytes] = []
        pixels: list[bytes] = []
        others: list[bytes] = []
        photoshop = b""
        for marker, segment, body in _segments(content):
            if marker == _APP1 and body.startswith(_XMP):
                packets.append(without_padding(body.removeprefix(_XMP)))
            elif marker == _APP13 and body.startswith(_PHOTOSHOP):
                photoshop += body.removeprefix(_PHOTOSHOP)
            elif _APP0 <= marker <= _APP15 or marker == _COMMENT:
                others.append(segment)
            else:
                pixels.append(segment)
            if len(packets) > 1 or (marker == _APP1 and body.startswith(_EXTENDED_XMP)):
                raise ValueError("it has XMP in several segments")
        resources = list(_resources(photoshop))
        others += [data for kind, data in resources if kind not in (_IPTC, _IPTC_DIGEST)]
        return cls(
            packets[0] if packets else None,
            any(kind == _IPTC for kind, _ in resources),
            tuple(pixels),
            tuple(others),
        )


def _segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the marker of each segment, the segment, and its body; the last has all that follows.

    Raises:
        ValueError: they are damaged.
    """
    at = len(_START)
    while True:
        start = at
        while content[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        marker, size = content[at + 1 : at + 2], content[at + 2 : at + 4]
        if content[at : at + 1] != b"\xff" or len(size) < 2:
            raise ValueError("its segments are damaged")
        if marker[0] == _START_OF_SCAN:
            yield marker[0], content[start:], b""
            return
        end = at + 2 + int.from_bytes(size, "big")
        yield marker[0], content[start:end], content[at + 4 : end]
        at = end


def _resources(photoshop: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each resource; what cannot be read, as one without a number.

    Source: Adobe Photoshop File Formats Specification (2019), *Image Resource Blocks*.
    """
    at = 0
    while at < len(photoshop):
        kind = int.from_bytes(photoshop[at + 4 : at + 6], "big")
        after_name = at + 6 + (photoshop[at + 6] // 2 + 1) * 2 if at + 6 < len(photoshop) else at
        data = after_name + 4
        size = int.from_bytes(photoshop[after_name:data], "big")
        if photoshop[at : at + 4] != b"8BIM" or data + size > len(photoshop):
            yield -1, photoshop[at:]
            return
        yield kind, photoshop[at : data + size]
        at = data + size + size % 2
