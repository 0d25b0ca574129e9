"""The coordinates of the features in which heads are fitted."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlcrf.errors import DataError
from mlcrf.model import LabelCrf

_DENSE_LABELS = 1024  # up to here pairs are counted by one product of matrices
_AT_ONCE = 2**24  # pairs of targets that are multiplied at once


class FeatureSpace:
    """Standardised features on their principal axes, with targets.

    Args:
        features: float32 (N, D).
        targets: 1, 0, -1 unknown (N, L).

    Raises:
        DataError: a feature is not finite.
    """

    def __init__(self, features: NDArray[np.float32], targets: NDArray[np.int8]) -> None:
        raw = torch.from_numpy(features).double()
        self._mean = raw.mean(0)
        spread = raw.std(0, correction=0)
        self._spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        standard = (raw - self._mean) / self._spread
        moments = standard.T @ standard / len(raw)
        if not bool(torch.isfinite(moments).all()):
            raise DataError("a feature is NaN or infinite; try --engine torch, or another backbone")
        variance, self._axes = torch.linalg.eigh(moments)
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
        with torch.no_grad():
            for layer in _first_layers(result):
                weight = (layer.weight.double() @ self._axes.T) / self._spread
                layer.bias.copy_(layer.bias.double() - weight @ self._mean)
                layer.weight.copy_(weight)
        return result

    def to_axes(self, model: LabelCrf) -> LabelCrf:
        """The inverse of `to_features`, to go on from a fitted model."""
        result = model.clone()
        with torch.no_grad():
            for layer in _first_layers(result):
                raw = layer.weight.double()
                layer.bias.copy_(layer.bias.double() + raw @ self._mean)
                layer.weight.copy_((raw * self._spread) @ self._axes)
        return result

    def spread_gates(self, model: LabelCrf) -> LabelCrf:
        """The same model, for raw features, with gates that read the widest principal axes.

        Each is scaled to a variance of 1, so that the gates differ and say much of the picture.
        """
        if model.gates is None:
            return model
        result = self.to_axes(model)
        assert result.gates is not None
        widest = self.variance.argsort(descending=True, stable=True)[: len(result.gates.weight)]
        with torch.no_grad():
            result.gates.weight.zero_()
            result.gates.bias.zero_()
            for gate, axis in enumerate(widest.tolist()):
                result.gates.weight[gate, axis] = self.variance[axis].clamp(min=1e-12).rsqrt()
        return self.to_features(result)

    def frequencies(self) -> Tensor:
        """Share of images with each label among those where it is known, kept off 0 and 1 (L,)."""
        count = self.observed.sum(0)
        return ((self.targets * self.observed).sum(0) + 0.5) / (count + 1)

    def pair_frequencies(self, edges: Tensor) -> Tensor:
        """Share of all images in which both labels of an edge are known to be present (E,)."""
        present = self.targets * self.observed
        first, second = edges[:, 0], edges[:, 1]
        if present.shape[1] <= _DENSE_LABELS:
            return (present.T @ present)[first, second] / len(self)
        step = max(1, _AT_ONCE // max(1, len(self)))
        counts = [
            (present[:, one] * present[:, other]).sum(0)
            for one, other in zip(torch.split(first, step), torch.split(second, step), strict=True)
        ]
        return torch.cat([present.new_empty(0), *counts]) / len(self)


def _first_layers(model: LabelCrf) -> list[nn.Linear]:
    """Those that read the features."""
    unaries = model.output if model.hidden is None else model.hidden
    return [unaries, *(gates for gates in (model.gates, model.scene_gates) if gates is not None)]
