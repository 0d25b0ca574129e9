"""Albums: photos taken one after the other, by folder and capture time."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from PIL import ExifTags

from mlcrf.images.image import Image
from mlcrf.images.opening import open_image


def find_albums(images: Sequence[Image], *, gap: timedelta) -> list[list[int]]:
    """Places of the photos of each album, in the order in which they were taken.

    The photos of one folder are an album. If EXIF gives the capture time of all of them, they are
    ordered by it, and a longer gap than `gap` begins another album; else they are ordered by name,
    numbers in it by their value.

    Args:
        images: in any order; an album holds those that are given, not all that the folder has.

    Cost: the head of every file is read; of one in an object store all of it.
    """
    folders: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        folders.setdefault(image.folder, []).append(place)
    albums: list[list[int]] = []
    for places in folders.values():
        times = {place: capture_time(images[place]) for place in places}
        known = {place: time for place, time in times.items() if time is not None}
        if len(known) < len(places):
            albums.append(sorted(places, key=lambda place: _by_name(images[place])))
            continue
        ordered = sorted(places, key=lambda place: (known[place], _by_name(images[place])))
        albums.append(ordered[:1])
        for before, place in pairwise(ordered):
            if known[place] - known[before] > gap:
                albums.append([])
            albums[-1].append(place)
    return albums


def capture_time(image: Image) -> datetime | None:
    """Return when a photo was taken, by its camera's clock; None if its EXIF does not say."""
    try:
        with open_image(image) as opened:
            exif = opened.getexif()
            text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")
    except Exception:  # noqa: BLE001  what Pillow raises on odd files and EXIF is nowhere bounded
        return None


def _by_name(image: Image) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", image.file_name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
