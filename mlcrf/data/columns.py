"""Find the purpose of each column of a table: image, split, labels, or ignored."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Blank, Oddity
from mlcrf.data.cells import INVALID, MISSING_TEXTS, cell_codes, read_number, shown_cell
from mlcrf.data.manifest import SPLIT_COLUMN, SPLIT_NAMES, Split
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.table_files import IMAGE_COLUMNS, UNNAMED, Records
from mlcrf.errors import DataError
from mlcrf.images.file_kinds import SUFFIXES
from mlcrf.labels import UNKNOWN

LIST_COLUMNS = ("labels", "tags", "label")
# Further names of the column of images, where it is the only one: without case, spaces, `_`, `-`.
_IMAGE_LIKE = frozenset(
    {"image", "imagename", "imageid", "imagefile", "imagepath", "imageindex", "imagefilename"}
    | {"img", "imgname", "imgid", "imgfile", "imgpath", "filename", "filepath", "file", "path"}
    | {"photo", "picture"}
)
SCORE_PREFIXES = ("p:", "independent:")
ABSTAINED = "abstained"  # lists labels that are left open, in tables of our own predictions
# Texts that mean present and absent, once both occur in the label columns of a table.
_WORDS = (
    *(("yes", "no"), ("y", "n"), ("t", "f"), ("present", "absent"), ("on", "off")),
    *(("positive", "negative"), ("pos", "neg"), ("accept", "reject"), ("correct", "incorrect")),
)
_FLAGS = {  # columns of 0 and 1: the split of images with 1, and of those with 0
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), (Split.VALIDATION, Split.TRAIN)),
    "is_test": (Split.TEST, Split.TRAIN),
    "is_train": (Split.TRAIN, Split.TEST),
    "is_training": (Split.TRAIN, Split.TEST),
}
_FLAG_LIKE = {  # those that may be labels: used where the user names them
    **dict.fromkeys(("valid", "val", "validation", "dev"), (Split.VALIDATION, Split.TRAIN)),
    **dict.fromkeys(
        ("test", "testing", "holdout", "held_out", "is_holdout", "eval"), (Split.TEST, Split.TRAIN)
    ),
    **dict.fromkeys(("train", "training"), (Split.TRAIN, Split.TEST)),
}
_SPLIT_LIKE = frozenset(
    {"split", "splits", "subset", "set", "data_split", "partition", "phase", "fold", "folds"}
    | {"usage", "kfold"}
)


@dataclass(frozen=True)
class Columns:
    """The columns of a table by purpose.

    Attributes:
        image: the column of image paths.
        split: columns that divide the images, or none.
        listed: the column that lists the labels of each image, or None.
        valued: label column -> codes of its cells (N,); empty if `listed` is set.
        ignored: columns that are not used.
        words: the texts for present and absent, if not 1 and 0.
    """

    image: str
    split: tuple[str, ...]
    listed: str | None
    valued: dict[str, NDArray[np.int8]]
    ignored: tuple[str, ...]
    words: tuple[str, ...] = ()


def sort_columns(
    records: Records, options: ReadOptions = ReadOptions(), *, row_names: str | None = None
) -> Columns:
    """Sort the columns by name, and by whether their cells are 0, 1 or unknown; see `read_table`.

    Args:
        row_names: column that names the rows of a table of numbers, "" if none does; None finds
            that of image paths.

    Raises:
        DataError: no image column, no label column, a list of labels beside columns that could be
            labels too, a column that may divide the images, or an option that names no column.
    """
    path, cells = records.path, records.columns
    _check_named(records, options)
    image = _image_column(records) if row_names is None else row_names
    told = {image, *options.ignore_columns}
    if options.split_column is not None:
        told.add(options.split_column)
    labels = _told_labels(options)
    index = [name for name in cells if name not in told | labels and _is_index(name, cells[name])]
    told.update(index)
    scores = [name for name in cells if name.startswith(SCORE_PREFIXES) and name not in told]
    open_columns = [name for name in cells if name not in {*told, *scores}]
    split = _split_columns(records, open_columns, options)
    others = [name for name in open_columns if name not in split]
    if options.label_columns is not None:
        left = [name for name in others if name not in options.label_columns]
        others = [name for name in others if name in options.label_columns]
    else:
        left = []
        if unnamed := [name for name in others if name.startswith(UNNAMED) and name not in labels]:
            raise DataError(
                f"column {_names(unnamed)} has no name; name it, or leave it out with "
                f"--ignore-columns {shlex.quote(unnamed[0])}",
                path,
                1,
            )
    texts = frozenset[str]().union(*(_some_texts(cells[name]) for name in others))
    words = _words(texts, options)
    codes = {name: cell_codes(cells[name], words) for name in others}
    more_paths = [
        name
        for name in IMAGE_COLUMNS
        if name in others and (codes[name] == INVALID).any() and not (codes[name] >= 0).any()
    ]
    others = [name for name in others if name not in more_paths]
    ignored = (*index, *more_paths, *left, *options.ignore_columns, *scores)
    if not others:
        raise DataError(
            f"has no label column; found {_names(cells) or 'features only'}. Add a column of 0 and "
            "1 per label, or a column `labels` with a list of them; to safetensors a tensor "
            "`labels` (N, L) of 1, 0 and -1.",
            path,
            1 if records.has_lines else None,
        )
    chosen = {name: codes[name] for name in others}
    listed = _listed_columns(chosen, options)
    if not listed:
        said = tuple(f"{text!r} as {code}" for text, code in words.items() if text in texts)
        if "-1" in texts - words.keys():
            said += ("'-1' as unknown",)
        return Columns(image, split, None, chosen, ignored, said)
    decided = [
        name for name in others if (codes[name] >= 0).any() and not (codes[name] == INVALID).any()
    ]
    if len(listed) > 1 or decided:
        raise DataError(
            f"column {listed[0]!r} lists labels and {_names([*listed[1:], *decided])} "
            "could be labels too; keep the list or the other columns, not both: use "
            f"--label-columns {shlex.quote(listed[0])}, or --ignore-columns. If the other says "
            "whether the label of a row is right, first remove the rows where it is not",
            path,
            1,
        )
    rest = [name for name in others if name != listed[0]]
    return Columns(image, split, listed[0], {}, (*rest, *ignored))


def _image_column(records: Records) -> str:
    named = [name for name in IMAGE_COLUMNS if name in records.columns]
    named = named or _columns_of_images(records) or _columns_named_image(records)
    if not named:
        raise DataError(
            f"has no image column; found {_names(records.columns)}. "
            f"Name the column of the paths one of: {', '.join(IMAGE_COLUMNS)}. "
            "Of a table of numbers, name the columns of features with --features.",
            records.path,
            1,
        )
    return named[0]


def _told_labels(options: ReadOptions) -> set[str]:
    """Return the columns that are labels, since the user named them or they are expected."""
    return {*(options.label_columns or ()), *(options.labels or ())}


def _columns_of_images(records: Records) -> list[str]:
    """Return the only column of names of image files, or none."""
    found = [
        name
        for name, cells in records.columns.items()
        if all(isinstance(cell, str) and cell.lower().endswith(tuple(SUFFIXES)) for cell in cells)
    ]
    return found if len(found) == 1 else []


def _columns_named_image(records: Records) -> list[str]:
    """Return the only column named like one of images, perhaps without suffixes, or none."""
    found = [name for name in records.columns if re.sub(r"[\s_-]", "", name.lower()) in _IMAGE_LIKE]
    return found if len(found) == 1 else []


def _is_index(name: str, cells: Sequence[object]) -> bool:
    """Return whether a column counts the rows from 0 or 1, or has neither a name nor content.

    With fewer than three rows, a column that has a name could be a label.
    """
    unnamed = name.startswith(UNNAMED)
    if unnamed and not any(map(_text, cells)):
        return True
    first = _text(cells[0])
    return (
        (unnamed or len(cells) > 2)
        and first in {"0", "1"}
        and all(_text(cell) == str(number) for number, cell in enumerate(cells, int(first)))
    )


def _listed_columns(codes: Mapping[str, NDArray[np.int8]], options: ReadOptions) -> list[str]:
    """Return the columns that list labels."""
    names = list(codes)
    if options.label_columns is not None and len(names) == 1:
        return names if (codes[names[0]] == INVALID).any() else []
    lists = [name for name in names if name.lower() in LIST_COLUMNS]
    listed = [name for name in lists if (codes[name] == INVALID).any()]
    if names == lists and len(names) == 1 and (codes[names[0]] == UNKNOWN).all():
        return names
    return listed


def _check_named(records: Records, options: ReadOptions) -> None:
    """Refuse options that name a column that the table does not have."""
    named = {
        "--label-columns": options.label_columns or (),
        "--ignore-columns": options.ignore_columns,
        "--split-column": () if options.split_column is None else (options.split_column,),
    }
    for option, names in named.items():
        for name in names:
            if name not in records.columns:
                found = _names(records.columns)
                raise DataError(f"{option}: no column {name!r}; found {found}", records.path, 1)


def _split_columns(records: Records, names: Sequence[str], options: ReadOptions) -> tuple[str, ...]:
    """Return the columns that say of each image to which split it belongs.

    That is the one named by the user, or `split`, or else one of the words train, validation and
    test only, or `is_valid` and the like with 0 and 1.

    Raises:
        DataError: a column that may be one, and is neither accepted nor beyond doubt.
    """
    told = _told_labels(options)
    chosen = options.split_column or (SPLIT_COLUMN if SPLIT_COLUMN in names else None)
    names = [name for name in names if name not in told and name != chosen]
    words, flags, doubtful = [], [], []
    flag_like = {name.strip().lower() for name in names} & _FLAG_LIKE.keys()
    if flag_like <= {"train", "training"}:  # a label, of railways
        flag_like = set()
    for name in names:
        texts = _texts(records.columns[name])
        key = name.strip().lower()
        if texts and texts <= SPLIT_NAMES.keys() and (len(texts) > 1 or key in _SPLIT_LIKE):
            words.append(name)
        elif key in _FLAGS and texts and texts <= _FLAG_TEXTS.keys():
            flags.append(name)
        elif key in _SPLIT_LIKE or key in _FLAGS or key in flag_like:
            doubtful.append(name)
    found = (*words, *flags) if chosen is None else (chosen,)
    if chosen is not None:
        doubtful += [*words, *flags]
    elif len(words) > 1:
        doubtful += words
    if doubtful and Oddity.SPLIT_COLUMN not in options.accept:
        raise DataError(
            f"column {_names(doubtful)} may divide the images into training and test. Use "
            f"--split-column {doubtful[0]} if it does (with {', '.join(SPLIT_NAMES)}), "
            f"--ignore-columns {doubtful[0]} if not, or --label-columns if it is a label",
            records.path,
            1,
        )
    return found


_FLAG_TEXTS = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}


def column_splits(records: Records, name: str) -> list[Split | None]:
    """Return the split of each row by one column (N,); None where the cell says none."""
    key, cells = name.strip().lower(), records.columns[name]
    splits = _FLAGS.get(key) or _FLAG_LIKE.get(key)
    if splits is not None and _texts(cells) <= _FLAG_TEXTS.keys():
        on, off = splits
        flags = [_FLAG_TEXTS.get(_text(cell)) for cell in cells]
        return [None if flag is None else on if flag else off for flag in flags]
    return [SPLIT_NAMES.get(_text(cell)) for cell in cells]


def _words(texts: frozenset[str], options: ReadOptions) -> dict[str, int]:
    """Return the codes of further texts: those that the user named, and English pairs.

    A pair such as yes and no is read where both occur among the texts of the table.
    """
    words = {text.lower(): 1 for text in options.true_words}
    words |= {text.lower(): 0 for text in options.false_words}
    for present, absent in _WORDS:
        if present in texts and absent in texts:
            words = {present: 1, absent: 0} | words
    if options.blank is Blank.ABSENT:
        words[""] = 0
        words |= dict.fromkeys(MISSING_TEXTS, 0)
    return words


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip().lower()


def _texts(cells: Iterable[object]) -> frozenset[str]:
    """Return the distinct texts of cells, without blanks; of unhashable cells none."""
    try:
        return frozenset(map(_text, set(cells))) - {""}
    except TypeError:
        return frozenset()


def _some_texts(cells: Sequence[object]) -> frozenset[str]:
    """Return the distinct texts of cells if they are few, as values are; else none."""
    try:
        distinct = set(cells)
    except TypeError:
        return frozenset()
    return frozenset(map(_text, distinct)) if len(distinct) <= 16 else frozenset()


def describe_invalid(name: str, cells: Sequence[object], codes: NDArray[np.int8]) -> str | None:
    """Return why a column is no label column, in one line; None if only few cells are wrong."""
    wrong = np.flatnonzero(codes == INVALID).tolist()
    known = int((codes >= 0).sum())
    if not wrong:
        return None
    distinct = list(dict.fromkeys(shown_cell(cells[row]) for row in wrong[:1000]))
    shown = ", ".join(distinct[:3])
    numbers = all(_is_number(cells[row]) for row in wrong)
    option = shlex.quote(name)
    if any(isinstance(cells[row], dict) for row in wrong):
        return (
            f"column {name!r} holds records such as {shown}; write one column per label, or a list "
            f"of names, or leave it out with --ignore-columns {option}"
        )
    if numbers and (len(wrong) > max(2, known // 5) or len(distinct) > 2):
        return (
            f"column {name!r} holds numbers such as {shown}; a label holds 1, 0 or a blank. "
            f"Name others with --true NUMBER --false NUMBER, or leave it out with "
            f"--ignore-columns {option}"
        )
    words = all(isinstance(cells[row], str) for row in wrong)
    if words and not numbers and len(distinct) <= 3 and len(wrong) > 2 and len(wrong) >= known:
        return (
            f"column {name!r} holds {shown}; name the words with --true WORD --false WORD, use "
            f"--label-columns {option} if it lists labels, or leave it out with --ignore-columns "
            f"{option}"
        )
    if known == 0:
        return (
            f"column {name!r} contains no 0 or 1, but values such as {shown}; leave it out with "
            f"--ignore-columns {option}, or use --label-columns {option} if it lists labels"
        )
    return None


def _is_number(cell: object) -> bool:
    try:
        read_number(cell)
    except OverflowError:  # an integer with hundreds of digits
        return True
    except (TypeError, ValueError):
        return False
    return True


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:10])
