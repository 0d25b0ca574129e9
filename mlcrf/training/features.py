"""The coordinates of the features in which heads are fitted."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.model import LabelCrf


class FeatureSpace:
    """Standardised features on their principal axes, with targets.

    Args:
        features: float32 (N, D).
        targets: 1, 0, -1 unknown (N, L).
    """

    def __init__(self, features: NDArray[np.float32], targets: NDArray[np.int8]) -> None:
        raw = torch.from_numpy(features).double()
        self._mean = raw.mean(0)
        spread = raw.std(0, correction=0)
        self._spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        standard = (raw - self._mean) / self._spread
        variance, self._axes = torch.linalg.eigh(standard.T @ standard / len(raw))
        self.variance = variance.clamp(min=0).float()
        self.rotated = (standard @ self._axes).float()
        known = torch.from_numpy(targets.astype(np.int64))
        self.observed = known >= 0
        self.targets = (known == 1).float()

    def __len__(self) -> int:
        return len(self.rotated)

    def to_features(self, model: LabelCrf) -> LabelCrf:
        """The same model for raw features instead of rotated ones."""
        result = model.clone()
        first = result.output if result.hidden is None else result.hidden
        with torch.no_grad():
            weight = (first.weight.double() @ self._axes.T) / self._spread
            first.bias.copy_(first.bias.double() - weight @ self._mean)
            first.weight.copy_(weight)
        return result

    def to_axes(self, model: LabelCrf) -> LabelCrf:
        """The inverse of `to_features`, to go on from a fitted model."""
        result = model.clone()
        first = result.output if result.hidden is None else result.hidden
        with torch.no_grad():
            raw = first.weight.double()
            first.bias.copy_(first.bias.double() + raw @ self._mean)
            first.weight.copy_((raw * self._spread) @ self._axes)
        return result

    def frequencies(self) -> Tensor:
        """Share of images with each label among those where it is known, kept off 0 and 1 (L,)."""
        count = self.observed.sum(0)
        return ((self.targets * self.observed).sum(0) + 0.5) / (count + 1)
