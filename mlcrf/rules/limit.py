"""A limit on how many labels of a group are present."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import LabelsError


@dataclass(frozen=True)
class Limit:
    """At least `least` and at most `most` labels of a group are present.

    Attributes:
        labels: columns of the group.
        weight: nats that the log-score of a label set that breaks the limit loses; None if no label
            set may break it.

    Raises:
        LabelsError: a negative column or one that occurs twice, or a weight that is not above 0.
    """

    labels: tuple[int, ...]
    least: int
    most: int
    weight: float | None = None

    def __post_init__(self) -> None:
        if any(label < 0 for label in self.labels) or len(set(self.labels)) < len(self.labels):
            raise LabelsError("rules: expected different columns of labels, from 0, in a limit")
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise LabelsError(f"rules: expected a weight above 0 nats, got {self.weight:g}")

    @property
    def is_hard(self) -> bool:
        return self.weight is None

    @overload
    def is_broken(self, present: NDArray[np.int64]) -> NDArray[np.bool_]: ...
    @overload
    def is_broken(self, present: Tensor) -> Tensor: ...
    def is_broken(self, present: NDArray[np.int64] | Tensor) -> NDArray[np.bool_] | Tensor:
        """Return whether numbers of present labels break the limit, any shape."""
        return (present < self.least) | (present > self.most)

    def renumbered(self, place: dict[int, int]) -> "Limit":
        """Return the limit after renumbering: label i becomes `place[i]`."""
        labels = tuple(place[label] for label in self.labels)
        return Limit(labels, self.least, self.most, self.weight)

    def given(self, present: int, left: Iterable[int]) -> "Limit | None":
        """Return the limit on the labels that are left; None if these cannot change its answer.

        Args:
            present: number of labels of the group that are known to be present.
        """
        kept = set(left)
        labels = tuple(label for label in self.labels if label in kept)
        if len(set(self.is_broken(present + np.arange(len(labels) + 1)).tolist())) == 1:
            return None
        return Limit(labels, max(self.least - present, 0), self.most - present, self.weight)

    def text(self, names: Sequence[str]) -> str:
        """Return the limit as a line that `parse_rule` reads; `names` are those of all columns."""
        size = len(self.labels)
        if (self.least, self.most) == (0, 1):
            kind = "never together" if size == 2 else "exclusive"
        elif self.least == self.most:
            kind = f"exactly {self.least} of"
        elif self.most >= size:
            kind = f"at least {self.least} of"
        elif self.least == 0:
            kind = f"at most {self.most} of"
        else:
            kind = f"at least {self.least} and at most {self.most} of"
        weight = "" if self.weight is None else f" ({self.weight:g})"
        return f"{kind}{weight}: {', '.join(quoted(names[label]) for label in self.labels)}"


def quoted(name: str) -> str:
    """Return a label name as a cell of CSV."""
    if "," in name or '"' in name or name.startswith("#"):
        return '"' + name.replace('"', '""') + '"'
    return name
