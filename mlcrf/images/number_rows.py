"""Rows of tables of numbers, which have features in place of pixels."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images.image import Image


@dataclass(frozen=True)
class NumberRow(Image):
    """A row of a table of numbers.

    Attributes:
        name: the cell of its id column, else `row 12`.
        identity: what tells it from rows of other tables: the cell of its id column, else the path
            of the table and the row.
        features: the numbers, float32 (D,); None if the row has none, or a faulty one.
        fault: why `features` is missing.
    """

    identity: str
    features: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    fault: str = field(default="is a row of a table without features", compare=False)

    @property
    def is_numbered(self) -> bool:
        """True if the row is named by its number, for want of an id."""
        return self.identity != self.name

    def read(self) -> bytes:
        raise DataError("is a row of a table of numbers and has no pixels", self.name)

    @property
    def address(self) -> str:
        return self.identity

    @property
    def key(self) -> str:
        return self.identity

    def fetch(self) -> "NumberRow":
        return self
