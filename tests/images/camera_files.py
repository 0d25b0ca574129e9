"""Make small RAW files in the structures of camera makers, each with a JPEG as its preview.

LibRaw identifies each as a file of its camera. The sensor data are of one value.
Source: https://exiftool.org/TagNames, and src/metadata of LibRaw.
"""

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from types import MappingProxyType

from PIL import ExifTags, Image

from tests.images.raw_photos import ASCII, BYTE, LONG, SHORT, Directory, Value

WIDTH, HEIGHT = 1200, 800
_SENSOR = b"\x10\x02" * (WIDTH * HEIGHT)
_TAKEN = b"2024:05:06 07:08:09\0"
_UNDEFINED = 7
_HEADER = b"II*\0\x08\0\0\0"

Tags = Mapping[int, tuple[int, Value]]
_RAW: Tags = {
    254: (LONG, 0),
    256: (LONG, WIDTH),
    257: (LONG, HEIGHT),
    258: (SHORT, 16),
    259: (SHORT, 1),
    262: (SHORT, 32803),
    277: (SHORT, 1),
    278: (LONG, HEIGHT),
    279: (LONG, len(_SENSOR)),
    33421: (SHORT, [2, 2]),
    33422: (BYTE, [0, 1, 1, 2]),
}


def _directory(tags: Tags, *pointers: int) -> Directory:
    """Make a directory, with tags whose pointers are yet to come."""
    made = Directory()
    for tag, (form, value) in tags.items():
        made.add(tag, form, value)
    for tag in pointers:
        made.add(tag, LONG, 0)
    return made


def _camera(make: bytes, model: bytes, orientation: int) -> dict[int, tuple[int, Value]]:
    return {
        271: (ASCII, make + b"\0"),
        272: (ASCII, model + b"\0"),
        274: (SHORT, orientation),
        306: (ASCII, _TAKEN),
    }


def _exif() -> Directory:
    return _directory({36867: (ASCII, _TAKEN)})


def _joined(
    header: bytes,
    parts: Mapping[str, Directory | bytes],
    pointers: Mapping[tuple[str, int], str],
    following: Mapping[str, str] = MappingProxyType({}),
) -> tuple[bytes, dict[str, int]]:
    """Return a file of these parts, and their places; a pointer may be to several parts."""
    places, at = dict[str, int](), len(header)
    for name, part in parts.items():
        places[name] = at
        at += len(part) if isinstance(part, bytes) else part.size()
    for (name, tag), targets in pointers.items():
        directory = parts[name]
        assert isinstance(directory, Directory)
        directory.add(tag, LONG, [places[one] for one in targets.split()])
    content = header
    for name, part in parts.items():
        if isinstance(part, Directory):
            content += part.written(places[name], places.get(following.get(name, ""), 0))
        else:
            content += part
    return content, places


def _nef(preview: bytes, orientation: int) -> bytes:
    tiny = b"\x80" * (160 * 120 * 3)
    first = _camera(b"NIKON CORPORATION", b"NIKON D70", orientation) | {
        254: (LONG, 1),
        256: (LONG, 160),
        257: (LONG, 120),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, 1),
        262: (SHORT, 2),
        277: (SHORT, 3),
        278: (LONG, 120),
        279: (LONG, len(tiny)),
        330: (LONG, [0, 0]),
    }
    shown: Tags = {254: (LONG, 1), 259: (SHORT, 6), 514: (LONG, len(preview))}
    parts = {
        "first": _directory(first, 273, 34665),
        "shown": _directory(shown, 513),
        "raw": _directory(_RAW, 273),
        "exif": _exif(),
        "tiny": tiny,
        "preview": preview,
        "sensor": _SENSOR,
    }
    pointers = {
        ("first", 273): "tiny",
        ("first", 330): "shown raw",
        ("first", 34665): "exif",
        ("shown", 513): "preview",
        ("raw", 273): "sensor",
    }
    return _joined(_HEADER, parts, pointers)[0]


def _arw(preview: bytes, orientation: int) -> bytes:
    first = _camera(b"SONY", b"ILCE-7", orientation) | {
        254: (LONG, 1),
        259: (SHORT, 6),
        514: (LONG, len(preview)),
    }
    parts = {
        "first": _directory(first, 330, 513, 34665),
        "raw": _directory(_RAW, 273),
        "exif": _exif(),
        "preview": preview,
        "sensor": _SENSOR,
    }
    pointers = {
        ("first", 330): "raw",
        ("first", 513): "preview",
        ("first", 34665): "exif",
        ("raw", 273): "sensor",
    }
    return _joined(_HEADER, parts, pointers)[0]


def _cr2(preview: bytes, orientation: int) -> bytes:
    with Image.open(BytesIO(preview)) as opened:
        width, height = opened.size
    first = _camera(b"Canon", b"Canon EOS 5D Mark II", orientation) | {
        256: (SHORT, width),
        257: (SHORT, height),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, 6),
        279: (LONG, len(preview)),
    }
    sensor = _lossless_jpeg()
    raw: Tags = {
        259: (SHORT, 6),
        279: (LONG, len(sensor)),
        50648: (LONG, 1),
        50752: (SHORT, [0, 0, WIDTH]),
        50885: (LONG, 1),
    }
    thumbnail = _directory({514: (LONG, len(preview))}, 513)
    linear: Tags = {
        256: (SHORT, 2),
        257: (SHORT, 2),
        258: (SHORT, [16, 16, 16]),
        259: (SHORT, 1),
        262: (SHORT, 2),
        277: (SHORT, 3),
        278: (SHORT, 2),
        279: (LONG, 24),
    }
    parts = {
        "first": _directory(first, 273, 34665),
        "thumbnail": thumbnail,
        "linear": _directory(linear, 273),
        "raw": _directory(raw, 273),
        "exif": _exif(),
        "preview": preview,
        "rgb": bytes(24),
        "sensor": sensor,
    }
    pointers = {
        ("first", 273): "preview",
        ("first", 34665): "exif",
        ("thumbnail", 513): "preview",
        ("linear", 273): "rgb",
        ("raw", 273): "sensor",
    }
    following = {"first": "thumbnail", "thumbnail": "linear", "linear": "raw"}
    header = b"II*\0\x10\0\0\0CR\x02\0"
    content, places = _joined(header + bytes(4), parts, pointers, following)
    return header + struct.pack("<L", places["raw"]) + content[16:]


def _lossless_jpeg() -> bytes:
    """The headers of lossless JPEG with two components, and no data that mean anything."""
    tables = b"".join(
        b"\xff\xc4\0\x14" + bytes([number, 1]) + bytes(15) + b"\0" for number in (0, 1)
    )
    frame = struct.pack(">4sBHHB", b"\xff\xc3\0\x0e", 14, HEIGHT, WIDTH // 2, 2)
    scan = b"\xff\xda\0\x0a\x02\x01\0\x02\x10\x01\0\0"
    return b"\xff\xd8" + tables + frame + b"\x01\x11\0\x02\x11\0" + scan + bytes(1000) + b"\xff\xd9"


def _orf(preview: bytes, orientation: int) -> bytes:
    first = {key: _RAW[key] for key in (256, 257, 258, 259, 277, 278, 279)} | {262: (SHORT, 1)}
    first |= _camera(b"OLYMPUS IMAGING CORP.  ", b"E-M1", orientation)

    def note(place: int) -> bytes:
        """The maker's own directories, whose pointers count from the note's start."""
        settings = struct.pack("<H", 3) + struct.pack("<HHLL", 0, _UNDEFINED, 4, 0x30303130)
        settings += struct.pack("<HHLL", 0x101, LONG, 1, place)
        settings += struct.pack("<HHLL", 0x102, LONG, 1, len(preview)) + bytes(4)
        above = struct.pack("<HHHLLL", 1, 0x2020, 13, 1, 30, 0)
        return b"OLYMPUS\0II\x03\0" + above + settings

    exif = _exif()
    exif.add(37500, _UNDEFINED, note(0))
    parts = {
        "first": _directory(first, 273, 34665),
        "exif": exif,
        "preview": preview,
        "sensor": _SENSOR,
    }
    pointers = {("first", 273): "sensor", ("first", 34665): "exif"}
    content, places = _joined(b"IIRO\x08\0\0\0", parts, pointers)
    start = content.index(note(0))
    exif.add(37500, _UNDEFINED, note(places["preview"] - start))
    return _joined(b"IIRO\x08\0\0\0", parts, pointers)[0]


def _rw2(preview: bytes, orientation: int) -> bytes:
    borders: Tags = {
        1: (_UNDEFINED, b"0310"),
        2: (SHORT, WIDTH),
        3: (SHORT, HEIGHT),
        4: (SHORT, 0),
        5: (SHORT, 0),
        6: (SHORT, HEIGHT),
        7: (SHORT, WIDTH),
        9: (SHORT, 2),
        10: (SHORT, 12),
        11: (SHORT, 34316),
        46: (_UNDEFINED, preview),
        278: (SHORT, HEIGHT),
        279: (LONG, len(_SENSOR)),
    }
    camera = _camera(b"Panasonic", b"DMC-GH4", orientation)
    parts = {
        "first": _directory({**borders, **camera}, 273, 280, 34665),
        "exif": _exif(),
        "sensor": _SENSOR,
    }
    pointers = {("first", 273): "sensor", ("first", 280): "sensor", ("first", 34665): "exif"}
    return _joined(b"IIU\0\x18\0\0\0" + bytes(16), parts, pointers)[0]


def _raf(preview: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "FUJIFILM", "X-T1"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = _TAKEN[:-1].decode()
    tiff = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    shown = preview[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff + preview[2:]
    size = struct.pack(">HH", HEIGHT, WIDTH)
    sizes = [(0x100, size), (0x121, size), (0x110, bytes(4)), (0x111, size), (0x131, bytes(36))]
    about = struct.pack(">L", len(sizes))
    about += b"".join(struct.pack(">HH", tag, len(value)) + value for tag, value in sizes)
    inner: Tags = {
        0xF001: (LONG, WIDTH),
        0xF002: (LONG, HEIGHT),
        0xF003: (LONG, 16),
        0xF008: (LONG, len(_SENSOR)),
    }
    parts = {
        "first": _directory({}, 0xF000),
        "raw": _directory(inner, 0xF007),
        "sensor": _SENSOR,
    }
    raw, _ = _joined(_HEADER, parts, {("first", 0xF000): "raw", ("raw", 0xF007): "sensor"})
    header = b"FUJIFILMCCD-RAW 0201FF129502" + b"X-T1".ljust(32, b"\0") + b"0100" + bytes(20)
    places = [148, 148 + len(shown), 148 + len(shown) + len(about)]
    sizes_of_parts = map(len, (shown, about, raw))
    header += b"".join(
        struct.pack(">LL", *pair) for pair in zip(places, sizes_of_parts, strict=True)
    )
    return header.ljust(148, b"\0") + shown + about + raw


CAMERA_FILES: dict[str, Callable[[bytes, int], bytes]] = {
    "nef": _nef,
    "arw": _arw,
    "cr2": _cr2,
    "orf": _orf,
    "rw2": _rw2,
    "raf": _raf,
}
"""A function for each suffix, of a preview and the orientation."""
