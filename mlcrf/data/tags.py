"""Convert each image's set of tags to targets."""

import ast
import json
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.cells import shown_cell
from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import Image
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.stores import Stored

Tags = frozenset[str] | None
"""The tags of one image; tags not listed are absent. None means that nothing is known."""

_SEPARATORS = (";", "|", ",")
_UNKNOWN_TEXTS = frozenset({"", "?", "-1"})


def sniff_separator(cells: Iterable[object]) -> str | None:
    """Return the first of `;`, `|` and `,` that occurs in any text cell; None if none does."""
    texts = [cell for cell in cells if isinstance(cell, str) and not _is_literal(cell)]
    return next((sign for sign in _SEPARATORS if any(sign in text for text in texts)), None)


def parse_tags(cell: object, separator: str | None) -> Tags:
    """Return the tags in one cell of a list column.

    Args:
        cell: a list of names; a text of names between separators; a list in JSON or Python
            notation; or None, an empty text, `?` or -1, which mean unknown. The empty set is an
            empty list, as text `[]`.
        separator: None if each text is one tag.

    Raises:
        ValueError: not a list of names.
    """
    if isinstance(cell, str) and _is_literal(cell):
        cell = _parse_literal(cell)
    if isinstance(cell, list):
        wrong = [item for item in cell if not isinstance(item, str | int) or isinstance(item, bool)]
        if wrong:
            raise ValueError(f"{reprlib.repr(wrong[0])} in a list of labels is not a name")
        return clean_tags(str(item) for item in cell)
    if cell is None:
        return None
    if not isinstance(cell, str | int) or isinstance(cell, bool):
        raise ValueError(f"expected a list of labels, got {shown_cell(cell)}")
    text = str(cell)
    if text.strip() in _UNKNOWN_TEXTS:
        return None
    return clean_tags(text.split(separator) if separator else [text])


def clean_tags(names: Iterable[str]) -> frozenset[str]:
    """Strip names, and leave out empty names."""
    return frozenset(name.strip() for name in names if name.strip())


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
) -> Manifest:
    """Make a data set named after its folder; without `labels`, all tags are labels."""
    space = labels or vocabulary(tags, folder)
    targets = tag_targets(tags, space)
    name = folder.resolve().name
    return Manifest(
        tuple(images), targets, space, None, name, notes=tuple(notes), lists_positives=True
    )


def _is_literal(text: str) -> bool:
    stripped = text.strip()
    return stripped.startswith("[") and stripped.endswith("]")


def _parse_literal(text: str) -> list[object]:
    """Parse a list in JSON or in Python notation, which pandas writes to CSV."""
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list):
            return parsed
    raise ValueError(f"{text[:40]!r} is not a list in JSON or Python notation")
