"""Folders of images with keywords in XMP sidecars, embedded XMP or IPTC."""

from contextlib import suppress
from pathlib import Path

from mlcrf.data.files import walk_suffix
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.table_files import tables_in
from mlcrf.data.tags import clean_tags, folder_manifest
from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import are, counted
from mlcrf.images import LeftOut, LocalImage
from mlcrf.images.file_kinds import Kind
from mlcrf.images.listing import walk_images
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace, fold


def has_keywords(folder: Path) -> bool:
    """Return whether any image in or below a folder has a keyword; stops at the first.

    False for a folder with a table, which is more specific.
    """
    if not folder.is_dir() or tables_in(folder):
        return False
    places = PhotoPlaces()
    for image in walk_images(folder):
        with suppress(DataError):
            if _keywords(image, places):
                return True
    return False


def read_keyword_folder(folder: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read the keywords that people gave to the images in and below a folder.

    Labels that are not keywords of an image are absent; images without keywords, or with metadata
    that cannot be read, are left out, and counted in the notes. Keywords written by mlcrf are
    ignored.

    Expected labels are matched without regard to case; other keywords are left out, and counted in
    the notes. Without expected labels, all keywords become labels, sorted.

    Raises:
        DataError: no image with keywords, or no label among them.

    Cost: reads the header of every image.
    """
    unreadable, labels = Problems(options.max_problems), options.labels
    places = PhotoPlaces()
    expected = None if labels is None else {fold(name): name for name in labels}
    images: list[LocalImage] = []
    tags: list[frozenset[str]] = []
    left_out: set[str] = set()
    untagged, not_images = 0, LeftOut()
    sidecars: set[Path] = set()
    for image in walk_images(folder, not_images):
        sidecars.update(places.all_sidecars(image))
        try:
            keywords = clean_tags(_keywords(image, places))
        except DataError as error:
            unreadable.found.append(error)
            continue
        if not keywords:
            untagged += 1
            continue
        if expected is None:
            other = {name for name in keywords if not _can_be_label(name)}
            tags.append(keywords - other)
        else:
            other = {name for name in keywords if fold(name) not in expected}
            tags.append(frozenset(expected[fold(name)] for name in keywords - other))
        images.append(image)
        left_out |= other
    if not images:
        unreadable.raise_if_any()
        raise DataError("no image has a keyword in its XMP, its IPTC or a sidecar", folder)
    if labels is not None and not any(tags):
        some = ", ".join(repr(name) for name in sorted(left_out)[:5])
        raise DataError(f"none of the labels is among its keywords, such as {some}", folder)
    notes = []
    if unreadable.found:
        notes.append(unreadable.note("image"))
    if untagged:
        notes.append(f"{counted(untagged, 'image')} without keywords {are(untagged)} left out")
    others = [file for file in walk_suffix(folder, ".xmp") if file not in sidecars]
    if others:
        notes.append(
            f"{counted(len(others), 'sidecar belongs', 'sidecars belong')} "
            f"to no image that is read, such as {others[0].name!r}"
        )
    not_images.forget(Kind.SIDECAR)
    if not_images:
        notes.append(f"left out: {not_images}")
    if left_out:
        names = [" ".join(name.split()) for name in sorted(left_out)[:5]]
        some = ", ".join(names) + (", ..." if len(left_out) > 5 else "")
        notes.append(
            f"{counted(len(left_out), 'keyword')} other than labels {are(len(left_out))} "
            f"left out: {some}"
        )
    return folder_manifest(folder, images, tags, labels, notes)


def _keywords(image: LocalImage, places: PhotoPlaces) -> tuple[str, ...]:
    sidecar = places.existing_sidecar(image)
    return read_keywords(image, sidecar) if sidecar else read_keywords(image)


def _can_be_label(name: str) -> bool:
    try:
        LabelSpace((name,))
    except LabelsError:
        return False
    return True


KEYWORD_FOLDER = Reader(
    name="keyword-folder",
    describes="a folder of images with keywords in their XMP or IPTC, or in .xmp sidecars",
    detects=has_keywords,
    read=read_keyword_folder,
)
