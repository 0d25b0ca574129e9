"""Folders of images with a text file of tags for each image: `im1.jpg` and `im1.txt`."""

from pathlib import Path

from mlcrf.data.files import load_text
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.tags import Tags, clean_tags, folder_manifest, unknown_tags
from mlcrf.errors import DataError
from mlcrf.images import Image, LocalImage
from mlcrf.images.listing import walk_images
from mlcrf.labels import LabelSpace


def is_tag_folder(folder: Path) -> bool:
    """Return whether any image in or below a folder has a tag file; stops at the first."""
    return folder.is_dir() and any(
        image.path.with_suffix(".txt").is_file() for image in walk_images(folder)
    )


def read_tag_folder(folder: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read the images and tag files in and below a folder.

    A tag file has one tag per line, or several separated by `options.label_sep`, by default a
    comma. An empty file is the empty set; a single `?` means unknown. Images without a tag file
    are left out, and counted in the notes. Without expected labels, all tags become labels, sorted.

    Raises:
        DataError: no image with a tag file, unexpected tags, or files that are not UTF-8.
    """
    problems, labels = Problems(options.max_problems), options.labels
    images: list[LocalImage] = []
    tags: list[Tags] = []
    untagged = 0
    for image in walk_images(folder):
        file = image.path.with_suffix(".txt")
        if file.is_file():
            images.append(image)
            tags.append(load_tags(file, options.label_sep or ",", labels, problems))
        else:
            untagged += 1
    problems.raise_if_any()
    if not images:
        raise DataError("no image has a tag file; expected im1.txt next to im1.jpg", folder)
    notes = []
    if untagged:
        notes.append(f"{untagged} images without a tag file are left out")
    return folder_manifest(folder, images, tags, labels, notes)


def load_tags(
    file: Path | Image, separator: str, labels: LabelSpace | None, problems: Problems
) -> Tags:
    """Load the tags of a file; errors are added to `problems`."""
    lines = load_text(file, problems).splitlines()
    if [line.strip() for line in lines if line.strip()] == ["?"]:
        return None
    found: set[str] = set()
    for number, line in enumerate(lines, start=1):
        tags = clean_tags(line.split(separator))
        for message in unknown_tags(tags, labels) if labels else ():
            problems.add(file, message, line=number)
        found |= tags
    return frozenset(found)


TAG_FILES = Reader(
    name="tag-files",
    describes="a folder of images, each with a .txt of tags",
    detects=is_tag_folder,
    read=read_tag_folder,
)
