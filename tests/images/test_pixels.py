"""Pictures of every common kind give the pixels that they show; all else is a DataError."""

import io
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.images import opening as pictures
from mlcrf.images.pixels import load_pixels, load_thumbnail

pillow_heif.register_heif_opener()  # to write HEIC

RED, GREEN, BLUE, WHITE, GREY = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (90, 90, 90),
)
SIZE_PX = 32

Colour = tuple[int, ...]


def quarters() -> Image.Image:
    """Red, green, blue and grey quarters: no turn or mirroring leaves it as it is."""
    image = Image.new("RGB", (96, 64), RED)
    image.paste(GREEN, (48, 0, 96, 32))
    image.paste(BLUE, (0, 32, 48, 64))
    image.paste(GREY, (48, 32, 96, 64))
    return image


def photo() -> Image.Image:
    """A smooth picture with enough detail that a file of it has some length."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def assert_shows(path: Path, colour: Colour, tolerance: int = 0) -> None:
    """The whole picture has one colour."""
    pixels = load_pixels(as_image(path), 8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance


def assert_quarters(pixels: NDArray[np.uint8], tolerance: int = 0) -> None:
    """The middle of each quarter has its colour."""
    side = len(pixels)
    near, far = side // 4, 3 * side // 4
    spots = {(near, near): RED, (near, far): GREEN, (far, near): BLUE, (far, far): GREY}
    for (row, column), colour in spots.items():
        assert np.abs(pixels[row, column].astype(int) - colour).max() <= tolerance, (row, column)


def failure(path: Path) -> str:
    """The one line that a path is refused with; it names the file."""
    with pytest.raises(DataError) as caught:
        load_pixels(as_image(path), SIZE_PX)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert path.name.isprintable() is (str(path) in message)
    return message


# Colours and transparency


def palette(*colours: Colour) -> Image.Image:
    image = Image.new("P", (20, 10), len(colours) - 1)
    image.putpalette([value for colour in colours for value in colour])
    return image


SOLID: dict[str, tuple[Image.Image, dict[str, object], Colour]] = {
    "rgb.png": (Image.new("RGB", (20, 10), (1, 2, 3)), {}, (1, 2, 3)),
    "grey.png": (Image.new("L", (20, 10), 77), {}, (77, 77, 77)),
    "grey.jpg": (Image.new("L", (20, 10), 77), {"quality": 100}, (77, 77, 77)),
    "black-and-white.png": (Image.new("1", (20, 10), 1), {}, WHITE),
    "palette.png": (palette(RED, BLUE), {}, BLUE),
    "palette-clear.png": (palette(RED, BLUE), {"transparency": 1}, WHITE),
    "palette-half.png": (palette(RED, (0, 0, 0)), {"transparency": b"\xff\x80"}, (127, 127, 127)),
    "palette-clear.gif": (palette(RED, BLUE), {"transparency": 1}, WHITE),
    "grey-alpha.png": (Image.new("LA", (20, 10), (0, 128)), {}, (127, 127, 127)),
    "grey-key.png": (Image.new("L", (20, 10), 7), {"transparency": 7}, WHITE),
    "rgb-key.png": (Image.new("RGB", (20, 10), (7, 8, 9)), {"transparency": (7, 8, 9)}, WHITE),
    "rgba.png": (Image.new("RGBA", (20, 10), (*RED, 128)), {}, (255, 127, 127)),
    "rgba-clear.png": (Image.new("RGBA", (20, 10), (*RED, 0)), {}, WHITE),
    "rgba.webp": (Image.new("RGBA", (20, 10), (*RED, 128)), {"lossless": True}, (255, 127, 127)),
    "rgba.tif": (Image.new("RGBA", (20, 10), (*RED, 255)), {}, RED),
    "cmyk.tif": (Image.new("CMYK", (20, 10), (0, 255, 255, 0)), {}, RED),
    "sixteen-bits.png": (Image.new("I;16", (20, 10), 0x12FF), {}, (0x12, 0x12, 0x12)),
    "sixteen-bits-black.png": (Image.new("I;16", (20, 10), 0), {}, (0, 0, 0)),
    "sixteen-bits-dark.png": (Image.new("I;16", (20, 10), 0x1000), {}, (16, 16, 16)),
    "sixteen-bits-white.png": (Image.new("I;16", (20, 10), 65535), {}, WHITE),
    "sixteen-bits.tif": (Image.new("I;16", (20, 10), 0x8000), {}, (128, 128, 128)),
    "thirty-two-bits.tif": (Image.new("I", (20, 10), 0x8000), {}, (128, 128, 128)),
    "too-bright.tif": (Image.new("I", (20, 10), 70_000), {}, WHITE),
    "negative.tif": (Image.new("I", (20, 10), -5), {}, (0, 0, 0)),
    "rgb.bmp": (Image.new("RGB", (20, 10), (1, 2, 3)), {}, (1, 2, 3)),
    "rgb.tif": (Image.new("RGB", (20, 10), (1, 2, 3)), {"compression": "tiff_lzw"}, (1, 2, 3)),
    "rgb.ppm": (Image.new("RGB", (20, 10), (1, 2, 3)), {}, (1, 2, 3)),
    "grey.pgm": (Image.new("L", (20, 10), 77), {}, (77, 77, 77)),
}


@pytest.mark.parametrize("name", SOLID)
def test_golden_colours(tmp_path: Path, name: str) -> None:
    """Each kind of pixel becomes the RGB that it shows on white paper; 16 bits keep the upper 8.

    test_colours.py has more of more than 8 bits.
    """
    image, settings, colour = SOLID[name]
    image.save(tmp_path / name, **settings)  # type: ignore[arg-type]
    with Image.open(tmp_path / name) as again:
        mode = "P" if name.startswith("palette") else image.mode
        assert again.mode == mode, "the file is not of the kind that this is about"
    assert_shows(tmp_path / name, colour)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Four inks in a JPEG become the colour that they print."""
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert_shows(tmp_path / "a.jpg", RED, tolerance=3)
    Image.new("CMYK", (20, 10), (0, 0, 0, 165)).save(tmp_path / "b.jpg", quality=100)
    assert_shows(tmp_path / "b.jpg", GREY, tolerance=3)


def test_ycck_jpeg(tmp_path: Path) -> None:
    """The inks may be stored as brightness and colour, as Photoshop does; Adobe's marker tells.

    Pillow cannot write that, so the marker of a CMYK file is changed. Its planes are inverted, and
    (179, 171, 0) is cyan in YCbCr, the inverse of which is red.
    """
    inks = Image.new("CMYK", (20, 10), (255 - 179, 255 - 171, 255 - 0, 0))
    data = bytearray(encoded(inks, "JPEG", quality=100))
    transform = data.index(b"\xff\xee\x00\x0eAdobe") + 15
    assert data[transform] == 0
    (tmp_path / "cmyk.jpg").write_bytes(data)
    data[transform] = 2
    (tmp_path / "ycck.jpg").write_bytes(data)
    assert_shows(tmp_path / "ycck.jpg", RED, tolerance=4)
    with pytest.raises(AssertionError):
        assert_shows(tmp_path / "cmyk.jpg", RED, tolerance=4)


def test_squeezes_and_is_close(tmp_path: Path) -> None:
    """The picture is squeezed to the square, not cropped, and the same size keeps every pixel."""
    quarters().save(tmp_path / "a.png")
    assert_quarters(load_pixels(as_image(tmp_path / "a.png"), SIZE_PX))
    square = photo().resize((40, 40))
    square.save(tmp_path / "b.png")
    assert (load_pixels(as_image(tmp_path / "b.png"), 40) == np.asarray(square)).all()


@pytest.mark.parametrize("scale", [2, 3, 16])
def test_large_jpeg_decoded_small(tmp_path: Path, scale: int) -> None:
    """A JPEG decoded at reduced size shows the same as one decoded in full."""
    image = photo().resize((96 * scale, 64 * scale), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")
    reduced = load_pixels(as_image(tmp_path / "a.jpg"), SIZE_PX).astype(int)
    assert np.abs(reduced - load_pixels(as_image(tmp_path / "a.png"), SIZE_PX)).max() <= 8


# Containers


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        pytest.param(
            kind,
            tolerance,
            marks=pytest.mark.skipif(
                kind == "AVIF" and not features.check("avif"), reason="Pillow without AVIF"
            ),
        )
        for kind, tolerance in [
            ("JPEG", 8),
            ("MPO", 8),
            ("PNG", 0),
            ("WEBP", 16),
            ("GIF", 0),
            ("TIFF", 0),
            ("BMP", 0),
            ("AVIF", 16),
            ("HEIF", 16),
        ]
    ],
)
@pytest.mark.parametrize("suffix", ["", ".jpg", ".png", ".tif", ".txt"])
def test_kind_is_told_by_content(tmp_path: Path, kind: str, tolerance: int, suffix: str) -> None:
    """Every kind is read whatever the name of its file says."""
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encoded(quarters(), kind, quality=95))
    assert_quarters(load_pixels(as_image(path), SIZE_PX), tolerance)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(tmp_path: Path, kind: str) -> None:
    """An animation, or a file of several pages, gives its first."""
    frames = [quarters(), Image.new("RGB", (96, 64), WHITE), Image.new("RGB", (96, 64), RED)]
    (tmp_path / "a").write_bytes(
        encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    )
    with Image.open(tmp_path / "a") as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_quarters(load_pixels(as_image(tmp_path / "a"), SIZE_PX))


def test_without_the_reader_of_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of a telephone that cannot be read says what to install."""
    (tmp_path / "a.jpg").write_bytes(KINDS["HEIF"]())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    pictures._formats.cache_clear()
    try:
        assert "pip install 'mlcrf[heic]'" in failure(tmp_path / "a.jpg")
    finally:
        pictures._formats.cache_clear()


# Orientation

INVERSES = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(orientation: int, kind: str) -> bytes:
    """Quarters stored turned, with the EXIF that says how to turn them back."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turn = INVERSES[orientation]
    image = quarters() if turn is None else quarters().transpose(turn)
    return encoded(image, kind, exif=exif.tobytes(), quality=95)


@pytest.mark.parametrize("orientation", INVERSES)
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("JPEG", 8), ("PNG", 0), ("WEBP", 16), ("TIFF", 0), ("AVIF", 16), ("HEIF", 16)],
)
def test_orientations(tmp_path: Path, kind: str, tolerance: int, orientation: int) -> None:
    """All eight EXIF orientations give the same upright picture."""
    (tmp_path / "a").write_bytes(turned(orientation, kind))
    assert_quarters(load_pixels(as_image(tmp_path / "a"), SIZE_PX), tolerance)


def test_odd_exif_tag_is_no_fault(tmp_path: Path) -> None:
    """EXIF that can be read but not written again still turns the picture."""
    data = turned(6, "JPEG")
    entry = struct.pack(">HHLL", 0x0112, 3, 1, 6 << 16)
    assert data.count(entry) == 1
    odd = struct.pack(">HHLf", 0x0100, 11, 1, 5.0)  # a width that is no whole number
    head, tail = data.split(entry)
    assert head.endswith(b"\x00\x01")
    exif = data.index(b"\xff\xe1")
    (length,) = struct.unpack(">H", data[exif + 2 : exif + 4])
    head = head[: exif + 2] + struct.pack(">H", length + 12) + head[exif + 4 : -2] + b"\x00\x02"
    (tmp_path / "a.jpg").write_bytes(head + odd + entry + tail)
    with Image.open(tmp_path / "a.jpg") as image:
        assert set(image.getexif()) == {0x0100, 0x0112}
    assert_quarters(load_pixels(as_image(tmp_path / "a.jpg"), SIZE_PX), 8)


def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    """Where EXIF is rubbish or its orientation is none of the eight, the picture stays as it is."""
    for number, value in enumerate((0, 9, 65535)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        (tmp_path / f"{number}").write_bytes(encoded(quarters(), "JPEG", exif=exif, quality=95))
        assert_quarters(load_pixels(as_image(tmp_path / f"{number}"), SIZE_PX), 8)
    for kind, tolerance in (("JPEG", 8), ("WEBP", 16)):
        data = turned(1, kind)
        assert data.count(b"MM\0*") == 1
        (tmp_path / kind).write_bytes(data.replace(b"MM\0*", b"rubb"))
        assert_quarters(load_pixels(as_image(tmp_path / kind), SIZE_PX), tolerance)


# What is no picture


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": cache(lambda: encoded(photo(), "JPEG", exif=turned_exif())),
    "PNG": cache(lambda: encoded(photo(), "PNG")),
    "WEBP": cache(lambda: encoded(photo(), "WEBP")),
    "GIF": cache(lambda: encoded(photo(), "GIF")),
    "TIFF": cache(lambda: encoded(photo(), "TIFF")),
    "BMP": cache(lambda: encoded(photo(), "BMP")),
    "AVIF": cache(lambda: encoded(photo(), "AVIF")),
    "HEIF": cache(lambda: encoded(photo(), "HEIF")),
}


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    return exif


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    """A file that is cut off gives no half picture."""
    data = KINDS[kind]()
    (tmp_path / "whole").write_bytes(data)
    assert load_pixels(as_image(tmp_path / "whole"), SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    assert "cannot be read as an image" in failure(tmp_path / "cut")


@pytest.mark.parametrize(
    "content",
    [b"\0", b"a text, not a picture\n" * 100, b"<html>Not found</html>", b"\xff\xd8\xff"],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes) -> None:
    """Text, a page of HTML and a bare beginning are no pictures; an empty file is called empty."""
    (tmp_path / "a.jpg").write_bytes(content)
    assert "unknown format, or damaged" in failure(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "the file is empty; copy it again" in failure(tmp_path / "a.jpg")


def test_no_interpreter_is_started(tmp_path: Path) -> None:
    """PostScript named .jpg is not handed to Ghostscript: its format is unknown."""
    quarters().save(tmp_path / "a.jpg", "EPS")
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"%!PS")
    assert "unknown format" in failure(tmp_path / "a.jpg")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A file that is not there, a folder, a loop of links and an impossible name are told apart."""
    assert "No such file or directory" in failure(tmp_path / "none.jpg")
    assert "a folder, not an image" in failure(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert "symbolic links" in failure(tmp_path / "loop.jpg")
    assert "null" in failure(tmp_path / "nul\0l.jpg")
    assert "too long" in failure(tmp_path / ("x" * 300))


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    """A pipe that nobody writes to is refused, not waited for; so is a device."""
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in failure(tmp_path / "pipe.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        as_image(tmp_path / "pipe.jpg").open()
    assert "not a regular file" in failure(Path("/dev/zero"))


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def bomb(kind: str) -> bytes:
    """A small file whose header claims 50,000 x 50,000 pixels."""
    data = bytearray(KINDS[kind]())
    match kind:
        case "PNG":
            header = struct.pack(">LLBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + bytes(data[33:])
        case "JPEG":
            spot = data.index(b"\xff\xc0") + 5
            data[spot : spot + 4] = struct.pack(">HH", 50_000, 50_000)
        case "GIF":
            data[6:10] = struct.pack("<HH", 50_000, 50_000)
        case "BMP":
            data[18:26] = struct.pack("<ll", 50_000, 50_000)
        case _:
            raise AssertionError(kind)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_pixel_bombs(tmp_path: Path, kind: str) -> None:
    """A header that claims 2,500 million pixels is believed enough to refuse it."""
    (tmp_path / "bomb").write_bytes(bomb(kind))
    assert "decompression bomb" in failure(tmp_path / "bomb")


@pytest.mark.parametrize("name", ["two\nlines.jpg", "tab\t.jpg", os.fsdecode(b"caf\xe9.jpg"), "ö"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    """Names with line ends or bytes that are not UTF-8 are read, and told in one printable line."""
    path = tmp_path / name
    quarters().save(path, "PNG")
    assert_quarters(load_pixels(as_image(path), SIZE_PX))
    path.write_bytes(b"text")
    assert ascii(name)[1:-1] in ascii(failure(path)).replace("\\\\", "\\")


# Thumbnails


def test_a_thumbnail_keeps_proportions_and_turn(tmp_path: Path) -> None:
    """The longer side is as asked, a small picture stays small, and EXIF turns but is not kept."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "secret"
    path = tmp_path / "photo.jpg"
    quarters().save(path, exif=exif, comment=b"secret")
    small = load_thumbnail(as_image(path), 48)
    assert (small.width, small.height) == (32, 48)
    assert b"secret" not in small.jpeg
    with Image.open(io.BytesIO(small.jpeg)) as shown:
        assert shown.size == (32, 48) and not shown.getexif()
        red, green, blue = shown.getpixel((24, 12))  # turned right: red is above on the right
        assert red > 200 and green < 60 and blue < 60
    large = load_thumbnail(as_image(path), 500)
    assert (large.width, large.height) == (64, 96)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16", "1"])
def test_a_thumbnail_of_every_mode_is_rgb(tmp_path: Path, mode: str) -> None:
    """What a JPEG could not hold is laid on white or converted, as for the network."""
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    Image.new(mode, (40, 20)).save(path)
    with Image.open(io.BytesIO(load_thumbnail(as_image(path), 16).jpeg)) as shown:
        assert shown.mode == "RGB" and shown.size == (16, 8)


def test_no_thumbnail_of_what_is_no_picture(tmp_path: Path) -> None:
    """The same errors as of pixels."""
    (tmp_path / "a.jpg").write_bytes(b"<b>no picture")
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as an image: unknown format"):
        load_thumbnail(as_image(tmp_path / "a.jpg"), 16)
    with pytest.raises(DataError, match="a folder, not an image"):
        load_thumbnail(as_image(tmp_path), 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_damaged_files_are_told_in_our_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, share: float
) -> None:
    """Nor does a decoder write to standard error, as libtiff would."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    more = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.fromarray(noise).save(stream, kind, **more)
    whole = stream.getvalue()
    cut, torn = whole[: int(len(whole) * share)], bytearray(whole)
    for at in range(int(len(whole) * share), min(len(whole), int(len(whole) * share) + 200)):
        torn[at] ^= 0x5A
    for content in (cut, bytes(torn)):
        (tmp_path / "a.jpg").write_bytes(content)
        try:
            load_pixels(as_image(str(tmp_path / "a.jpg")), 32)
        except DataError as error:
            ours = r"cut short|damaged|decoder refuses|unsupported kind|million pixels"
            assert re.search(ours, str(error)), error
    assert capfd.readouterr().err == ""
