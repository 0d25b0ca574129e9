"""The interface of a data-set reader."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.data.read_options import ReadOptions


@dataclass(frozen=True)
class Reader:
    """A layout of data sets that can be read.

    Attributes:
        name: identifier of the layout.
        describes: the layout in words, for error messages.
        detects: return whether a path has this layout.
        read: read the data set; raises `DataError`, `LabelsError` or `SettingsError`.
        uses_image_root: whether `ReadOptions.image_root` means anything for this layout.
    """

    name: str
    describes: str
    detects: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], Manifest]
    uses_image_root: bool = False
