"""Find albums: photos taken one after the other, by folder and capture time."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from PIL import ExifTags

from mlcrf.images.image import Image
from mlcrf.images.opening import open_image


def find_albums(images: Sequence[Image], *, gap: timedelta) -> list[list[int]]:
    """Return the positions of each album's photos, in the order taken.

    The photos of a folder whose capture time is in EXIF are ordered by time, and a gap longer than
    `gap` starts a new album; each other photo of that folder is an album of its own. Where no photo
    has a time, the folder is one album, ordered by name, with numbers in names by value.

    Args:
        images: in any order; other images of a folder are not considered.

    Cost: reads the header of every file; from an object store, the whole file.
    """
    folders: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        folders.setdefault(image.folder, []).append(place)
    albums: list[list[int]] = []
    for places in folders.values():
        times = {place: capture_time(images[place]) for place in places}
        known = {place: time for place, time in times.items() if time is not None}
        by_name = sorted(places, key=lambda place: _by_name(images[place]))
        if not known:
            albums.append(by_name)
            continue
        albums += [[place] for place in by_name if place not in known]
        ordered = sorted((place for place in by_name if place in known), key=known.__getitem__)
        albums.append(ordered[:1])
        for before, place in pairwise(ordered):
            if known[place] - known[before] > gap:
                albums.append([])
            albums[-1].append(place)
    return albums


def capture_time(image: Image) -> datetime | None:
    """Return the time a photo was taken, by its camera's clock; None if not in EXIF."""
    try:
        with open_image(image) as opened:
            exif = opened.getexif()
            text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")
    except Exception:  # noqa: BLE001  Pillow may raise any exception
        return None


def _by_name(image: Image) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", image.file_name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
