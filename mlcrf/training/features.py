"""Features for the fits of heads: standardised, on their principal axes."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlcrf.backbones.feature_matrix import MappedMatrix, Matrix, map_file, read_rows, write_shard
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN
from mlcrf.model import LabelCrf
from mlcrf.processes import ALONE, Processes

_DENSE_LABELS = 1024  # up to this many labels, pairs are counted by one matrix product
_AT_ONCE = 2**24  # largest number of target pairs per chunk
_CONSTANT = 1e-9  # largest spread of a constant feature relative to its mean, from rounding
_BLOCK = 4096  # largest number of images per block


class FeatureSpace:
    """Standardised features on their principal axes, with targets.

    Mapped features are rotated into a file too, which is private to this process.

    Args:
        features: float32 (N, D).
        targets: 1, 0, -1 unknown (N, L).
        processes: processes that share the images; each computes only its own `blocks`.
        folder: folder for rotated features if they are mapped; None for the system's temporary
            folder.

    Raises:
        DataError: a feature is not finite.

    Cost: O(N D^2). Memory: N D numbers if features are in memory, else a block of them.
    """

    def __init__(
        self,
        features: Matrix,
        targets: NDArray[np.int8],
        *,
        processes: Processes = ALONE,
        folder: Path | None = None,
    ) -> None:
        self.processes = processes
        self._length = len(features)
        self._mean, self._spread, moments = self._moments(features)
        if not bool(torch.isfinite(moments).all()):
            raise DataError("a feature is NaN or infinite; try --engine torch, or another backbone")
        # rounded to float32, which removes differences in the order of sums over processes
        variance, self._axes = torch.linalg.eigh(moments.float().double())
        self.variance = variance.clamp(min=0).float()
        if isinstance(features, MappedMatrix):
            # the file is deleted now; its space is freed once nothing maps it
            with tempfile.TemporaryDirectory(prefix="mlcrf-", dir=folder) as place:
                self._rotated: Tensor | NDArray[np.float32] = self._in_file(features, Path(place))
        else:
            everything = ALONE.blocks(len(self), _block_rows(len(self)))
            self._rotated = torch.cat([self._rotate(features, rows) for rows in everything])
        self.targets = torch.from_numpy(targets).long()

    def __len__(self) -> int:
        return self._length

    def without_targets(self, images: Tensor) -> "FeatureSpace":
        """Return the space in which the targets of some images, bool (N,), are unknown."""
        result = copy.copy(self)
        result.targets = self.targets.masked_fill(images[:, None], -1)
        return result

    def only(self, images: Tensor) -> "FeatureSpace":
        """Return the same axes with some of the images only, bool (N,), in memory."""
        result = copy.copy(self)
        result._length = int(images.sum())
        result._rotated, result.targets = self.rotated[images], self.targets[images]
        return result

    @property
    def rotated(self) -> Tensor:
        """All features on their axes (N, D), in memory."""
        return self.inputs(slice(0, len(self)))

    def inputs(self, rows: slice) -> Tensor:
        """Return the features on their axes of some of this process's images."""
        if isinstance(self._rotated, Tensor):
            return self._rotated[rows]
        begin = self.blocks()[0].start
        own = slice(rows.start - begin, rows.stop - begin)
        return torch.from_numpy(self._rotated[own].copy())

    def blocks(self) -> list[slice]:
        """Return the images of this process in blocks whose gradients are computed in turn.

        Blocks do not depend on the number of processes: an eighth of the images, but at least 256
        and at most 4,096.
        """
        return self.processes.blocks(len(self), _block_rows(len(self)))

    def _moments(self, features: Matrix) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and spread of each feature, and the correlations (D, D)."""
        blocks, num_features = self.blocks(), features.shape[1]
        sums = torch.zeros(num_features, dtype=torch.float64)
        for rows in blocks:
            sums += torch.from_numpy(read_rows(features, rows)).double().sum(0)
        self.processes.all_reduce(sums)
        mean = sums / len(self)
        moments = torch.zeros(num_features, num_features, dtype=torch.float64)
        for rows in blocks:
            centred = torch.from_numpy(read_rows(features, rows)).double() - mean
            moments.addmm_(centred.T, centred)
        self.processes.all_reduce(moments)
        moments /= len(self)
        spread = moments.diagonal().sqrt()
        varies = spread > _CONSTANT * mean.abs()
        spread = torch.where(varies, spread, torch.ones_like(spread))
        return mean, spread, moments / spread / spread[:, None]

    def _rotate(self, features: Matrix, rows: slice) -> Tensor:
        standard = (
            torch.from_numpy(read_rows(features, rows)).double() - self._mean
        ) / self._spread
        rotated: Tensor = standard @ self._axes
        return rotated.float()

    def _in_file(self, features: MappedMatrix, folder: Path) -> NDArray[np.float32]:
        """Write the rotated features of this process's images, and map them."""
        own, path = self.blocks(), folder / "rotated.npy"
        rotated = (self._rotate(features, rows).numpy() for rows in own)
        write_shard(path, rotated, (own[-1].stop - own[0].start if own else 0, features.shape[1]))
        return map_file(path)

    def to_features(self, model: LabelCrf) -> LabelCrf:
        """Return the model of rotated features as a model of raw features."""
        result = model.clone()
        with torch.no_grad():
            for layer in _first_layers(result):
                weight = (layer.weight.double() @ self._axes.T) / self._spread
                layer.bias.copy_(layer.bias.double() - weight @ self._mean)
                layer.weight.copy_(weight)
        return result

    def to_axes(self, model: LabelCrf) -> LabelCrf:
        """Return the inverse of `to_features`, to start from a fitted model."""
        result = model.clone()
        with torch.no_grad():
            for layer in _first_layers(result):
                raw = layer.weight.double()
                layer.bias.copy_(layer.bias.double() + raw @ self._mean)
                layer.weight.copy_((raw * self._spread) @ self._axes)
        return result

    def spread_gates(self, model: LabelCrf) -> LabelCrf:
        """Return a model of raw features whose gates read the widest principal axes.

        Each is scaled to a variance of 1, so that the gates differ and carry much information.
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
        """Return the share of present among known targets of each label, never 0 or 1 (L,).

        A label that a source does not mention counts as absent.
        """
        count = (self.targets != UNKNOWN).sum(0)
        return ((self.targets == 1).float().sum(0) + 0.5) / (count + 1)

    def pair_frequencies(self, edges: Tensor) -> Tensor:
        """Return the share of images in which both labels of an edge are present (E,)."""
        present = (self.targets == 1).float()
        first, second = edges[:, 0], edges[:, 1]
        if present.shape[1] <= _DENSE_LABELS:
            return (present.T @ present)[first, second] / len(self)
        step = max(1, _AT_ONCE // max(1, len(self)))
        counts = [
            (present[:, one] * present[:, other]).sum(0)
            for one, other in zip(torch.split(first, step), torch.split(second, step), strict=True)
        ]
        return torch.cat([present.new_empty(0), *counts]) / len(self)


def _block_rows(count: int) -> int:
    return min(_BLOCK, max(256, -(-count // 8)))


def _first_layers(model: LabelCrf) -> list[nn.Linear]:
    """Return the layers that read the features."""
    unaries = model.output if model.hidden is None else model.hidden
    return [unaries, *(gates for gates in (model.gates, model.scene_gates) if gates is not None)]
