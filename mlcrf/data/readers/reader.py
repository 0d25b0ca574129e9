"""The form that every reader of data has, and what a user may say about data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored


@dataclass(frozen=True)
class ReadOptions:
    """Options for data that do not say it themselves.

    Attributes:
        label_set: which MIRFLICKR annotations: 24 potential, 14 relevant, or 38 both.
        image_root: folder that image paths of a table are relative to, on a disk or in an object
            store; the table's own if None.
        label_sep: what separates labels in one text; found out if None.
        labels: the labels expected, by name in any order; taken from the data if None.
        max_problems: how many faults are listed before the rest is only counted.
    """

    label_set: int = 24
    image_root: Path | Stored | None = None
    label_sep: str | None = None
    labels: LabelSpace | None = None
    max_problems: int = 20


@dataclass(frozen=True)
class Reader:
    """A layout of data sets that can be read.

    Attributes:
        name: of the layout, for programs.
        describes: the layout in words, for a user whose data have none that is known.
        detects: whether a path is of this layout.
        read: reads what is of this layout; raises `DataError`, `LabelsError` or `SettingsError`.
    """

    name: str
    describes: str
    detects: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], Manifest]
