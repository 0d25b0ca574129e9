"""One door for all formats: look at a path, choose the reader, return a `Manifest`."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import assert_never

from mlcrf.data.manifest import Manifest
from mlcrf.data.readers.coco import find_instances, read_coco
from mlcrf.data.readers.hugging_face import find_metadata, read_huggingface
from mlcrf.data.readers.keyword_folder import has_keywords, read_keyword_folder
from mlcrf.data.readers.mirflickr import is_mirflickr, read_mirflickr
from mlcrf.data.readers.parquet_images import read_pictorial
from mlcrf.data.readers.table import read_table
from mlcrf.data.readers.tag_files import is_tag_folder, read_tag_folder
from mlcrf.data.readers.voc import find_voc, read_voc
from mlcrf.data.readers.webdataset import read_webdataset
from mlcrf.data.records import TABLE_SUFFIXES
from mlcrf.errors import DataError, SettingsError
from mlcrf.images.containers import find_picture_tables, find_tars
from mlcrf.images.listing import walk_images
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored

LAYOUTS = (
    "a .csv, .tsv, .parquet or .jsonl table with an image column; the .json of COCO; "
    "a folder with metadata.csv or metadata.jsonl; a MIRFLICKR folder (mirflickr/im1.jpg, "
    "annotations/sky.txt); a VOC folder (Annotations, JPEGImages); a COCO folder "
    "(annotations/instances_train2017.json); a folder of pictures, each with a .txt of tags; a "
    "folder of pictures with keywords in their XMP or IPTC, or in .xmp sidecars; a .tar, or a "
    "folder of them, of pictures with their tags in .json or .txt (WebDataset); a .parquet, or a "
    "folder of them, with pictures in a column `image` (Hugging Face)"
)


class Format(StrEnum):
    """Layouts of data sets that can be read."""

    TABLE = auto()
    HUGGING_FACE = auto()
    MIRFLICKR = auto()
    VOC = auto()
    COCO = auto()
    TAG_FILES = auto()
    KEYWORDS = auto()
    WEBDATASET = auto()
    PICTORIAL = auto()


# Those that say most of themselves first.
_FOLDER_TESTS: tuple[tuple[Format, Callable[[Path], object]], ...] = (
    (Format.HUGGING_FACE, find_metadata),
    (Format.MIRFLICKR, is_mirflickr),
    (Format.VOC, find_voc),
    (Format.COCO, find_instances),
    (Format.TAG_FILES, is_tag_folder),
    (Format.WEBDATASET, find_tars),
    (Format.PICTORIAL, find_picture_tables),
    # a table says more than the keywords that pictures happen to carry
    (Format.KEYWORDS, lambda folder: not _tables(folder) and has_keywords(folder)),
)


@dataclass(frozen=True)
class ReadOptions:
    """What a user may have to say about data that does not say it itself.

    Attributes:
        label_set: which MIRFLICKR annotations: 24 potential, 14 relevant, or 38 both.
        image_root: folder that image paths of a table are relative to, on a disk or in an object
            store; the table's own if None.
        label_sep: what separates labels in a one-column table; found out if None.
        labels: the labels expected, by name in any order; taken from the data if None.
        max_problems: how many faults are listed before the rest is only counted.
    """

    label_set: int = 24
    image_root: Path | Stored | None = None
    label_sep: str | None = None
    labels: LabelSpace | None = None
    max_problems: int = 20


def read_dataset(  # noqa: PLR0911 - a format each
    path: Path | Stored, options: ReadOptions = ReadOptions()
) -> Manifest:
    """Read a data set of any known format; of those in object stores, a table.

    Raises:
        DataError: no such path, no known format, or everything that is wrong with it.
        LabelsError: the labels differ from `options.labels`.
        SettingsError: no such MIRFLICKR label set, or an empty separator.
    """
    root, sep = options.image_root, options.label_sep
    labels, limit = options.labels, options.max_problems
    if isinstance(path, Stored):
        _require_table(path)
        return read_table(path, image_root=root, label_sep=sep, labels=labels, max_problems=limit)
    match sniff_format(path):
        case Format.TABLE:
            return read_table(
                path, image_root=root, label_sep=sep, labels=labels, max_problems=limit
            )
        case Format.HUGGING_FACE:
            return read_huggingface(
                path, image_root=root, label_sep=sep, labels=labels, max_problems=limit
            )
        case Format.MIRFLICKR:
            return read_mirflickr(
                path, label_set=options.label_set, labels=labels, max_problems=limit
            )
        case Format.VOC:
            return read_voc(path, labels=labels, max_problems=limit)
        case Format.COCO:
            if isinstance(root, Stored):
                raise SettingsError(f"{root}: COCO's pictures are read from disks; copy them there")
            return read_coco(path, image_root=root, labels=labels, max_problems=limit)
        case Format.TAG_FILES:
            return read_tag_folder(path, label_sep=sep, labels=labels, max_problems=limit)
        case Format.KEYWORDS:
            return read_keyword_folder(path, labels=labels, max_problems=limit)
        case Format.WEBDATASET:
            return read_webdataset(path, label_sep=sep, labels=labels, max_problems=limit)
        case Format.PICTORIAL:
            return read_pictorial(path, label_sep=sep, labels=labels, max_problems=limit)
        case unreachable:
            assert_never(unreachable)


def sniff_format(path: Path) -> Format:
    """Find out the format of a file by its suffix, of a folder by what it holds.

    Files: tables, the JSON of COCO, tar files. Folders, the first that fits: metadata of Hugging
    Face, MIRFLICKR, VOC, COCO, tag files beside pictures, tar files, Parquet files of pictures,
    pictures with keywords.

    Raises:
        DataError: no such path, or none of these; says which layouts are understood.

    Cost: a few directory listings; for a folder of the last kind, a walk to its first keyword.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", path)
    if path.is_file():
        return _sniff_file(path)
    found = next((one for one, fits in _FOLDER_TESTS if fits(path)), None)
    if found is None:
        raise DataError(_unknown_folder(path))
    return found


def _require_table(stored: Stored) -> None:
    if stored.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"of what is in object stores only tables are read "
            f"({', '.join(sorted(TABLE_SUFFIXES))}), with pictures there or elsewhere; copy "
            "anything else to a disk",
            stored,
        )


def _sniff_file(path: Path) -> Format:
    suffix = path.suffix.lower()
    if find_picture_tables(path):
        return Format.PICTORIAL
    if suffix in TABLE_SUFFIXES:
        return Format.TABLE
    if suffix == ".json":
        return Format.COCO
    if suffix == ".tar":
        return Format.WEBDATASET
    if suffix in {".zip", ".gz", ".tgz"}:
        raise DataError("is an archive; unpack it and give the folder", path)
    raise DataError(f"unknown format. Understood are: {LAYOUTS}.", path)


def _unknown_folder(path: Path) -> str:
    """What to tell of a folder that is of no known layout."""
    if not path.is_dir():
        return f"{path}: neither a folder nor a regular file"
    if not any(path.iterdir()):
        return f"{path}: the folder is empty. Understood are: {LAYOUTS}."
    tables = _tables(path)
    if tables:
        return f"{path}: a folder of no known layout, but {tables[0]} in it is a table: give that."
    if any(walk_images(path)):
        return f"{path}: holds pictures but nothing that labels them. Understood are: {LAYOUTS}."
    return f"{path}: holds no picture and no labels. Understood are: {LAYOUTS}."


def _tables(folder: Path) -> list[str]:
    """Names of the tables in a folder."""
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in TABLE_SUFFIXES)
