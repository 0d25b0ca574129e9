"""Convert each image's set of tags to targets."""

import ast
import json
import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.cells import MISSING_TEXTS, shown_cell
from mlcrf.data.manifest import SPLIT_NAMES, Manifest, Split
from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import counted
from mlcrf.images import Image
from mlcrf.labels import UNKNOWN, LabelSpace, composed
from mlcrf.stores import Stored

Tags = frozenset[str] | None
"""The tags of one image; tags not listed are absent. None means that nothing is known."""

_SEPARATORS = (
    ";",
    "|",
    ",",
    "\n",
    "\t",
    *("\u061b", "\u060c"),  # Arabic
    "\uff1b",
    "\uff0c",
    "\u3001",
    "\uff5c",
)  # and their full-width forms
_QUOTES = ("''", '""', "\u201c\u201d", "\u201e\u201c", "\u00ab\u00bb", "\u300c\u300d")
_UNKNOWN_TEXTS = frozenset({"", "?", "-1"})


@dataclass(frozen=True)
class Separator:
    """The sign between the labels of a cell, and what the other signs say.

    Attributes:
        sign: the separator; None if each cell is one label.
        cells: number of cells with it.
        others: the candidates that occur too, and the number of cells with each.
    """

    sign: str | None
    cells: int
    others: dict[str, int]


def find_separator(cells: Iterable[object]) -> Separator:
    """Return the sign among `;`, `|`, `,` and the like by which labels repeat most over cells."""
    texts = [cell for cell in cells if isinstance(cell, str) and not _is_literal(cell)]
    counts = {sign: sum(sign in text for text in texts) for sign in _SEPARATORS}
    counts = {sign: count for sign, count in counts.items() if count}
    if not counts:
        return Separator(None, 0, {})
    sign = max(counts, key=lambda sign: (_repetitions(texts, sign), counts[sign]))
    return Separator(sign, counts[sign], {other: n for other, n in counts.items() if other != sign})


def _repetitions(texts: Iterable[str], sign: str) -> int:
    names = [name.strip() for text in texts for name in text.split(sign) if name.strip()]
    return len(names) - len(set(names))


def parse_tags(cell: object, separator: str | None) -> Tags:
    """Return the tags in one cell of a list column.

    Args:
        cell: a list of names; a text of names between separators, each perhaps in quotes; a list,
            tuple, set or array of names in the notation of JSON, Python or NumPy; a record
            `{"choices": [...]}`; or None, an empty text, `?`, -1 or `nan`, which mean unknown. The
            empty set is an empty list, as text `[]`.
        separator: None if each text is one tag.

    Raises:
        ValueError: not a list of names.
    """
    if isinstance(cell, str) and _is_literal(cell):
        cell = _parse_literal(cell)
    if isinstance(cell, dict) and list(cell) == ["choices"] and isinstance(cell["choices"], list):
        cell = cell["choices"]  # Label Studio's export of a multiple choice
    if isinstance(cell, list):
        wrong = [item for item in cell if not isinstance(item, str | int) or isinstance(item, bool)]
        if wrong:
            raise ValueError(f"{reprlib.repr(wrong[0])} in a list of labels is not a name")
        if len(cell) > 1 and set(cell) <= {0, 1} and len(set(cell)) < len(cell):
            raise ValueError(
                f"{shown_cell(cell)} is a vector of 0 and 1, not a list of labels; "
                "write one column per label"
            )
        return clean_tags(str(item) for item in cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if not isinstance(cell, str | int) or isinstance(cell, bool):
        hint = "; write one column per label, or a list of names" if isinstance(cell, dict) else ""
        raise ValueError(f"expected a list of labels, got {shown_cell(cell)}{hint}")
    text = str(cell)
    if is_unknown(text):
        return None
    return clean_tags(map(_unquoted, text.split(separator) if separator else [text]))


def is_unknown(text: str) -> bool:
    """Return whether a whole cell means that the labels are unknown."""
    text = text.strip()
    return text in _UNKNOWN_TEXTS or text.lower() in MISSING_TEXTS or text == "None"


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1] if len(name) > 1 and name[0] + name[-1] in _QUOTES else name


def clean_tags(names: Iterable[str]) -> frozenset[str]:
    """Strip names, compose their accents, and leave out empty names."""
    return frozenset(composed(name) for name in names if name.strip())


def unknown_tags(tags: frozenset[str], labels: LabelSpace) -> list[str]:
    """Return a message for each tag that is not a label, with the closest label."""
    messages = []
    for name in sorted(tags.difference(labels.names)):
        try:
            labels.index(name)
        except LabelsError as error:
            messages.append(str(error))
    return messages


def vocabulary(tags: Iterable[Tags], source: Path | Stored) -> LabelSpace:
    """Return all names that occur, sorted.

    Raises:
        DataError: no names, or a name that is not a valid label name.
    """
    names = sorted(frozenset[str]().union(*(one for one in tags if one)))
    if not names:
        raise DataError("contains no label; tag some images or give the labels", source)
    try:
        return LabelSpace(tuple(names))
    except LabelsError as error:
        raise DataError(f"{error}", source) from error


def tag_targets(tags: Sequence[Tags], labels: LabelSpace) -> NDArray[np.int8]:
    """Return targets (N, L): 1 listed, 0 not listed, -1 in the rows of unknown tags."""
    column = {name: place for place, name in enumerate(labels)}
    targets = np.zeros((len(tags), len(labels)), dtype=np.int8)
    for row, names in enumerate(tags):
        if names is None:
            targets[row] = UNKNOWN
        else:
            targets[row, [column[name] for name in names]] = 1
    return targets


def relabelled(manifest: Manifest, labels: LabelSpace | None, source: Path | Stored) -> Manifest:
    """Return the manifest with the columns of the expected labels, if any are expected.

    Raises:
        LabelsError: the names differ.
    """
    try:
        return manifest.relabelled(labels) if labels else manifest
    except LabelsError as error:
        raise LabelsError(f"{source}: {error}") from error


def folder_manifest(
    folder: Path,
    images: Sequence[Image],
    tags: Sequence[Tags],
    labels: LabelSpace | None,
    notes: Sequence[str],
    facts: Sequence[str] = (),
) -> Manifest:
    """Make a data set named after its folder; without `labels`, all tags are labels.

    Folders train, validation (or val) and test, at the top or in one folder there, are splits if
    they hold all images.
    """
    space = labels or vocabulary(tags, folder)
    splits = [_split_of_folder(image, folder) for image in images]
    known = tuple(split for split in splits if split is not None)
    notes, facts = list(notes), list(facts)
    if len(known) == len(images) and Split.TRAIN in known:
        facts.append("splits from folders")
    elif known:
        names = ", ".join(sorted({one.value for one in known}))
        notes.append(
            f"{len(known)} of "
            f"{counted(len(images), 'image is', 'images are')} "
            f"in folders named after a split ({names}), "
            "which is not used: it needs all images in such folders, some for training"
        )
    return Manifest(
        tuple(images),
        tag_targets(tags, space),
        space,
        known if "splits from folders" in facts else None,
        folder.resolve().name,
        notes=tuple(notes),
        lists_positives=True,
        facts=tuple(facts),
    )


def _split_of_folder(image: Image, folder: Path) -> Split | None:
    """Return the split that the first or second folder of an image's path names."""
    if image.location is None or not image.location.is_relative_to(folder):
        return None
    parts = image.location.relative_to(folder).parts[:-1][:2]
    return next((SPLIT_NAMES[part.lower()] for part in parts if part.lower() in SPLIT_NAMES), None)


_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_NUMPY_ITEM = re.compile(r"""\s*('[^']*'|"[^"]*")""")


def _is_literal(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and _BRACKETS.get(stripped[0]) == stripped[-1]


def _parse_literal(text: str) -> object:
    """Parse a list in the notation of JSON, Python (which pandas writes to CSV) or NumPy.

    Raises:
        ValueError: another text in square brackets or braces.
    """
    text = text.strip()
    if items := _numpy_items(text):
        return items
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list | dict):
            return parsed
        if isinstance(parsed, tuple | set):
            return list(parsed)
    if text.startswith("("):
        return text  # a name in brackets
    raise ValueError(
        f"{text[:40]!r} is not a list in JSON or Python notation; put the names in quotes, or "
        "leave out the brackets"
    )


def _numpy_items(text: str) -> list[str]:
    """Return the items of a NumPy array as text, `['a' 'b']`; empty if it is not one."""
    inside = text[1:-1].strip()
    items = _NUMPY_ITEM.findall(inside)
    is_array = text.startswith("[") and not _NUMPY_ITEM.sub("", inside).strip()
    return [item[1:-1] for item in items] if is_array and len(items) > 1 else []
