"""The metadata in an image as one XMP packet: what a new sidecar begins with.

Programs let a sidecar override the image, so one that lacked the title, rating or keywords in the
image would hide them. XMP comes first, then IPTC, then EXIF, as in the guidelines of the Metadata
Working Group (2010), section 5.
"""

import re
from collections.abc import Iterable

from PIL import ExifTags, ImageFile, IptcImagePlugin

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.images.opening import open_image
from mlcrf.images.raw_files import is_raw
from mlcrf.keywords.keyword_lists import LISTS, SUBJECT, KeywordPath, OwnKeywords, fold_level
from mlcrf.keywords.retagging import marked_names, without_ours
from mlcrf.keywords.xmp import DamagedXmpError, Packet, Property, without_padding

REPAIR = "remove it from the photo, as by exiftool -XMP:all= FILE"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_HAS_EXTENSION = Property("xmpNote", "HasExtendedXMP")
_RAW_HEAD = 2**20
_MAX_EXTENSION = 64 * 2**20
# Longer values are pictures and depth maps, which no program looks for here.
_MAX_VALUE = 64 * 2**10
# How a finished image was developed; by a sidecar with it, it would be developed so again. Colour
# labels, the one thing of darktable's that describes, stay.
_DEVELOPMENT = re.compile(
    r"\{http://darktable\.sf\.net/\}(?!colorlabels$)"
    r"|\{http://ns\.adobe\.com/camera-raw-(saved-)?settings/1\.0/\}"
)
_IPTC_CHARSET, _IPTC_KEYWORDS, _IPTC_UTF8 = (1, 90), (2, 25), b"\x1b%G"
_RATING = Property("xmp", "Rating")
_EXIF_RATING, _XP_TITLE, _XP_AUTHOR, _XP_KEYWORDS = 0x4746, 0x9C9B, 0x9C9D, 0x9C9E
_XML_FORBIDS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEXTS = (
    (Property("dc", "title", "Alt"), (2, 5), _XP_TITLE),
    (Property("dc", "description", "Alt"), (2, 120), ExifTags.Base.ImageDescription),
    (Property("dc", "creator", "Seq"), (2, 80), ExifTags.Base.Artist),
    (Property("dc", "creator", "Seq"), (2, 80), _XP_AUTHOR),
    (Property("dc", "rights", "Alt"), (2, 116), ExifTags.Base.Copyright),
)


def embedded_packet(photo: Image) -> Packet:
    """Return an image's XMP, completed by its IPTC and EXIF; without tags that we wrote.

    Keywords of all three are united. Title, description, creator, rights and rating are taken from
    the first that has them. Values of more than 64 KB are left out, and settings by which an image
    was developed, unless it is a RAW file.

    Raises:
        DataError: the image or its metadata cannot be read.

    Cost: reads the image's header.
    """
    try:
        with open_image(photo) as opened:
            raw = opened.info.get("xmp") or (_found_in(photo) if is_raw(photo) else b"")
            packet, ours = _xmp(opened, raw.encode() if isinstance(raw, str) else raw)
            if not is_raw(photo):
                packet.drop(lambda name, _: _DEVELOPMENT.match(name) is not None)
            _complete(packet, opened, ours)
    except DamagedXmpError as error:
        raise DataError(f"its XMP cannot be read: {error}; {REPAIR}", photo) from error
    except Exception as error:  # Pillow may raise any exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"its metadata cannot be read: {' '.join(reason.split())}", photo
        ) from error
    return packet


def _found_in(photo: Image) -> bytes:
    """Return the packet near the start of a RAW file whose other tags are read from its preview.

    Source: packet scanning, Adobe XMP Specification, part 3 (2020), section 2.
    """
    if photo.path is None:
        return b""
    with photo.open() as stream:
        head = stream.read(_RAW_HEAD)
    found = re.search(rb"<x:xmpmeta[ >].*?</x:xmpmeta>", head, re.DOTALL)
    return found[0] if found else b""


def _xmp(image: ImageFile.ImageFile, raw: bytes) -> tuple[Packet, set[str]]:
    """Return XMP without our tags, completed by its extension, and the names of our tags."""
    raw = without_padding(raw)
    if b"RDF" not in raw.replace(b"\0", b""):  # in UTF-16, too
        return Packet.new(), set()
    ours = marked_names(Packet(raw))
    content = without_ours(raw).content
    packet = Packet.new() if content is None else Packet(content)
    for name in packet.values(_HAS_EXTENSION):
        extension = _extension(image, name.encode())
        if extension:
            packet.extend(Packet(extension, huge=True))
    packet.discard(_HAS_EXTENSION)
    packet.drop(lambda _, length: length > _MAX_VALUE)
    return packet, ours


def _extension(image: ImageFile.ImageFile, name: bytes) -> bytes:
    """Return the extended XMP of a JPEG, in its parts; empty if it is not whole.

    Source: Adobe XMP Specification, part 3 (2020), section 1.1.3.1.
    """
    parts: dict[int, bytes] = {}
    length = 0
    for marker, segment in getattr(image, "applist", ()):
        start = _EXTENSION + name
        if marker == "APP1" and segment.startswith(start):
            length, offset = (
                int.from_bytes(segment[at : at + 4], "big") for at in (len(start), len(start) + 4)
            )
            parts[offset] = segment[len(start) + 8 :]
    whole = b"".join(parts[offset] for offset in sorted(parts))
    return whole if len(whole) == length <= _MAX_EXTENSION else b""


def _complete(packet: Packet, image: ImageFile.ImageFile, ours: set[str]) -> None:
    """Add to XMP what only IPTC and EXIF say."""
    iptc, exif = IptcImagePlugin.getiptcinfo(image) or {}, image.getexif()
    is_utf8 = iptc.get(_IPTC_CHARSET) == _IPTC_UTF8

    def iptc_texts(key: tuple[int, int]) -> list[str]:
        values = iptc.get(key, [])
        values = values if isinstance(values, list) else [values]
        return _cleaned(_decoded(one, is_utf8) for one in values)

    for wanted, iptc_key, exif_key in _TEXTS:
        texts = iptc_texts(iptc_key) or _cleaned([_exif_text(exif.get(exif_key))])
        if not packet.values(wanted):
            packet.add(wanted, texts[:1] if wanted.container == "Alt" else texts)
    rating = exif.get(_EXIF_RATING)
    if isinstance(rating, int) and rating and not packet.values(_RATING):
        packet.set_text(_RATING, str(rating))
    keywords = iptc_texts(_IPTC_KEYWORDS)
    keywords += _cleaned(_exif_text(exif.get(_XP_KEYWORDS)).split(";"))
    _add_keywords(packet, [(one,) for one in keywords if fold_level(one) not in ours])


def _add_keywords(packet: Packet, keywords: list[KeywordPath]) -> None:
    """Add keywords to the lists that there are, and to dc:subject.

    Programs that unite IPTC with one list of an image look only into that list of a sidecar.
    """
    if not keywords:
        return
    theirs = OwnKeywords(packet).paths
    for place in LISTS:
        there = {fold_level(level) for path in place.paths(packet) for level in path}
        new = [path for path in keywords if fold_level(path[-1]) not in there]
        if new and (there or place is SUBJECT):
            place.add(packet, place.fitting(new if there else [*theirs, *new]))


def _decoded(raw: bytes, is_utf8: bool = False) -> str:
    """Decode UTF-8 if declared or valid, else Latin-1, the usual encoding without declaration."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace") if is_utf8 else raw.decode("latin-1")


def _exif_text(value: object) -> str:
    """Decode a text of EXIF; those of Windows (`XP...`) are UTF-16 in bytes."""
    if isinstance(value, str):  # as Latin-1, by Pillow
        return _decoded(value.encode("latin-1", "replace"))
    raw = bytes(value) if isinstance(value, bytes | tuple) else b""
    return raw.decode("utf-16-le", "replace")


def _cleaned(texts: Iterable[str]) -> list[str]:
    """Return texts without what XML forbids and without space around; no empty ones."""
    cleaned = (_XML_FORBIDS.sub("", text).strip() for text in texts)
    return [text for text in cleaned if text]
