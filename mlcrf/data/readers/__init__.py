"""Data-set readers, one file per layout; `READERS` lists them all."""

from dataclasses import replace
from pathlib import Path

from mlcrf.choices import Blank, Oddity
from mlcrf.data.files import walk_suffix
from mlcrf.data.manifest import Manifest
from mlcrf.data.plausibility import merge_spellings, require_plausible
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.coco import COCO
from mlcrf.data.readers.hugging_face import HUGGING_FACE
from mlcrf.data.readers.keyword_folder import KEYWORD_FOLDER
from mlcrf.data.readers.label_studio import LABEL_STUDIO
from mlcrf.data.readers.mirflickr import MIRFLICKR
from mlcrf.data.readers.parquet_images import PARQUET_IMAGES
from mlcrf.data.readers.reader import Reader
from mlcrf.data.readers.table import TABLE, read_table
from mlcrf.data.readers.tag_files import TAG_FILES
from mlcrf.data.readers.voc import VOC
from mlcrf.data.readers.webdataset import WEBDATASET
from mlcrf.data.readers.yolo import YOLO
from mlcrf.data.table_files import TABLE_SUFFIXES, tables_in
from mlcrf.errors import DataError
from mlcrf.images.left_out import LeftOut
from mlcrf.images.listing import walk_images
from mlcrf.stores import Stored

__all__ = ["READERS", "ReadOptions", "Reader", "find_reader", "read_dataset"]

# The first reader that detects a path reads it: most specific layouts first.
READERS: tuple[Reader, ...] = (
    TABLE,
    HUGGING_FACE,
    MIRFLICKR,
    VOC,
    LABEL_STUDIO,
    COCO,
    YOLO,
    TAG_FILES,
    WEBDATASET,
    PARQUET_IMAGES,
    KEYWORD_FOLDER,
)

_REMEDIES = {
    (".zip", ".gz", ".tgz"): "is an archive; unpack it and use the folder or file in it",
    (".xlsx", ".xls", ".ods", ".numbers"): "is a spreadsheet; save it as .csv, in UTF-8",
    (".npy", ".npz"): "is a file of numpy, which may hold code and is not opened; save it in "
    "Python by safetensors.numpy.save_file({'features': np.ascontiguousarray(X), 'labels': "
    "np.ascontiguousarray(Y)}, 'data.safetensors')",
}


def read_dataset(path: Path | Stored, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a data set of any known layout; from an object store, a table.

    Raises:
        DataError: no such path, an unknown layout, the errors in the data, or an oddity that
            `options.accept` does not name (see `mlcrf.data.plausibility`).
        LabelsError: the labels differ from `options.labels`.
        SettingsError: an unknown MIRFLICKR label set, or an empty separator.
    """
    if isinstance(path, Path):
        reader = find_reader(path)
        manifest = reader.read(path, options)
        if options.image_root is not None and not reader.uses_image_root:
            unused = f"--image-root means nothing for this layout ({reader.name}) and is not used"
            manifest = replace(manifest, notes=(*manifest.notes, unused))
        return _examined(reader.name, manifest, path, options)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            "from object stores only tables can be read "
            f"({', '.join(sorted(TABLE_SUFFIXES))}); copy other data sets to a local disk",
            path,
        )
    return _examined(TABLE.name, read_table(path, options), path, options)


def _examined(
    layout: str, manifest: Manifest, path: Path | Stored, options: ReadOptions
) -> Manifest:
    """Return a manifest whose labels are merged as asked for, and which is plausible."""
    manifest = replace(manifest, layout=layout)
    if options.fold_case:
        manifest = merge_spellings(manifest, options.labels)
    accept = options.accept
    if options.blank is Blank.UNKNOWN:
        accept = accept | {Oddity.NO_ABSENT}
    return require_plausible(manifest, accept, path, check_names=options.labels is None)


def find_reader(path: Path) -> Reader:
    """Return the reader of a file, by its suffix, or of a folder, by its content.

    Raises:
        DataError: no such path, or an unknown layout.

    Cost: a few directory listings; for keywords, a walk up to the first image with one.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", path)
    found = next((one for one in READERS if one.detects(path)), None)
    if found is None:
        raise DataError(_describe_unknown(path), path)
    return found


def _describe_unknown(path: Path) -> str:
    supported = f"Supported layouts: {'; '.join(one.describes for one in READERS)}."
    if path.is_dir():
        return _describe_folder(path, supported)
    if not path.is_file():
        return "neither a folder nor a regular file"
    for suffixes, remedy in _REMEDIES.items():
        if path.suffix.lower() in suffixes:
            return remedy
    if path.suffix.lower() == ".txt":
        return f"unknown format; if it is a table, name it .csv or .tsv. {supported}"
    return f"unknown format. {supported}"


def _describe_folder(path: Path, supported: str) -> str:
    if tables := tables_in(path):
        return f"unknown layout, but it contains the table {tables[0]}; use that path"
    if inner := sorted(path.glob("*/*.csv")):
        inside = inner[0].relative_to(path)
        return f"unknown layout, but it contains the table {inside}; use that path"
    if files := sorted(path.glob("*.json")):
        return f"unknown layout, but it contains {files[0].name}; use that path"
    left_out = LeftOut()
    count = sum(1 for _ in walk_images(path, left_out))
    if count == 1:
        what = "contains 1 image but no labels for it"
    elif count:
        what = f"contains {count:,} images but no labels for them"
    elif any(walk_suffix(path, ".txt")):
        return (
            "contains text files but no images; put images beside them, or in folders `images` and "
            "`labels` side by side"
        )
    else:
        what = "contains no images and no labels" if any(path.iterdir()) else "the folder is empty"
    if left_out:
        what += f"; left out: {left_out}"
    if count:
        what += ". Write a table of them, with the columns image and labels"
    return f"{what}. {supported}"
