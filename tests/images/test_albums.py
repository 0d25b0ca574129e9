"""Albums by folder, capture time and name."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags
from PIL import Image as PilImage

from mlcrf.images import Image, as_image
from mlcrf.images.albums import capture_time, find_albums

HOUR = timedelta(hours=1)


def photo(path: Path, taken: str | None) -> Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PilImage.fromarray(np.zeros((8, 8, 3), np.uint8))
    exif = PilImage.Exif()
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    image.save(path, exif=exif)
    return as_image(path)


def test_order_by_capture_time_and_cut_at_gaps(tmp_path: Path) -> None:
    """Names say nothing where EXIF does; a gap of more than an hour begins another album."""
    images = [
        photo(tmp_path / "a.jpg", "2026:05:01 12:30:00"),
        photo(tmp_path / "b.jpg", "2026:05:01 12:00:00"),
        photo(tmp_path / "c.jpg", "2026:05:01 13:30:01"),
        photo(tmp_path / "other" / "d.jpg", "2026:05:01 12:10:00"),
    ]
    assert capture_time(images[1]) == datetime(2026, 5, 1, 12)
    assert find_albums(images, gap=HOUR) == [[1, 0], [2], [3]]
    assert find_albums(images, gap=2 * HOUR) == [[1, 0, 2], [3]]


def test_order_by_name_without_times(tmp_path: Path) -> None:
    """Numbers count by value, and nothing is cut."""
    images = [photo(tmp_path / f"IMG_{number}.jpg", None) for number in (10, 9, 2)]
    assert find_albums(images, gap=HOUR) == [[2, 1, 0]]
    assert find_albums([], gap=HOUR) == []


def test_a_photo_without_time_among_others_is_alone(tmp_path: Path) -> None:
    """It neither joins the others nor joins them to each other."""
    images = [
        photo(tmp_path / "a.jpg", None),
        photo(tmp_path / "b.jpg", "2026:05:01 12:00:00"),
        photo(tmp_path / "c.jpg", None),
        photo(tmp_path / "d.jpg", "2020:05:01 12:00:00"),
        photo(tmp_path / "e.jpg", "2026:05:01 11:30:00"),
    ]
    assert find_albums(images, gap=HOUR) == [[0], [2], [3], [4, 1]]


@pytest.mark.parametrize("taken", ["0000:00:00 00:00:00", "yesterday", "", "2026:13:41 99:00:00"])
def test_odd_times_are_none(tmp_path: Path, taken: str) -> None:
    """What is no time, and what is no picture, has none."""
    assert capture_time(photo(tmp_path / "a.jpg", taken)) is None
    (tmp_path / "text.jpg").write_text("no picture")
    assert capture_time(as_image(tmp_path / "text.jpg")) is None
    assert capture_time(as_image(tmp_path / "absent.jpg")) is None
