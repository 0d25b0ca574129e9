"""The common form of all data sets: images, targets, splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.cells import INVALID, cell_codes, shown_cell
from mlcrf.errors import DataError
from mlcrf.hints import counted
from mlcrf.images import Image, as_image
from mlcrf.images.number_rows import NumberRow
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules import Rules

if TYPE_CHECKING:
    import pandas as pd


class Split(StrEnum):
    """A part of a data set."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


IMAGE_COLUMN, SPLIT_COLUMN = "image", "split"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("validation", "val", "valid", "dev"), Split.VALIDATION),
    **dict.fromkeys(("test", "testing"), Split.TEST),
}


@dataclass(frozen=True)
class Manifest:
    """N images and their L labels, as far as known.

    Attributes:
        images: the images (N,).
        targets: 1 present, 0 absent, -1 unknown; int8 (N, L).
        labels: names of the columns of `targets`.
        splits: split of each image (N,), or None if the data set defines none.
        name: name of the data set in results, such as `mirflickr25k-24`.
        notes: messages for the user about data that were repaired or left out.
        rules: the targets obey them (see `mlcrf.data.rules`).
        lists_positives: whether the source lists present labels only, so that 0 means `not
            listed`.
        layout: name of the reader.
        facts: how the source was understood, such as the columns used, for the user.
        mentions: of each source that lists only a part of what is present, by name: 1 listed, 0
            not listed, -1 nothing said; int8 (N, L). What is not listed is unknown in `targets`.
        lines: by table, the line (of Parquet the row) of each image in it, 0 if it is not there;
            int64 (N,). Empty if the images are not from tables.
        feature_names: names of the features of a table of numbers (D,); none for images.
    """

    images: tuple[Image, ...]
    targets: NDArray[np.int8]
    labels: LabelSpace
    splits: tuple[Split, ...] | None
    name: str
    notes: tuple[str, ...] = ()
    rules: Rules = Rules()
    lists_positives: bool = False
    layout: str = ""
    facts: tuple[str, ...] = ()
    mentions: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    lines: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.images), len(self.labels))
        if self.targets.shape != expected:
            raise DataError(f"targets: expected {expected}, got {self.targets.shape}")
        if self.splits is not None and len(self.splits) != len(self.images):
            raise DataError(f"splits: expected {len(self.images)}, got {len(self.splits)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def features(self) -> NDArray[np.float32] | None:
        """The features of a table of numbers (N, D); None if there are images instead."""
        rows = [one.features for one in self.images if isinstance(one, NumberRow)]
        found = [row for row in rows if row is not None]
        return np.stack(found) if found and len(found) == len(self) else None

    @classmethod
    def from_frame(
        cls,
        frame: "pd.DataFrame",
        *,
        images: str = IMAGE_COLUMN,
        labels: Sequence[str] | None = None,
        name: str = "frame",
    ) -> "Manifest":
        """Make a manifest from a pandas table with one row per image.

        An optional column `split` contains train, validation (or val) or test. Rows that repeat an
        image with the same labels and split are left out, with a note.

        Args:
            images: column of paths, URLs or `Image` values.
            labels: label columns, with 1 or True for present, 0 or False for absent and
                NaN, NA or None for unknown; all other columns if None.
            name: name of the data set in results.

        Raises:
            DataError: a column is missing, a cell is invalid, or an image has two rows that differ.
            LabelsError: a column name is not a valid label name.
        """
        if labels is None:
            labels = [one for one in frame.columns if one not in (images, SPLIT_COLUMN)]
        missing = [one for one in (images, *labels) if one not in frame.columns]
        if missing:
            raise DataError(f"has no column {missing[0]!r}", name)
        space = LabelSpace(tuple(map(str, labels)))
        targets = np.stack([_frame_codes(frame, label, name) for label in labels], axis=1)
        found = _frame_cells(frame, images)
        for row, cell in enumerate(found):
            if not isinstance(cell, str | Path | Image):
                expected = "expected a path, a URL or an Image"
                raise DataError(f"row {row}: image {shown_cell(cell)}; {expected}", name)
        splits = None
        if SPLIT_COLUMN in frame.columns:
            splits = tuple(_frame_splits(_frame_cells(frame, SPLIT_COLUMN), name))
        listed = tuple(map(as_image, found))
        kept = _first_rows(listed, targets, splits, name)
        manifest = cls(listed, targets, space, splits, name)
        if len(kept) == len(manifest):
            return manifest
        note = (
            f"{counted(len(manifest) - len(kept), 'row stands', 'rows stand')} "
            "twice, with the same labels"
        )
        return replace(manifest.rows(np.array(kept)), notes=(note,))

    def to_frame(self) -> "pd.DataFrame":
        """Return a pandas table that `from_frame` reads back: `image`, `split`, and each label.

        Labels are of type Int8 with NA for unknown; without splits there is no column `split`.

        Raises:
            DataError: a label is called `image` or `split`.
        """
        import pandas as pd

        for name in (IMAGE_COLUMN, SPLIT_COLUMN):
            if name in self.labels:
                raise DataError(f"label {name!r} has another meaning in a table", self.name)
        columns: dict[str, object] = {IMAGE_COLUMN: [image.name for image in self.images]}
        if self.splits is not None:
            columns[SPLIT_COLUMN] = [split.value for split in self.splits]
        for label, values in zip(self.labels, self.targets.T, strict=True):
            columns[label] = pd.arrays.IntegerArray(values.copy(), values == UNKNOWN)
        return pd.DataFrame(columns)

    def rows(self, wanted: NDArray[np.int64]) -> "Manifest":
        """Return the images at the given positions, in that order."""
        return replace(
            self,
            images=tuple(self.images[row] for row in wanted),
            targets=self.targets[wanted],
            splits=None if self.splits is None else tuple(self.splits[row] for row in wanted),
            mentions={name: said[wanted] for name, said in self.mentions.items()},
            lines={table: lines[wanted] for table, lines in self.lines.items()},
        )

    def place(self, row: int) -> str:
        """Return where an image stands: `tags.csv:7`, in each table that has it, or `row 6`."""
        held = [f"{name}:{lines[row]}" for name, lines in self.lines.items() if lines[row]]
        return ", ".join(held) or f"row {row + 1}"

    def part(self, split: Split) -> "Manifest":
        """Return the images of one split.

        Raises:
            DataError: the data set has no splits, or no image in this one.
        """
        if self.splits is None:
            raise DataError(
                f"has no split named {split.value!r}: the data define no splits. "
                "Add a column `split`, or use --split all.",
                self.name,
            )
        wanted = np.flatnonzero([one == split for one in self.splits])
        if not len(wanted):
            counts = ", ".join(f"{s.value} {self.splits.count(s)}" for s in Split)
            raise DataError(
                f"no image in split {split.value!r} ({counts}); choose another", self.name
            )
        return self.rows(wanted)

    def of_features(self, names: Sequence[str]) -> "Manifest":
        """Return the rows of a table of numbers with some of its features, in this order.

        Images stay as they are, and so do rows that lack one of the features, or where none are
        named.
        """
        wanted = tuple(names)
        if wanted == self.feature_names or not wanted or set(wanted) - set(self.feature_names):
            return self
        place = {name: column for column, name in enumerate(self.feature_names)}
        columns = [place[name] for name in wanted]
        images = tuple(
            replace(one, features=one.features[columns])
            if isinstance(one, NumberRow) and one.features is not None
            else one
            for one in self.images
        )
        return replace(self, images=images, feature_names=wanted)

    def relabelled(self, labels: LabelSpace) -> "Manifest":
        """Return the same images with the columns of `labels`, matched by name.

        Raises:
            LabelsError: the names differ.
        """
        columns = labels.columns_in(self.labels)
        return replace(
            self,
            targets=self.targets[:, columns],
            labels=labels,
            rules=self.rules.renumbered(columns),
            mentions={name: said[:, columns] for name, said in self.mentions.items()},
        )


def _frame_cells(frame: "pd.DataFrame", column: str) -> list[Any]:
    """Return the cells of a column as Python values, None for missing values."""
    pairs = zip(frame[column].tolist(), frame[column].isna(), strict=True)
    return [None if is_missing else cell for cell, is_missing in pairs]


def _first_rows(
    images: Sequence[Image],
    targets: NDArray[np.int8],
    splits: Sequence[Split] | None,
    name: str,
) -> list[int]:
    """Return the first row of each image.

    Raises:
        DataError: another row of the image has other labels or another split.
    """
    first: dict[Image, int] = {}
    for row, image in enumerate(images):
        earlier = first.setdefault(image, row)
        if (targets[row] != targets[earlier]).any():
            raise DataError(f"rows {earlier} and {row}: {image} has other labels", name)
        if splits is not None and splits[row] != splits[earlier]:
            raise DataError(f"rows {earlier} and {row}: {image} is in another split", name)
    return list(first.values())


def _frame_codes(frame: "pd.DataFrame", label: str, name: str) -> NDArray[np.int8]:
    cells = _frame_cells(frame, label)
    codes = cell_codes(cells)
    for row in np.flatnonzero(codes == INVALID)[:1].tolist():
        value = shown_cell(cells[row])
        raise DataError(f"row {row}: label {label!r} is {value}; expected 0, 1 or NA", name)
    return codes


def _frame_splits(cells: Iterable[Any], name: str) -> Iterator[Split]:
    for row, cell in enumerate(cells):
        split = SPLIT_NAMES.get(cell) if isinstance(cell, str) else None
        if split is None:
            expected = f"expected {', '.join(SPLIT_NAMES)}"
            raise DataError(f"row {row}: unknown split {shown_cell(cell)}; {expected}", name)
        yield split
