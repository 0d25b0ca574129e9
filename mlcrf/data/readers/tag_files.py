"""Folders of images with a text file of tags for each image: `im1.jpg` and `im1.txt`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mlcrf.data.files import load_text, walk_suffix
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.tags import (
    Tags,
    find_separator,
    folder_manifest,
    parse_tags,
    unknown_tags,
)
from mlcrf.errors import DataError
from mlcrf.hints import are, counted
from mlcrf.images import Image, LeftOut, LocalImage
from mlcrf.images.file_kinds import Kind
from mlcrf.images.listing import walk_images
from mlcrf.labels import LabelSpace, fold

_SUFFIX = ".txt"
# Folders of images, and those of their tag files beside them: `images/1.jpg`, `labels/1.txt`.
_PARALLEL = {"images": "labels", "Images": "Labels", "imgs": "labels"}


@dataclass
class TagFiles:
    """The text files below a folder, found by the images that they belong to."""

    folder: Path
    _exact: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    _folded: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for file in walk_suffix(self.folder, _SUFFIX):
            key = file.relative_to(self.folder).with_suffix("").as_posix()
            self._exact[key].append(file)
            self._folded[fold(key)].append(file)

    def __len__(self) -> int:
        return len(self._exact)

    def of(self, inside: PurePath) -> list[Path]:
        """Return the tag files of an image at a path inside the folder; letter case as written.

        They are beside it, or in a folder `labels` beside its folder `images`, and are named
        `im1.txt` or `im1.jpg.txt`. Names that differ in case or accents count if there is no other.
        """
        places = [inside]
        for at, part in enumerate(inside.parts[:-1]):
            if part in _PARALLEL:
                places.append(
                    PurePath(*inside.parts[:at], _PARALLEL[part], *inside.parts[at + 1 :])
                )
        keys = [key.as_posix() for one in places for key in (one.with_suffix(""), one)]
        found = [file for key in keys for file in self._exact.get(key, ())]
        return found or [file for key in keys for file in self._folded.get(fold(key), ())]

    def others(self, used: set[Path]) -> list[Path]:
        """Return the text files that no image has."""
        return [file for files in self._exact.values() for file in files if file not in used]


@dataclass
class TaggedImages:
    """Images and their tag files, in order, and notes on the others."""

    images: list[LocalImage] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_tag_folder(folder: Path) -> bool:
    """Return whether any image in or below a folder has a tag file; stops at the first."""
    return folder.is_dir() and next(walk_tag_files(folder), None) is not None


def walk_tag_files(folder: Path) -> Iterator[Path]:
    """Yield the tag files of the images in and below a folder."""
    tag_files = TagFiles(folder)
    for image in walk_images(folder) if len(tag_files) else ():
        yield from tag_files.of(image.path.relative_to(folder))


def find_tagged_images(folder: Path, problems: Problems) -> TaggedImages:
    """Find the images in and below a folder that have a tag file.

    Raises:
        DataError: no image has one.
    """
    found = TaggedImages()
    owners: dict[Path, list[LocalImage]] = defaultdict(list)
    tag_files = TagFiles(folder)
    untagged, left_out = 0, LeftOut()
    for image in walk_images(folder, left_out):
        files = tag_files.of(image.path.relative_to(folder))
        if len(files) > 1:
            problems.add(image, f"has the tag files {files[0]} and {files[1]}; keep one")
        if not files:
            untagged += 1
            continue
        owners[files[0]].append(image)
        found.images.append(image)
        found.files.append(files[0])
    if not found.images:
        raise DataError("no image has a tag file; expected im1.txt next to im1.jpg", folder)
    if untagged:
        found.notes.append(
            f"{counted(untagged, 'image')} without a tag file {are(untagged)} left out"
        )
    if others := tag_files.others({*found.files}):
        found.notes.append(
            f"{len(others)} text files belong to no image and are not read, such as "
            f"{others[0].name!r}"
        )
    left_out.forget(Kind.OTHER)  # such as tag files in a folder of their own
    if left_out:
        found.notes.append(f"left out: {left_out}")
    shared = [file for file, images in owners.items() if len(images) > 1]
    if shared:
        names = " and ".join(repr(image.file_name) for image in owners[shared[0]][:2])
        found.notes.append(
            f"{len(shared)} tag files belong to several images, such as {shared[0].name!r} to "
            f"{names}"
        )
    return found


def read_tag_folder(folder: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read the images and tag files in and below a folder.

    A tag file has one tag per line, or several separated by `options.label_sep`, by default that of
    `,`, `;`, `|` by which tags repeat most. An empty file is the empty set; a single `?` means
    unknown. Images without a tag file, or with one that is not UTF-8 text, are left out, and
    counted in the notes. Without expected labels, all tags become labels, sorted.

    Raises:
        DataError: no image with a tag file that can be read, or unexpected tags.
    """
    problems, labels = Problems(options.max_problems), options.labels
    found = find_tagged_images(folder, problems)
    unreadable = Problems(options.max_problems)
    texts = {file: load_text(file, unreadable) for file in found.files}
    if unreadable.found:
        bad = {one.path for one in unreadable.found}
        kept = [at for at, file in enumerate(found.files) if str(file) not in bad]
        if not kept:
            unreadable.raise_if_any()
        found.images = [found.images[at] for at in kept]
        found.files = [found.files[at] for at in kept]
        found.notes.append(unreadable.note("tag file"))
    lines = {file: texts[file].splitlines() for file in found.files}
    separator = find_separator(line for own in lines.values() for line in own)
    sign = options.label_sep or separator.sign or ","
    tags = [tags_of_lines(file, lines[file], sign, labels, problems) for file in found.files]
    problems.raise_if_any()
    notes, facts = found.notes, []
    if options.label_sep is None and separator.sign is not None:
        facts.append(f"labels separated by {sign!r} ({counted(separator.cells, 'line')})")
        notes += [
            f"{counted(count, 'line contains', 'lines contain')} "
            f"{other!r}, which does not separate labels; --label-sep chooses"
            for other, count in separator.others.items()
        ]
    return folder_manifest(folder, found.images, tags, labels, notes, facts)


def load_tags(
    file: Path | Image, separator: str, labels: LabelSpace | None, problems: Problems
) -> Tags:
    """Load the tags of a file; errors are added to `problems`."""
    return tags_of_lines(file, load_text(file, problems).splitlines(), separator, labels, problems)


def tags_of_lines(
    file: Path | Image,
    lines: Sequence[str],
    separator: str,
    labels: LabelSpace | None,
    problems: Problems,
) -> Tags:
    """Return the tags in the lines of a file; errors are added to `problems`."""
    if [line.strip() for line in lines if line.strip()] == ["?"]:
        return None
    found: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            tags = parse_tags(line, separator) if line.strip() else frozenset()
        except ValueError as error:
            problems.add(file, str(error), line=number)
            continue
        tags = frozenset({line.strip()}) if tags is None else tags  # a word for a missing value
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
