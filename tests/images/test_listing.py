"""Pictures are listed anew each time, so that none is held."""

import os
from pathlib import Path

from mlcrf.images import ListedImages, LocalImage, list_images


def test_pictures_are_listed_anew(tmp_path: Path) -> None:
    """Gone through twice, counted once, cut off at the limit."""
    names = ["a.jpg", "b.png", "sub/c.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pictures = ListedImages(lambda left_out: list_images([tmp_path], left_out))
    assert len(pictures) == 3
    assert list(pictures) == list(pictures) == [LocalImage(str(tmp_path / name)) for name in names]
    first = ListedImages(lambda left_out: list_images([tmp_path], left_out), limit=2)
    assert len(first) == 2
    assert list(first) == [LocalImage(str(tmp_path / name)) for name in names[:2]]
    assert not ListedImages(lambda left_out: list_images([tmp_path], left_out), limit=0)


def test_listing_holds_no_more_for_more_files(tmp_path: Path) -> None:
    """What is held of 3,000 files in thirty folders is less than their names would take."""
    import gc
    import tracemalloc

    for number in range(3000):
        place = tmp_path / f"{number // 100}" / f"{number}.jpg"
        place.parent.mkdir(exist_ok=True)
        os.close(os.open(place, os.O_CREAT))
    pictures = ListedImages(lambda left_out: list_images([tmp_path], left_out))
    assert len(pictures) == 3000  # what is imported and kept once is not what this is about
    held = list(pictures)  # pathlib interns names: else that table may be enlarged just now
    gc.collect()
    tracemalloc.start()
    assert len(pictures) == sum(1 for _ in pictures) == 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 3000
    assert peak < 100_000
