"""Large photos are read where they fit into the memory that is promised, else refused in words."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from tests.images.test_pixels import KINDS, bomb, chunk


def grey_jpeg(width: int, height: int) -> bytes:
    """A JPEG of one grey: each block is `00 1010`, no change of brightness and nothing else."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), 128).save(stream, "JPEG", progressive=False, optimize=False)
    data = bytearray(stream.getvalue())
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    scan = data.index(b"\xff\xda") + 10
    blocks = (width // 8) * (height // 8)
    return bytes(data[:scan]) + b"\x28\xa2\x8a" * (blocks // 4) + b"\xff\xd9"


def padded(path: Path, content: bytes, size: int) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.truncate(size)  # of zeros, which take no room on the disk


@pytest.mark.parametrize(("width", "height"), [(16_320, 12_240), (27_000, 7_000)])
def test_large_jpegs_are_read_at_reduced_size(tmp_path: Path, width: int, height: int) -> None:
    """A photo of a telephone of 200 million pixels, and a panorama of 189."""
    (tmp_path / "a.jpg").write_bytes(grey_jpeg(width, height))
    pixels = load_pixels(as_image(tmp_path / "a.jpg"), 32)
    assert pixels.min() == pixels.max() == 128


def test_a_jpeg_that_would_not_fit_even_so(tmp_path: Path) -> None:
    """Its size, the limit and a remedy are named; JPEG is no remedy."""
    content = grey_jpeg(64, 64).replace(bytes([0, 64] * 2), b"\x4e\x20" * 2)
    padded(tmp_path / "a.jpg", content, 10_000_000)
    with pytest.raises(DataError) as caught:
        load_pixels(as_image(tmp_path / "a.jpg"), 32)
    assert str(caught.value).endswith(
        "400 million pixels could take 3.6 GB of memory; up to 333 million are read of this "
        "format; save it smaller"
    )


def test_an_empty_jpeg_that_could_be_kept_in_full(tmp_path: Path) -> None:
    """One of several scans takes memory for all its pixels, so a large one needs enough bytes."""
    Image.new("L", (8_000, 8_000)).save(tmp_path / "a.jpg", optimize=True)
    with pytest.raises(DataError, match=r"64 million pixels in .* a decompression bomb"):
        load_pixels(as_image(tmp_path / "a.jpg"), 32)


def test_a_png_that_would_not_fit(tmp_path: Path) -> None:
    """A PNG is always decoded in full."""
    header = (16_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + KINDS["PNG"]()[33:]
    padded(tmp_path / "a.png", content, 100_000_000)
    with pytest.raises(DataError) as caught:
        load_pixels(as_image(tmp_path / "a.png"), 32)
    assert str(caught.value).endswith(
        "256 million pixels could take 3.3 GB of memory; up to 231 million are read of this "
        "format; save it smaller, or as JPEG"
    )


def test_a_webp_of_more_pixels_than_pillow_takes(tmp_path: Path) -> None:
    """Not called an attack."""
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(stream, "WEBP", exif=b"Exif\0\0")
    data = bytearray(stream.getvalue())
    assert data[12:16] == b"VP8X"
    data[24:30] = (15_999).to_bytes(3, "little") * 2
    padded(tmp_path / "a.webp", bytes(data), 100_000_000)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        load_pixels(as_image(tmp_path / "a.webp"), 32)
    assert "attack" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_false_headers_are_told_in_our_words(tmp_path: Path, kind: str) -> None:
    """No words of Pillow about attacks, and a remedy."""
    (tmp_path / "a").write_bytes(bomb(kind))
    with pytest.raises(DataError, match="a decompression bomb, or an empty page; save it smaller"):
        load_pixels(as_image(tmp_path / "a"), 32)


def test_no_limit_of_pillow_is_changed() -> None:
    """A program that imports mlcrf keeps its own."""
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
