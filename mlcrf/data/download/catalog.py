"""Known data sets: URLs and checksums of their archives, and records of unpacked files."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Self
from urllib.parse import urlsplit

from mlcrf import atomic
from mlcrf.errors import DownloadError
from mlcrf.hints import did_you_mean

_MARKER = ".mlcrf-download.json"
_CHUNK_BYTES = 1 << 20
_SUMS_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<name>\S.*)")


@dataclass(frozen=True)
class Archive:
    """One zip or tar file of a data set.

    Attributes:
        url: the publisher's URL; the last part of the path is the archive's name.
        size: size in bytes; None if not reliably known.
        checksum: `sha256:` or `md5:` and hexadecimal digits; None if not reliably known, so that
            only the size can be checked.
        folder: folder to unpack into, below the data set's folder.
        expansion: estimated unpacked bytes per byte of archive, to check free space.
    """

    url: str
    size: int | None
    checksum: str | None
    folder: str = "."
    expansion: float = 1.1

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True)
class CatalogEntry:
    """A data set that can be fetched by name.

    Attributes:
        tried_at_host: whether the download was ever run against the publisher's host. False for all
            entries so far: URLs, sizes and checksums are as published, and the code is tested
            against local servers.
    """

    name: str
    title: str
    home: str
    licence: str
    archives: tuple[Archive, ...]
    tried_at_host: bool = False


@dataclass(frozen=True)
class Unpacked:
    """The record of a data set unpacked into a folder, stored as JSON.

    Attributes:
        name: name of the data set.
        archives: archive name -> algorithm -> hash.
        folders: relative path -> number of files and bytes directly in the folder.
        notes: notes about the download, repeated when it is found again.
    """

    name: str
    archives: dict[str, dict[str, str]]
    folders: dict[str, tuple[int, int]]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        name: str,
        archives: dict[str, dict[str, str]],
        sizes: Mapping[PurePosixPath, int],
        notes: tuple[str, ...],
    ) -> Self:
        """Make a record from the path and size of each file."""
        folders: dict[str, tuple[int, int]] = {}
        for path, size in sizes.items():
            files, total = folders.get(str(path.parent), (0, 0))
            folders[str(path.parent)] = (files + 1, total + size)
        return cls(name, archives, folders, notes)

    @property
    def files(self) -> int:
        return sum(files for files, _ in self.folders.values())

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.folders.values())

    def save(self, dest: Path) -> None:
        record = {**asdict(self), "files": self.files, "bytes": self.bytes}
        atomic.write_text(dest / _MARKER, json.dumps(record, indent=1) + "\n")


def was_unpacked(dest: Path) -> bool:
    """Return whether a download has been unpacked into a folder, complete or not any more."""
    return (dest / _MARKER).is_file()


def load_unpacked(entry: CatalogEntry, dest: Path) -> Unpacked | None:
    """Load the record of a folder; None if the data set seems incomplete.

    Each folder must have at least the recorded number of files and bytes; changed content is not
    detected.
    """
    try:
        record = json.loads((dest / _MARKER).read_text(encoding="utf-8"))
        folders = {
            path: (int(files), int(size)) for path, (files, size) in record["folders"].items()
        }
        found = Unpacked(record["name"], record["archives"], folders, tuple(record["notes"]))
        if found.name != entry.name or set(found.archives) != {a.name for a in entry.archives}:
            return None
        for path, (files, size) in folders.items():
            with os.scandir(dest / path) as there:
                sizes = [item.stat().st_size for item in there if item.is_file()]
            if len(sizes) < files or sum(sizes) < size:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def hash_file(
    path: Path, algorithms: set[str], progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Hash a file with several algorithms in one pass.

    Args:
        progress: called with the bytes read so far.
    """
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    done = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            for hasher in hashers.values():
                hasher.update(chunk)
            done += len(chunk)
            if progress:
                progress(done)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def read_sums(text: str, *, origin: str) -> dict[str, str]:
    """Read the lines of a `SHA256SUMS` file, as `sha256sum` writes them.

    Raises:
        DownloadError: a line is neither blank, a comment, nor a hash with a file name.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SUMS_LINE.fullmatch(line.rstrip())
        if match is None:
            raise DownloadError(
                f"{origin}:{number}: expected '<64 hexadecimal digits>  <file name>', "
                f"got {line[:80]!r}. Create it with sha256sum."
            )
        sums[match["name"]] = f"sha256:{match['digest'].lower()}"
    return sums


def find_entry(name: str) -> CatalogEntry:
    """Look up a data set by name.

    Raises:
        DownloadError: unknown name; suggests the closest and lists all.
    """
    if name in CATALOG:
        return CATALOG[name]
    hint = did_you_mean(name, CATALOG) or "."
    raise DownloadError(
        f"unknown data set {name!r}{hint} Known data sets: {', '.join(CATALOG)}, synthetic."
    )


_LIACS = "https://press.liacs.nl/mirflickr/mirflickr25k.v3b"
# The same files as at host.robots.ox.ac.uk, which uses http and redirects here.
_OXFORD = "https://thor.robots.ox.ac.uk/pascal/VOC"
# images.cocodataset.org is this bucket, but its certificate has another name.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org"
_VOC_LICENCE = "photos from Flickr under its terms of use; see the home page"

_ENTRIES = (
    CatalogEntry(
        name="mirflickr25k",
        title="MIRFLICKR-25000: 25,000 Flickr photos with 24 potential and 14 relevant labels",
        home="https://press.liacs.nl/mirflickr/",
        licence="photos by their authors under Creative Commons licences; see the home page",
        archives=(
            Archive(
                f"{_LIACS}/mirflickr25k.zip",
                3_069_184_257,
                "md5:a23d0a8564ee84cda5622a6c2f947785",
            ),
            Archive(
                f"{_LIACS}/mirflickr25k_annotations_v080.zip",
                207_220,
                "md5:aa0138c79892b1b670184d142380948f",
                folder="annotations",
                expansion=5.0,
            ),
        ),
    ),
    CatalogEntry(
        name="voc2007",
        title="PASCAL VOC 2007: 9,963 photos with 20 object classes",
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        licence=_VOC_LICENCE,
        archives=(
            Archive(
                f"{_OXFORD}/voc2007/VOCtrainval_06-Nov-2007.tar",
                460_032_000,
                "md5:c52e279531787c972589f7e41ab4ae64",
            ),
            Archive(
                f"{_OXFORD}/voc2007/VOCtest_06-Nov-2007.tar",
                451_020_800,
                "md5:b6e924de25625d8de591ea690078ad9f",
            ),
        ),
    ),
    CatalogEntry(
        name="voc2012",
        title="PASCAL VOC 2012: 17,125 photos with 20 object classes (training and validation)",
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        licence=_VOC_LICENCE,
        archives=(
            Archive(
                f"{_OXFORD}/voc2012/VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
    ),
    CatalogEntry(
        name="coco2017",
        title="COCO 2017: 118,287 training and 5,000 validation photos with 80 object classes",
        home="https://cocodataset.org/",
        licence="annotations CC BY 4.0; photos from Flickr under its terms of use",
        archives=(
            Archive(
                f"{_COCO}/zips/train2017.zip",
                19_336_861_798,
                "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
            Archive(
                f"{_COCO}/zips/val2017.zip",
                815_585_330,
                "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                252_907_541,
                "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
                expansion=5.0,
            ),
        ),
    ),
)

CATALOG: Mapping[str, CatalogEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
