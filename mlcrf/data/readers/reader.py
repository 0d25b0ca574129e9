"""The interface of a data-set reader, and its options."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored


@dataclass(frozen=True)
class ReadOptions:
    """Options for facts that the data do not state.

    Attributes:
        label_set: MIRFLICKR annotations: 24 potential, 14 relevant, or 38 both.
        image_root: folder that image paths in a table are relative to; None is the table's folder.
        label_sep: separator of labels in a text; None detects it.
        labels: expected labels, in any order; None takes them from the data.
        max_problems: number of errors listed; more are counted.
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
        name: identifier of the layout.
        describes: the layout in words, for error messages.
        detects: return whether a path has this layout.
        read: read the data set; raises `DataError`, `LabelsError` or `SettingsError`.
    """

    name: str
    describes: str
    detects: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], Manifest]
