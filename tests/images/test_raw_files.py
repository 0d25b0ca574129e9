"""RAW files show what their previews show, upright, and sensor data only without one."""

import ctypes
import os
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mlcrf.errors import DataError
from mlcrf.images import ImageBytes, as_image
from mlcrf.images.albums import capture_time
from mlcrf.images.pixels import load_pixels, load_thumbnail
from mlcrf.keywords.photo_keywords import read_keywords
from tests.images.camera_files import CAMERA_FILES
from tests.images.raw_photos import dng
from tests.images.test_pixels import INVERSES, SIZE_PX, assert_quarters, encoded, quarters

pytest.importorskip("rawpy", reason="needs the extra raw")

ORIENTATIONS = (1, 3, 6, 8)  # of cameras; LibRaw knows no mirrored ones
PREVIEW_PX = (480, 320)


def preview(
    *, stored: int = 1, exif: Image.Exif | None = None, shown_px: tuple[int, int] = PREVIEW_PX
) -> tuple[bytes, tuple[int, int]]:
    """Quarters, stored so that an orientation turns them upright, and their size."""
    image = quarters().resize(shown_px, Image.Resampling.NEAREST)
    turn = INVERSES[stored]
    image = image if turn is None else image.transpose(turn)
    content = encoded(image, "JPEG", quality=95, exif=exif or Image.Exif())
    assert content[2:11] == b"\xff\xe0\0\x10JFIF\0"
    # Cameras have EXIF first; else LibRaw puts its own before it.
    return (content if exif is None else content[:2] + content[20:]), image.size


def exif_of(orientation: int | None) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("has_exif", ["none", "without an orientation", "with it"])
def test_previews_are_turned_once(tmp_path: Path, orientation: int, has_exif: str) -> None:
    """By the orientation of the file, whether the preview repeats it or not."""
    exif = {
        "none": None,
        "without an orientation": exif_of(None),
        "with it": exif_of(orientation),
    }[has_exif]
    content, size = preview(stored=orientation, exif=exif)
    shape = (96, 64) if size[0] > size[1] else (64, 96)
    (tmp_path / "a.dng").write_bytes(dng(content, size, size=shape, orientation=orientation))
    assert_quarters(load_pixels(as_image(tmp_path / "a.dng"), SIZE_PX), 8)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", CAMERA_FILES)
def test_files_of_cameras(suffix: str, orientation: int, tmp_path: Path) -> None:
    """Each in its maker's structure: upright, with the time when it was taken."""
    path = tmp_path / f"a.{suffix}"
    shown_px = PREVIEW_PX if orientation == 1 else PREVIEW_PX[::-1]  # sensors are wide
    content, _ = preview(stored=orientation, shown_px=shown_px)
    path.write_bytes(CAMERA_FILES[suffix](content, orientation))
    assert_quarters(load_pixels(as_image(path), SIZE_PX), 8)
    assert capture_time(as_image(path)) == datetime(2024, 5, 6, 7, 8, 9)
    assert read_keywords(as_image(path)) == ()


@pytest.mark.parametrize("exif", [None, exif_of(1), exif_of(6)])
def test_previews_that_are_upright_already(tmp_path: Path, exif: Image.Exif | None) -> None:
    """A preview in portrait of a sensor in landscape is not turned again."""
    image = quarters().resize((320, 480), Image.Resampling.NEAREST)
    content = encoded(image, "JPEG", quality=95, exif=exif or Image.Exif())
    (tmp_path / "a.dng").write_bytes(dng(content, image.size, orientation=6))
    assert_quarters(load_pixels(as_image(tmp_path / "a.dng"), SIZE_PX), 8)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_sensor_data_are_turned_once(tmp_path: Path, orientation: int) -> None:
    """Without a preview, the sensor data are read at half size and turned."""
    (tmp_path / "a.dng").write_bytes(dng(orientation=orientation))
    small = load_thumbnail(as_image(tmp_path / "a.dng"), 48)
    assert (small.width, small.height) == ((32, 48) if orientation in (6, 8) else (48, 32))
    pixels = load_pixels(as_image(tmp_path / "a.dng"), SIZE_PX)
    assert pixels[..., 0].min() > pixels[..., 1:].max()  # the mosaic is red


GREEN = encoded(Image.new("RGB", (60, 40), (0, 255, 0)), "JPEG")


@pytest.mark.parametrize(("wanted_px", "shown"), [(20, "preview"), (40, "preview"), (41, "sensor")])
def test_a_small_preview_is_read_if_large_enough(
    tmp_path: Path, wanted_px: int, shown: str
) -> None:
    """Its shorter side needs as many pixels as asked for."""
    (tmp_path / "a.dng").write_bytes(dng(GREEN, (60, 40), size=(480, 320)))
    red, green, _ = load_pixels(as_image(tmp_path / "a.dng"), wanted_px).mean((0, 1))
    assert bool(green > red) is (shown == "preview")


def test_a_preview_as_large_as_half_the_sensor_is_enough(tmp_path: Path) -> None:
    """Sensor data at half size would show no more."""
    (tmp_path / "a.dng").write_bytes(dng(GREEN, (60, 40), size=(120, 80)))
    red, green, _ = load_pixels(as_image(tmp_path / "a.dng"), 64).mean((0, 1))
    assert green > red


def test_raw_files_in_memory_and_of_odd_names(tmp_path: Path) -> None:
    """Members of archives, and names that are not UTF-8, which LibRaw does not open."""
    content = dng(*preview())
    expected = load_pixels(ImageBytes("a.dng", content), SIZE_PX)
    assert_quarters(expected, 8)
    path = tmp_path / os.fsdecode(b"caf\xe9.DNG")
    path.write_bytes(content)
    assert (load_pixels(as_image(path), SIZE_PX) == expected).all()


def test_a_jpeg_with_the_suffix_of_a_raw_file(tmp_path: Path) -> None:
    """The content decides."""
    (tmp_path / "a.raw").write_bytes(preview()[0])
    assert_quarters(load_pixels(as_image(tmp_path / "a.raw"), SIZE_PX), 8)


def test_a_raw_file_of_another_name(tmp_path: Path) -> None:
    """Its first image, perhaps a tiny preview, is not taken for the image."""
    for name in ("upload", "a.tif"):
        (tmp_path / name).write_bytes(dng(*preview()))
        assert "as RAW files do; give it the suffix of its kind" in failure(tmp_path / name)


def failure(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_pixels(as_image(path), SIZE_PX)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_without_the_reader_of_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A RAW file that cannot be read says what to install."""
    (tmp_path / "a.dng").write_bytes(dng(*preview()))
    monkeypatch.setitem(sys.modules, "rawpy", None)
    assert failure(tmp_path / "a.dng").endswith(
        "cannot be read as an image: a RAW file; to read it: pip install 'mlcrf[raw]', "
        "or export it as JPEG"
    )


def test_what_is_no_raw_file(tmp_path: Path) -> None:
    """Text and empty files are told in words of ours."""
    for content in (b"", b"a text\n" * 100):
        (tmp_path / "a.nef").write_bytes(content)
        assert "a RAW file that LibRaw does not read" in failure(tmp_path / "a.nef")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_raw_files(tmp_path: Path, share: float) -> None:
    """Cut in its tags or its preview, it is an error; the preview needs no sensor data."""
    content, size = preview()
    whole = dng(content, size)
    end_of_preview = whole.index(content) + len(content)
    (tmp_path / "whole.dng").write_bytes(whole)
    (tmp_path / "a.dng").write_bytes(whole[: int(end_of_preview * share)])
    for _ in range(20):  # the whole preview is in memory that LibRaw may be given again
        load_pixels(as_image(tmp_path / "whole.dng"), SIZE_PX)
        assert "cannot be read as an image" in failure(tmp_path / "a.dng")
    (tmp_path / "a.dng").write_bytes(whole[:end_of_preview])
    assert_quarters(load_pixels(as_image(tmp_path / "a.dng"), SIZE_PX), 8)


def test_missing_sensor_data_are_not_darkness(tmp_path: Path) -> None:
    """LibRaw takes what is missing as 0."""
    (tmp_path / "a.dng").write_bytes(dng()[:-12_288])
    assert "the file is cut short" in failure(tmp_path / "a.dng")
    (tmp_path / "b.dng").write_bytes(dng(mosaic=(0, 0, 0)))
    assert failure(tmp_path / "b.dng").endswith("a RAW file whose sensor data are missing or dark")


def test_libraw_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """About rows that are missing below those of the strip; what others print is shown."""
    height = b"\x01\x01\x04\0\x01\0\0\0"
    content = dng().replace(height + b"\x40\0", height + b"\x80\0")
    (tmp_path / "a.dng").write_bytes(content)
    assert "a RAW file that LibRaw does not read" in failure(tmp_path / "a.dng")
    assert capfd.readouterr().err == ""
    ctypes.CDLL(None).perror(b"shown")
    assert capfd.readouterr().err.startswith("shown: ")


def test_a_false_size_is_a_bomb(tmp_path: Path) -> None:
    """Before any memory is taken for it."""
    content = dng(size=(96, 64))
    size = (20_000).to_bytes(4, "little")
    for tag, value in ((b"\x00\x01", 96), (b"\x01\x01", 64)):
        entry = tag + b"\x04\0\x01\0\0\0" + value.to_bytes(4, "little")
        assert content.count(entry) == 1
        content = content.replace(entry, entry[:8] + size)
    (tmp_path / "a.dng").write_bytes(content)
    assert "400 million pixels" in failure(tmp_path / "a.dng")
    assert "decompression bomb" in failure(tmp_path / "a.dng")


@pytest.mark.parametrize("preview_first", [True, False])
def test_time_and_keywords_of_a_raw_file(tmp_path: Path, *, preview_first: bool) -> None:
    """Read from its tags, or from the preview where Pillow does not know its first image."""
    path = tmp_path / "a.dng"
    path.write_bytes(dng(*preview(), preview_first=preview_first))
    assert capture_time(as_image(path)) == datetime(2024, 5, 6, 7, 8, 9)
    assert read_keywords(as_image(path)) == ()
    assert_quarters(load_pixels(as_image(path), SIZE_PX), 8)


def test_neither_time_nor_keywords_take_sensor_data(tmp_path: Path) -> None:
    """A RAW file without a preview, and whose tags Pillow does not read, has none of them."""
    path = tmp_path / "a.dng"
    path.write_bytes(dng(preview_first=False))
    assert capture_time(as_image(path)) is None
    with pytest.raises(DataError, match="a RAW file without a preview"):
        read_keywords(as_image(path))
    assert np.ptp(load_pixels(as_image(path), SIZE_PX)) > 0
