"""Features and targets of one split."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.feature_matrix import Matrix, join, read_rows
from mlcrf.crf import Potentials
from mlcrf.model import LabelCrf


@dataclass(frozen=True)
class Examples:
    """Features and targets of one split.

    Attributes:
        features: float32 (N, D), in memory or mapped.
        targets: 1, 0, -1 unknown (N, L); below -1 unknown, and not mentioned by sources that list
            only a part of what is present (see `mlcrf.training.mentions`).
    """

    features: Matrix
    targets: NDArray[np.int8]

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(
            join(self.features, other.features), np.concatenate([self.targets, other.targets])
        )

    def rows(self, chosen: NDArray[np.bool_]) -> "Examples":
        """Return some of the examples, bool (N,), in memory."""
        return Examples(np.asarray(self.features)[chosen], self.targets[chosen])

    def potentials(self, model: LabelCrf, rows: slice) -> Potentials:
        """Return the potentials of some of the images."""
        potentials: Potentials = model(torch.from_numpy(read_rows(self.features, rows)))
        return potentials
