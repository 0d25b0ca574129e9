"""Parameters scaled so that the loss has about the same curvature in all directions.

For a CRF the curvature of the negative log-likelihood is the covariance, given the image, of the
factors of the parameters: phi = (y_i, y_i y_j) for biases and couplings, y_i times a feature for
the weights. Averaged over images, with features on their principal axes (variance s_k^2) that are
taken as independent of the labels' spread, it has two parts,

    C = mean_x Cov(phi | x)              for biases and couplings together
    s_k^2 C_y + penalty                  for the weights of axis k, C_y the y_i part of C

C is estimated from pairs of samples of the model that the fit starts from. Losses that curve less
across labels, and models with too many couplings for a matrix, take C as diagonal.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import RunError
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.model import LabelCrf
from mlcrf.training.features import FeatureSpace
from mlcrf.training.parameter_blocks import Block, Mixed, Rotated, Scaled, Signed

_LEAST_CURVATURE = 1e-12  # smallest curvature, for constant features without a penalty
_SWEEPS = 31  # Gibbs sweeps before a sample
_COUNTED = 4.0  # weight of the variance over the images, in samples
_MOST_MIXED = 4096  # labels plus couplings; above this only variances are computed


@dataclass(frozen=True)
class Penalty:
    """Strengths of the penalties.

    Attributes:
        weights: factor of half the sum of squares of the head's weights, for standardised
            features; biases have no penalty.
        pairwise: the same for couplings; divided by K for the shifts of K latent scenes, since
            each is learned from a share of the images.
        pairwise_l1: factor of the sum of absolute couplings, which sets many couplings to 0.
    """

    weights: float
    pairwise: float
    pairwise_l1: float = 0.0

    def scaled(self, factor: float) -> "Penalty":
        """Return the penalties of a fit that leaves out the rest of the images."""
        return Penalty(factor * self.weights, factor * self.pairwise, factor * self.pairwise_l1)

    def __str__(self) -> str:
        text = f"penalties {self.weights:g} and {self.pairwise:g}"
        return f"{text}, L1 {self.pairwise_l1:g}" if self.pairwise_l1 else text


class Curvature(Protocol):
    """Curvature of a loss in biases and couplings, averaged over images."""

    def __call__(self, space: FeatureSpace, model: LabelCrf) -> Tensor:
        """Return a matrix (L + E, L + E), or its diagonal (L + E,)."""
        ...


class Preconditioner:
    """A linear map between a flat vector and the parameters of a model.

        weights of the output = basis @ (scale * part)        orthogonal basis over labels
        (biases, couplings)   = mixing @ part                 mixing mixing^T = C^-1

    With an L1 penalty each coupling is the difference of two nonnegative numbers.

    Args:
        model: `parameters` reads its parameters, `assign` sets them.
        curvature: C of the loss.
        frozen: fit only biases and couplings, not the head's weights.

    Raises:
        RunError: the curvature is not finite.

    Cost: O((L + E)^3) once if C is a matrix, else linear in parameters.
    """

    def __init__(
        self,
        space: FeatureSpace,
        model: LabelCrf,
        penalty: Penalty,
        *,
        curvature: Curvature,
        frozen: bool = False,
    ) -> None:
        self._model, self._penalty, self._frozen = model, penalty, frozen
        num_labels = model.num_labels
        moments = curvature(space, model)
        if not bool(torch.isfinite(moments).all()):
            raise RunError("the curvature is not finite; raise the penalties")
        values = moments.diagonal() if moments.ndim == 2 else moments
        values[num_labels:].add_(penalty.pairwise)
        values.add_(1e-4 * values.mean())
        of_labels = values[:num_labels].clone()
        biases, couplings = model.output.bias, model.pairwise
        self._blocks: list[Block] = []
        if penalty.pairwise_l1:
            root = values.rsqrt()
            self._blocks += [
                Scaled(biases, root[:num_labels]),
                Signed(couplings, root[num_labels:], penalty.pairwise_l1),
            ]
        elif moments.ndim == 2:
            self._blocks.append(Mixed((biases, couplings), moments))
        else:
            root = values.rsqrt()
            self._blocks += [
                Scaled(biases, root[:num_labels]),
                Scaled(couplings, root[num_labels:]),
            ]
        mean = of_labels.mean()
        if not frozen:
            across = moments[:num_labels, :num_labels] if moments.ndim == 2 else of_labels
            self._blocks += self._of_weights(space, across, mean)
        self._blocks += self._of_gates(space, values[num_labels:], mean)
        self._blocks += self._of_scenes(space, of_labels)

    def _of_weights(self, space: FeatureSpace, across: Tensor, mean: Tensor) -> list[Block]:
        model, penalty = self._model, self._penalty.weights
        of_inputs = space.variance if model.hidden is None else torch.ones(())
        if across.ndim == 2:
            across, basis = torch.linalg.eigh(across)
        else:
            basis = None
        scale = _root(across[:, None] * of_inputs + penalty).expand_as(model.output.weight)
        blocks: list[Block] = [
            Scaled(model.output.weight, scale)
            if basis is None
            else Rotated(model.output.weight, basis, scale)
        ]
        if model.hidden is not None:
            blocks += [
                Scaled(model.hidden.weight, _root(space.variance * mean + penalty)),
                Scaled(model.hidden.bias, torch.ones(())),
            ]
        return blocks

    def _of_gates(self, space: FeatureSpace, of_pairs: Tensor, mean: Tensor) -> list[Block]:
        model, penalty = self._model, self._penalty
        if model.gates is None or model.factors is None:
            return []
        return [
            Scaled(model.factors, _root(of_pairs)),
            Scaled(model.gates.weight, _root(space.variance * mean + penalty.weights)),
            Scaled(model.gates.bias, torch.ones(())),
        ]

    def _of_scenes(self, space: FeatureSpace, of_labels: Tensor) -> list[Block]:
        model, penalty = self._model, self._penalty
        if model.scene_gates is None or model.shifts is None:
            return []
        share = 1 / len(model.shifts)  # of the images per scene
        return [
            Scaled(
                model.shifts, _root(share * (of_labels + penalty.pairwise)).expand_as(model.shifts)
            ),
            Scaled(model.scene_gates.weight, _root(space.variance * share + penalty.weights)),
            Scaled(model.scene_gates.bias, torch.tensor(share).rsqrt().double()),
        ]

    def parameters(self) -> NDArray[np.float64]:
        """Return the model's parameters as a flat vector."""
        return np.concatenate([block.parameters().numpy() for block in self._blocks])

    def assign(self, position: NDArray[np.float64]) -> None:
        """Set the model's parameters from a flat vector."""
        sizes = [block.size for block in self._blocks]
        parts = torch.from_numpy(position).split(sizes)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for block, part in zip(self._blocks, parts, strict=True):
                block.assign(part)

    def gradient(self) -> NDArray[np.float64]:
        """Return the gradient by the flat vector, from the gradients of the model's parameters."""
        return np.concatenate([block.gradient().numpy() for block in self._blocks])

    def lower_bounds(self) -> NDArray[np.float64]:
        """Return a lower bound of each number of the flat vector."""
        return np.concatenate(
            [
                np.full(block.size, 0.0 if block.is_nonnegative else -np.inf)
                for block in self._blocks
            ]
        )

    def add_penalty(self) -> float:
        """Return the penalty of the model; add its gradient to the parameters' gradients.

        The gradient of the L1 penalty is part of `gradient`.
        """
        model, total = self._model, 0.0
        strengths: list[tuple[Tensor | None, float]] = [
            (None if self._frozen else model.output.weight, self._penalty.weights),
            (model.pairwise, self._penalty.pairwise),
            (model.factors, self._penalty.pairwise),
        ]
        if model.hidden is not None and not self._frozen:
            strengths.append((model.hidden.weight, self._penalty.weights))
        if model.gates is not None:
            strengths.append((model.gates.weight, self._penalty.weights))
        if model.scene_gates is not None:
            strengths.append((model.scene_gates.weight, self._penalty.weights))
            strengths.append((model.shifts, self._penalty.pairwise / model.num_scenes))
        for parameter, strength in strengths:
            if parameter is None:
                continue
            total += float(strength / 2 * parameter.detach().double().square().sum())
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=strength)
        size = model.pairwise.detach().double().abs().sum()
        return total + self._penalty.pairwise_l1 * float(size)


def counted_variance(space: FeatureSpace, model: LabelCrf) -> Tensor:
    """Return the variances of y_i and of y_i y_j over the images (L + E,).

    Cost: O(N L^2) up to 1,024 labels, else O(N E).
    """
    frequency = space.frequencies().double()
    together = space.pair_frequencies(model.edges).double()
    together = together.clamp(1 / len(space), 1 - 1 / len(space))
    both = torch.cat([frequency, together])
    return both * (1 - both)


@torch.no_grad()
def sampled_covariance(space: FeatureSpace, model: LabelCrf) -> Tensor:
    """Return the mean over images of Cov(phi | x) under the model, from two samples per image.

    (L + E, L + E), or only its diagonal (L + E,) above 4,096 labels and couplings. The variance
    over the images counts as a few more samples: without it, a label that is equal in every pair
    of samples would have no curvature, and its parameters would move too far.
    """
    counted = counted_variance(space, model)
    is_mixed = len(counted) <= _MOST_MIXED
    total = counted.new_zeros((len(counted), len(counted)) if is_mixed else (len(counted),))
    for rows in space.blocks():
        keys = stream_keys(0, torch.arange(rows.start, rows.stop), chains=2)
        samples = run_chains(
            model(space.inputs(rows)),
            random_states(keys, model.num_labels),
            sweeps=_SWEEPS,
            images=torch.arange(rows.start, rows.stop),
            average=False,
        ).states
        _add_differences(total, samples, model.edges)
    space.processes.all_reduce(total)
    covariance = total / (2 * len(space))
    variance = covariance.diagonal() if is_mixed else covariance
    weight = len(space) / (len(space) + _COUNTED / counted)  # of the samples
    weighted = weight * variance + (1 - weight) * counted
    variance.copy_(torch.maximum(variance + 0.05 * counted, weighted))
    return covariance


def _add_differences(total: Tensor, samples: Tensor, edges: Tensor) -> None:
    """Add the squared differences in phi of two samples (2, N, L), or their outer products."""
    for part in torch.split(samples, max(1, 2**24 // len(total)), dim=1):
        y = part.double()
        phi = torch.cat([y, y[..., edges[:, 0]] * y[..., edges[:, 1]]], -1)
        difference = phi[0] - phi[1]
        if total.ndim == 1:
            total += difference.square().sum(0)
        else:
            total.addmm_(difference.T, difference)


def _root(curvature: Tensor) -> Tensor:
    return curvature.clamp(min=_LEAST_CURVATURE).rsqrt().double()
