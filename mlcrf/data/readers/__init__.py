"""Reading data sets: one file a layout, and one tuple of them all."""

from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.data.readers.coco import COCO
from mlcrf.data.readers.hugging_face import HUGGING_FACE
from mlcrf.data.readers.keyword_folder import KEYWORD_FOLDER
from mlcrf.data.readers.mirflickr import MIRFLICKR
from mlcrf.data.readers.parquet_images import PARQUET_IMAGES
from mlcrf.data.readers.reader import Reader, ReadOptions
from mlcrf.data.readers.table import TABLE, read_table
from mlcrf.data.readers.tag_files import TAG_FILES
from mlcrf.data.readers.voc import VOC
from mlcrf.data.readers.webdataset import WEBDATASET
from mlcrf.data.table_files import TABLE_SUFFIXES, tables_in
from mlcrf.errors import DataError
from mlcrf.images.listing import walk_images
from mlcrf.stores import Stored

__all__ = ["READERS", "ReadOptions", "Reader", "find_reader", "read_dataset"]

# The first that detects a path reads it: layouts that say most about themselves stand first.
READERS: tuple[Reader, ...] = (
    TABLE,
    HUGGING_FACE,
    MIRFLICKR,
    VOC,
    COCO,
    TAG_FILES,
    WEBDATASET,
    PARQUET_IMAGES,
    KEYWORD_FOLDER,
)


def read_dataset(path: Path | Stored, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a data set of any known layout; of those in object stores, a table.

    Raises:
        DataError: no such path, no known layout, or everything that is wrong with it.
        LabelsError: the labels differ from `options.labels`.
        SettingsError: no such MIRFLICKR label set, or an empty separator.
    """
    if isinstance(path, Path):
        return find_reader(path).read(path, options)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            "of what is in object stores only tables are read "
            f"({', '.join(sorted(TABLE_SUFFIXES))}), with images there or elsewhere; copy "
            "anything else to a disk",
            path,
        )
    return read_table(path, options)


def find_reader(path: Path) -> Reader:
    """Return the reader of a file, by its suffix, or of a folder, by what it holds.

    Raises:
        DataError: no such path, or no layout that is known; says which are.

    Cost: a few directory listings; for a folder with keywords, a walk to its first keyword.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", path)
    found = next((one for one in READERS if one.detects(path)), None)
    if found is None:
        raise DataError(_what_it_is(path), path)
    return found


def _what_it_is(path: Path) -> str:
    """Describe a file or folder that is of no known layout."""
    understood = f"Understood are: {'; '.join(one.describes for one in READERS)}."
    if path.is_file():
        if path.suffix.lower() in {".zip", ".gz", ".tgz"}:
            return "is an archive; unpack it and give the folder"
        return f"unknown format. {understood}"
    if not path.is_dir():
        return "neither a folder nor a regular file"
    if tables := tables_in(path):
        return f"a folder of no known layout, but {tables[0]} in it is a table: give that."
    what = "the folder is empty"
    if any(path.iterdir()):
        what = "holds no image and no labels"
    if any(walk_images(path)):
        what = "holds images but nothing that labels them"
    return f"{what}. {understood}"
