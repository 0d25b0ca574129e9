"""JPEG XL is read as other formats are, and turned once."""

import sys
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mlcrf.errors import DataError
from mlcrf.images import ImageBytes, as_image, opening
from mlcrf.images.albums import capture_time
from mlcrf.images.pixels import load_pixels
from mlcrf.keywords.photo_keywords import read_keywords
from tests.images.test_mending import XMP
from tests.images.test_pixels import (
    INVERSES,
    SIZE_PX,
    WHITE,
    assert_quarters,
    assert_shows,
    photo,
    quarters,
    turned,
)

BARE = b"\xff\x0a" + bytes(30)


def test_without_the_reader_of_jpeg_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, of a bare code stream and of a file of boxes."""
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    opening._formats.cache_clear()
    try:
        for content in (BARE, b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30)):
            (tmp_path / "a.jxl").write_bytes(content)
            with pytest.raises(DataError, match=r"JPEG XL; to read it: pip install 'mlcrf\[jxl\]'"):
                load_pixels(as_image(tmp_path / "a.jxl"), SIZE_PX)
    finally:
        opening._formats.cache_clear()


needs_reader = pytest.mark.skipif(
    find_spec("pylibjxl") is None, reason="needs the extra jxl, and `pip install` of it"
)


def jpeg_xl(image: Image.Image, **extra: bytes) -> bytes:
    import pylibjxl

    content = pylibjxl.encode(np.asarray(image), lossless=True, **extra)
    assert isinstance(content, bytes)
    return content


@needs_reader
@pytest.mark.parametrize("suffix", [".jxl", "", ".jpg"])
def test_jpeg_xl_is_read(tmp_path: Path, suffix: str) -> None:
    """Whatever the name of its file says, and from memory."""
    content = jpeg_xl(quarters())
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert_quarters(load_pixels(as_image(tmp_path / f"a{suffix}"), SIZE_PX))
    assert_quarters(load_pixels(ImageBytes("a", content), SIZE_PX))


@needs_reader
@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("RGBA", (255, 0, 0, 0), WHITE),
    ],
)
def test_colours(tmp_path: Path, mode: str, colour: object, shown: tuple[int, ...]) -> None:
    """Transparency becomes white."""
    (tmp_path / "a.jxl").write_bytes(jpeg_xl(Image.new(mode, (20, 10), colour)))  # type: ignore[arg-type]
    assert_shows(tmp_path / "a.jxl", shown, tolerance=1)


@needs_reader
@pytest.mark.parametrize("orientation", INVERSES)
def test_a_jpeg_as_jpeg_xl_is_turned_once(tmp_path: Path, orientation: int) -> None:
    """The code stream has the orientation; EXIF, which repeats it, does not count."""
    import pylibjxl

    (tmp_path / "a.jxl").write_bytes(pylibjxl.jpeg_to_jxl(turned(orientation, "JPEG")))
    assert_quarters(load_pixels(as_image(tmp_path / "a.jxl"), SIZE_PX), 8)


@needs_reader
def test_time_and_keywords(tmp_path: Path) -> None:
    """Read from its boxes, compressed or not."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    path = tmp_path / "a.jxl"
    path.write_bytes(jpeg_xl(quarters(), exif=exif.tobytes(), xmp=XMP))
    assert capture_time(as_image(path)) == datetime(2024, 5, 6, 7, 8, 9)
    assert read_keywords(as_image(path)) == ("sea",)
    path.write_bytes(jpeg_xl(quarters()))
    assert capture_time(as_image(path)) is None
    assert read_keywords(as_image(path)) == ()


@needs_reader
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    """No half image."""
    content = jpeg_xl(photo())
    (tmp_path / "a.jxl").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_pixels(as_image(tmp_path / "a.jxl"), SIZE_PX)


@needs_reader
def test_an_empty_page_is_a_bomb(tmp_path: Path) -> None:
    """Told by its header, before it is decoded."""
    (tmp_path / "a.jxl").write_bytes(jpeg_xl(Image.new("L", (4_200, 4_200))))
    with pytest.raises(DataError, match="a decompression bomb, or an empty page"):
        load_pixels(as_image(tmp_path / "a.jxl"), SIZE_PX)
