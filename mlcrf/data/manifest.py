"""The one form in which every data set reaches the rest: images, targets, splits."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.implications import Implications
from mlcrf.labels import LabelSpace


class Split(StrEnum):
    """Which part of a data set an image belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Manifest:
    """N images with what is known of their L labels.

    Attributes:
        images: the images, wherever they are (N,).
        targets: 1 present, 0 absent, -1 unknown; int8 (N, L).
        labels: what the columns of `targets` are.
        splits: part of each image (N,), or None where the data set does not say.
        name: what the data are called in results, such as `mirflickr25k-24`.
        notes: what a reader repaired or left out, for the user to know.
        implications: between the labels; the targets obey them (see `mlcrf.data.implications`).
    """

    images: tuple[Image, ...]
    targets: NDArray[np.int8]
    labels: LabelSpace
    splits: tuple[Split, ...] | None
    name: str
    notes: tuple[str, ...] = field(default=())
    implications: Implications = Implications()

    def __post_init__(self) -> None:
        assert self.targets.shape == (len(self.images), len(self.labels))
        assert self.splits is None or len(self.splits) == len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, wanted: NDArray[np.int64]) -> "Manifest":
        """The images at the given positions, in that order."""
        return replace(
            self,
            images=tuple(self.images[row] for row in wanted),
            targets=self.targets[wanted],
            splits=None if self.splits is None else tuple(self.splits[row] for row in wanted),
        )

    def part(self, split: Split) -> "Manifest":
        """The images of one split.

        Raises:
            DataError: the data set has no splits, or no image in this one.
        """
        if self.splits is None:
            raise DataError(
                f"has no split named {split.value!r}: the data say nothing of splits. "
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

    def relabelled(self, labels: LabelSpace) -> "Manifest":
        """The same images with the columns of `labels`, matched by name in any order.

        Raises:
            LabelsError: the names differ.
        """
        columns = labels.columns_in(self.labels)
        return replace(
            self,
            targets=self.targets[:, columns],
            labels=labels,
            implications=self.implications.renumbered(columns),
        )
