"""Keywords inside a JPEG: planned as in a sidecar, written by exiftool, and checked afterwards."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlcrf.errors import MlcrfError
from mlcrf.keywords.exiftool import ExifTool
from mlcrf.keywords.keyword_lists import SUBJECT
from mlcrf.keywords.retagging import Author, Retagged, Tag, marked_names, retag
from mlcrf.keywords.xmp import Packet
from mlcrf.labels import fold

_XMP, _EXTENDED_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_MAX_XMP = 60_000  # a segment has at most 65,533 bytes
_MAX_IPTC_KEYWORD = 64
_START, _START_OF_SCAN = b"\xff\xd8", 0xDA
_APP1, _APP13 = 0xE1, 0xED


def is_jpeg(content: bytes) -> bool:
    """Return whether a file is a JPEG, by its first bytes."""
    return content.startswith(_START)


@dataclass(frozen=True)
class JpegParts:
    """The parts of a JPEG.

    Attributes:
        xmp: its XMP packet; None if it has none.
        has_iptc: True if it may have IPTC.
        others: all its segments but XMP and IPTC, the last with all that follows.
    """

    xmp: bytes | None
    has_iptc: bool
    others: tuple[bytes, ...]

    @classmethod
    def read(cls, content: bytes) -> "JpegParts":
        """Split the content of a JPEG.

        Raises:
            ValueError: its segments are damaged, or its XMP is in several.
        """
        packets: list[bytes] = []
        others: list[bytes] = []
        has_iptc, at = False, len(_START)
        while True:
            start = at
            while content[at : at + 2] == b"\xff\xff":  # fill bytes
                at += 1
            marker, size = content[at + 1 : at + 2], content[at + 2 : at + 4]
            if content[at : at + 1] != b"\xff" or len(size) < 2:
                raise ValueError("its segments are damaged")
            if marker[0] == _START_OF_SCAN:
                return cls(packets[0] if packets else None, has_iptc, (*others, content[start:]))
            body = content[at + 4 : at + 2 + int.from_bytes(size, "big")]
            at += 2 + int.from_bytes(size, "big")
            if marker[0] == _APP1 and body.startswith(_XMP):
                packets.append(body.removeprefix(_XMP).rstrip(b"\0 \n"))
            elif marker[0] == _APP13 and body.startswith(_PHOTOSHOP):
                has_iptc = True
            else:
                others.append(content[start:at])
            if len(packets) > 1 or body.startswith(_EXTENDED_XMP):
                raise ValueError("it has XMP in several segments")


@dataclass(frozen=True)
class JpegPlan:
    """New keywords of a JPEG that are not written yet."""

    before: JpegParts
    after: Retagged

    @property
    def changes(self) -> bool:
        """True if they differ from those in the file."""
        return self.after.content != self.before.xmp


def plan(
    content: bytes,
    tags: Sequence[Tag],
    author: Author | None,
    tool: ExifTool,
    new: Callable[[], Packet] = Packet.new,
) -> JpegPlan:
    """Plan our keywords in the XMP of a JPEG, by the rules of sidecars.

    A tag that is a person's keyword in IPTC is a person's in XMP, too.

    Raises:
        ValueError: its segments or its XMP cannot be read, or the new XMP is too large.
        MlcrfError: exiftool failed.
    """
    before = JpegParts.read(content)
    if tags and before.has_iptc:
        ours = set() if before.xmp is None else marked_names(Packet(before.xmp))
        theirs = {fold(one) for one in _Iptc.load(content, tool).keywords} - ours
        tags = [Tag(tag.name, tag.paths, tag.confirmed or fold(tag.name) in theirs) for tag in tags]
    after = retag(before.xmp, tags, author, new)
    if len(after.content or b"") > _MAX_XMP:
        raise ValueError(f"its XMP would have more than {_MAX_XMP} bytes")
    return JpegPlan(before, after)


def apply(plan: JpegPlan, content: bytes, tool: ExifTool) -> bytes:
    """Return a JPEG with planned keywords.

    IPTC gets them only where a photo has IPTC, as the Metadata Working Group (2010) advises.

    Raises:
        MlcrfError: exiftool failed, or changed more than XMP and IPTC.
    """
    was = set() if plan.before.xmp is None else marked_names(Packet(plan.before.xmp))
    packet = Packet.new() if plan.after.content is None else Packet(plan.after.content)
    there = {path[-1] for path in SUBJECT.paths(packet)}
    now = [path[-1] for path in SUBJECT.marked(packet) if path[-1] in there]
    with tempfile.TemporaryDirectory(prefix="mlcrf-") as folder:
        photo, xmp = Path(folder, "photo.jpg"), Path(folder, "packet.xmp")
        photo.write_bytes(content)
        words = ["-XMP:all="]
        if plan.after.content is not None:
            xmp.write_bytes(plan.after.content)
            words = [f"-XMP<={str(xmp).replace('%', '%%')}"]
        if plan.before.has_iptc:
            words += _Iptc.load(content, tool).changes(was, now)
        printed = tool.run(*words, "-overwrite_original", str(photo))
        written = photo.read_bytes()
    if "1 image files updated" not in printed:
        reason = next((line for line in printed.splitlines() if "rror" in line), printed)
        raise MlcrfError(f"exiftool: {reason.partition(' - ')[0].strip()}")
    try:
        same = JpegParts.read(written).others == plan.before.others
    except ValueError:
        same = False
    if not same:
        raise MlcrfError("exiftool would change more than keywords")
    return written


@dataclass(frozen=True)
class _Iptc:
    """The keywords of a photo in IPTC, and what decides how they can be changed."""

    keywords: tuple[str, ...]
    is_utf8: bool
    has_digest: bool  # noted by the last program that made XMP equal to IPTC, and still true

    @classmethod
    def load(cls, content: bytes, tool: ExifTool) -> "_Iptc":
        names = ("Keywords", "CodedCharacterSet", "IPTCDigest", "CurrentIPTCDigest")
        with tempfile.TemporaryDirectory(prefix="mlcrf-") as folder:
            photo = Path(folder, "photo.jpg")
            photo.write_bytes(content)
            wanted = [f"-IPTC:{name}" for name in names[:2]] + [f"-{name}" for name in names[2:]]
            printed = tool.run("-json", *wanted, str(photo))
        try:
            found = json.loads(printed, parse_int=str, parse_float=str)[0]
        except ValueError as error:
            raise MlcrfError(f"exiftool: {' '.join(printed.split())}") from error
        keywords, charset, noted, current = (found.get(name) for name in names)
        listed = keywords if isinstance(keywords, list) else [keywords] if keywords else []
        return cls(
            tuple(map(str, listed)), charset == "UTF8", noted is not None and noted == current
        )

    def changes(self, was: set[str], now: Sequence[str]) -> list[str]:
        """Return exiftool's words that remove keywords that were ours, and add those of now.

        IPTC holds 64 bytes a keyword, in an encoding that is known for ASCII or if declared.
        """
        fits = [
            one
            for one in now
            if len(one.encode()) <= _MAX_IPTC_KEYWORD
            and one.isprintable()
            and (one.isascii() or self.is_utf8)
        ]
        ours = [one for one in self.keywords if fold(one) in was and one.isprintable()]
        kept = [one for one in self.keywords if one not in ours or one in fits]
        words = [f"-IPTC:Keywords-={one}" for one in self.keywords if one not in kept]
        folded = {fold(one) for one in kept}
        words += [f"-IPTC:Keywords+={one}" for one in fits if fold(one) not in folded]
        return [*words, "-IPTCDigest=new"] if words and self.has_digest else words
