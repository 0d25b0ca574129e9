"""Values of more than 8 bits are scaled from their range, never near-black without a word."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mlcrf.errors import DataError, MlcrfWarning
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from tests.images.test_pixels import chunk

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
GREY, RGB, LAB = 1, 2, 8


def tiff(
    content: bytes,
    size: tuple[int, int],
    bits: int,
    number: int,
    *,
    samples: int = 1,
    kind: int = GREY,
) -> bytes:
    """An uncompressed TIFF of one strip, for kinds that Pillow does not write."""
    tags = [
        (256, 4, size[0]),
        (257, 4, size[1]),
        (258, 3, bits),  # of one sample, or of all: more samples would need a list
        (259, 3, 1),
        (262, 3, kind),
        (273, 4, 8),
        (277, 3, samples),
        (278, 4, size[1]),
        (279, 4, len(content)),
        (339, 3, number),
    ]
    after = 8 + len(content) + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for tag, form, value in tags:
        if samples > 1 and tag in (258, 339):
            entries += struct.pack("<HHLL", tag, form, samples, after + len(lists))
            lists += struct.pack("<H", value) * samples
        else:
            entries += struct.pack("<HHLL", tag, form, 1, value)
    header = struct.pack("<2sHL", b"II", 42, 8 + len(content))
    return header + content + struct.pack("<H", len(tags)) + entries + bytes(4) + lists


def packed_12_bits(values: list[int]) -> bytes:
    bits = "".join(f"{value:012b}" for value in values)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def shown(content: bytes, folder: Path, name: str = "a.tif") -> NDArray[np.uint8]:
    """The grey values of an image of 4 x 4 pixels."""
    (folder / name).write_bytes(content)
    pixels = load_pixels(as_image(folder / name), 4)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def ramp(low: float, high: float, kind: str) -> NDArray[np.generic]:
    return np.linspace(low, high, 16).reshape(4, 4).astype(kind)


FULL = np.linspace(0, 255, 16).reshape(4, 4)
RAMPS: dict[str, tuple[NDArray[np.generic], int]] = {  # each from black to white
    "float of 0 to 1": (ramp(0, 1, "<f4"), FLOAT),
    "float of 0 to 65535": (ramp(0, 65535, "<f4"), FLOAT),
    "dark float": (ramp(0, 0.01, "<f4"), FLOAT),
    "float around 0": (ramp(-3, 3, "<f4"), FLOAT),
    "16 bits": (ramp(0, 65535, "<u2"), UNSIGNED),
    "12 bits in 16": (ramp(0, 4095, "<u2"), UNSIGNED),
    "8 bits in 16": (ramp(0, 255, "<u2"), UNSIGNED),
    "16 bits with a sign": (ramp(0, 32767, "<i2"), SIGNED),
    "16 bits of both signs": (ramp(-32768, 32767, "<i2"), SIGNED),
    "32 bits, 16 used": (ramp(0, 65535, "<u4"), UNSIGNED),
    "32 bits": (ramp(0, 2**32 - 1, "<u4"), UNSIGNED),
    "32 bits with a sign": (ramp(0, 2**31 - 1, "<i4"), SIGNED),
    "32 bits, few used": (ramp(0, 900, "<u4"), UNSIGNED),
}


@pytest.mark.parametrize("name", RAMPS)
def test_grey_is_scaled_from_its_range(tmp_path: Path, name: str) -> None:
    """From the range of its kind, or from that of the image where it is larger or far smaller."""
    values, number = RAMPS[name]
    content = tiff(values.tobytes(), (4, 4), values.itemsize * 8, number)
    assert np.abs(shown(content, tmp_path).astype(float) - FULL).max() <= 1.5


def test_dark_but_not_nearly_black_stays_dark(tmp_path: Path) -> None:
    """An image that uses a sixteenth of its range or more shows what viewers show."""
    values = ramp(0, 8191, "<u2")
    content = tiff(values.tobytes(), (4, 4), 16, UNSIGNED)
    assert (shown(content, tmp_path) == values >> 8).all()
    half = ramp(0, 0.5, "<f4")
    content = tiff(half.tobytes(), (4, 4), 32, FLOAT)
    assert shown(content, tmp_path).max() == 128


@pytest.mark.parametrize("top", [4095, 30])
def test_twelve_bits(tmp_path: Path, top: int) -> None:
    """Twelve packed bits, as of microscopes."""
    values = ramp(0, top, "<u2").ravel().tolist()
    content = tiff(packed_12_bits(values), (4, 4), 12, UNSIGNED)
    assert np.abs(shown(content, tmp_path).astype(float) - FULL).max() <= 8.6  # one of 30


def test_sixteen_bits_of_a_png(tmp_path: Path) -> None:
    """A PNG is scaled as a TIFF; so is one that is turned, and a map of Netpbm."""
    for top in (65535, 4095):
        image = Image.fromarray(ramp(0, top, "<u2"))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        assert np.abs(shown(stream.getvalue(), tmp_path, "a.png").astype(float) - FULL).max() <= 1.5
        exif = Image.Exif()
        exif[0x112] = 3
        image.save(tmp_path / "b.tif", exif=exif)
        turned = load_pixels(as_image(tmp_path / "b.tif"), 4)[::-1, ::-1, 0]
        assert np.abs(turned.astype(float) - FULL).max() <= 1.5
    body = ramp(0, 65535, ">u2").tobytes()
    assert (
        np.abs(shown(b"P5 4 4 65535\n" + body, tmp_path, "a.pgm").astype(float) - FULL).max() <= 1.5
    )


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    """NaN is black; an image without any number is refused."""
    values = ramp(0, 1, "<f4")
    values[0, 1], values[3, 2] = np.nan, -np.inf
    pixels = shown(tiff(values.tobytes(), (4, 4), 32, FLOAT), tmp_path)
    assert (pixels[0, 1], pixels[3, 2], pixels[3, 3]) == (0, 0, 255)
    values[:] = np.nan
    with pytest.raises(DataError, match="no pixel has a finite value"):
        shown(tiff(values.tobytes(), (4, 4), 32, FLOAT), tmp_path)


@pytest.mark.parametrize(
    ("kind", "bits", "number", "words"),
    [
        ("<f4", 32, FLOAT, "3 x 32 bits per pixel, floating-point numbers"),
        ("<u4", 32, UNSIGNED, "3 x 32 bits per pixel, unsigned numbers"),
        ("<f8", 64, FLOAT, "3 x 64 bits per pixel, floating-point numbers"),
    ],
)
def test_colours_that_are_not_read_are_named(
    tmp_path: Path, kind: str, bits: int, number: int, words: str
) -> None:
    """A TIFF that Pillow does not know is refused by its kind, with a remedy."""
    content = np.zeros((4, 4, 3), kind).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff(content, (4, 4), bits, number, samples=3, kind=RGB))
    with pytest.raises(DataError) as caught:
        load_pixels(as_image(tmp_path / "a.tif"), 4)
    assert words in str(caught.value) and "save it with 8 or 16 bits" in str(caught.value)


def test_a_jpeg_of_twelve_bits_is_named(tmp_path: Path) -> None:
    """Pillow does not read it, which is not the same as damaged."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match="a JPEG of 12 bits per colour; save it with 8 bits"):
        load_pixels(as_image(tmp_path / "a.jpg"), 8)


def png_of_16_bits(value: int) -> bytes:
    """Pillow reads colours of 16 bits, but writes none."""
    rows = (b"\0" + struct.pack(">3H", value, value, value) * 4) * 4
    header = struct.pack(">LLBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("value", "noted"), [(65535, False), (5000, False), (0, False), (300, True)]
)
def test_colours_of_sixteen_bits(tmp_path: Path, value: int, *, noted: bool) -> None:
    """They keep their upper 8 bits; if that leaves the image nearly black, a note says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MlcrfWarning)
        pixels = shown(png_of_16_bits(value), tmp_path, "a.png")
    assert (pixels == value >> 8).all()
    assert [
        "a.png" in str(one.message) and "appear black" in str(one.message) for one in caught
    ] == ([True] if noted else [])


def test_lab(tmp_path: Path) -> None:
    """The colours of LAB, with a and b around 0."""
    red, grey = bytes([136, 80, 67]), bytes([138, 0, 0])  # L of 255, and the signed a and b
    for number, (pixel, colour) in enumerate(((red, (255, 0, 0)), (grey, (129, 129, 129)))):
        content = tiff(pixel * 16, (4, 4), 8, UNSIGNED, samples=3, kind=LAB)
        (tmp_path / f"{number}.tif").write_bytes(content)
        with Image.open(tmp_path / f"{number}.tif") as image:
            assert image.mode == "LAB"
        pixels = load_pixels(as_image(tmp_path / f"{number}.tif"), 4)
        assert np.abs(pixels.astype(int) - colour).max() <= 12


def test_inks_without_the_marker_of_adobe(tmp_path: Path) -> None:
    """Four inks of a JPEG are stored inverted, whether a marker tells or not, as browsers show."""
    stream = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(stream, "JPEG", quality=100)
    data = stream.getvalue()
    marker = data.index(b"\xff\xee\x00\x0eAdobe")
    (tmp_path / "a.jpg").write_bytes(data[:marker] + data[marker + 16 :])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK" and "adobe" not in image.info
    pixels = load_pixels(as_image(tmp_path / "a.jpg"), 8)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3
