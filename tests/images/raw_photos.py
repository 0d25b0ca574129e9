"""Make small RAW files: a DNG with a mosaic of one colour, and a preview if asked for."""

import struct
from dataclasses import dataclass, field

Value = int | bytes | list[int] | list[tuple[int, int]]  # of tags

BYTE, ASCII, SHORT, LONG, SRATIONAL = 1, 2, 3, 4, 10


@dataclass
class Directory:
    """A list of tags, and bytes that some of them point to."""

    tags: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)

    def add(self, tag: int, form: int, value: Value) -> None:
        if isinstance(value, bytes):
            self.tags[tag] = (form, len(value), value)
            return
        values: list[int] | list[tuple[int, int]] = value if isinstance(value, list) else [value]
        code = {BYTE: "B", SHORT: "H", LONG: "L", SRATIONAL: "2l"}[form]
        content = b"".join(
            struct.pack(f"<{code}", *(one if isinstance(one, tuple) else (one,))) for one in values
        )
        self.tags[tag] = (form, len(values), content)

    def size(self) -> int:
        longer = [content for _, _, content in self.tags.values() if len(content) > 4]
        return 2 + 12 * len(self.tags) + 4 + sum(len(one) + len(one) % 2 for one in longer)

    def written(self, start: int, following: int = 0) -> bytes:
        entries, after = b"", b""
        for tag, (form, count, content) in sorted(self.tags.items()):
            value = content.ljust(4, b"\0")
            if len(content) > 4:
                value = struct.pack("<L", start + 2 + 12 * len(self.tags) + 4 + len(after))
                after += content + b"\0" * (len(content) % 2)
            entries += struct.pack("<HHL", tag, form, count) + value
        return struct.pack("<H", len(self.tags)) + entries + struct.pack("<L", following) + after


def dng(
    preview: bytes | None = None,
    preview_size: tuple[int, int] = (0, 0),
    *,
    size: tuple[int, int] = (96, 64),
    orientation: int = 1,
    mosaic: tuple[int, int, int] = (8000, 4000, 1000),
    preview_first: bool = True,
) -> bytes:
    """A DNG taken on 6 May 2024 at 07:08:09, with sensor data of 14 bits.

    Args:
        preview: a JPEG.
        size: width and height of the sensor data.
        orientation: as in EXIF.
        mosaic: the red, green and blue of all pixels.
        preview_first: the preview is described first, as most cameras do, not the sensor data.
    """
    red, green, blue = mosaic
    width, height = size
    rows = struct.pack("<2H", red, green) * (width // 2)
    rows += struct.pack("<2H", green, blue) * (width // 2)
    sensor = rows * (height // 2)
    main, raw, shown, exif = Directory(), Directory(), Directory(), Directory()
    _describe(raw, 0, size, 1, 32803, len(sensor), [16])
    raw.add(33421, SHORT, [2, 2])  # a mosaic of 2 x 2
    raw.add(33422, BYTE, [0, 1, 1, 2])  # of red, green, green, blue
    raw.add(50717, LONG, 16383)  # white
    content = preview or b""
    _describe(shown, 1, preview_size, 7, 6, len(content), [8, 8, 8])
    exif.add(36867, ASCII, b"2024:05:06 07:08:09\0")
    main.add(271, ASCII, b"Maker\0")
    main.add(272, ASCII, b"Camera\0")
    main.add(274, SHORT, orientation)
    main.add(50706, BYTE, [1, 4, 0, 0])  # version of DNG
    main.add(50708, ASCII, b"Maker Camera\0")
    unit = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]
    main.add(50721, SRATIONAL, unit)  # colours
    main.add(50728, SRATIONAL, [(1, 1)] * 3)  # white balance
    main.add(34665, LONG, 0)
    first, second = (shown, raw) if preview_first else (raw, shown)
    has_second = preview is not None or preview_first
    if has_second:
        main.add(330, LONG, 0)
    if first is raw or preview is not None:
        main.tags |= first.tags
    places = [8]
    for directory in (main, second, exif):
        places.append(places[-1] + directory.size())
    at_shown, at_raw = places[-1], places[-1] + len(content)
    for directory in (main, second):
        if 273 in directory.tags:
            is_raw = (directory is main) == (first is raw)
            directory.add(273, LONG, at_raw if is_raw else at_shown)
    main.add(34665, LONG, places[2])
    if has_second:
        main.add(330, LONG, places[1])
    parts = zip((main, second, exif), places, strict=False)
    return b"II*\0\x08\0\0\0" + b"".join(one.written(at) for one, at in parts) + content + sensor


def _describe(
    directory: Directory,
    kind: int,
    size: tuple[int, int],
    compression: int,
    colours: int,
    length: int,
    bits: list[int],
) -> None:
    """Describe an image of one strip, whose place is yet to come."""
    directory.add(254, LONG, kind)
    directory.add(256, LONG, size[0])
    directory.add(257, LONG, size[1])
    directory.add(258, SHORT, list(bits))
    directory.add(259, SHORT, compression)
    directory.add(262, SHORT, colours)
    directory.add(273, LONG, 0)
    directory.add(277, SHORT, len(bits))
    directory.add(278, LONG, size[1])
    directory.add(279, LONG, length)
