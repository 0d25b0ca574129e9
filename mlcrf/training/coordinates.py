"""Parameters in coordinates in which the loss is about equally curved in all directions.

For a CRF the curvature of the negative log-likelihood is the covariance, given the image, of what
the parameters multiply: phi = (y_i, y_i y_j) for biases and couplings, y_i times a feature for the
weights. Averaged over images, with features on their principal axes (variance s_k^2) and taken as
independent of the labels' spread, it falls into two parts,

    C = mean_x Cov(phi | x)              for biases and couplings together
    s_k^2 C_y + penalty                  for the weights of axis k, C_y the y_i part of C

C is estimated from pairs of samples of the model that the fit starts from. The independent and the
pseudo-likelihood loss curve less across labels: there C is taken as diagonal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import Gibbs
from mlcrf.model import LabelCrf
from mlcrf.training.features import FeatureSpace

_LEAST_CURVATURE = 1e-12  # of a feature that does not vary, without a penalty

Objective = Callable[[Potentials, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Penalty:
    """Strengths of the L2 penalties: strength / 2 times the sum of squares.

    Attributes:
        weights: on the head's weights for standardised features; biases go free.
        pairwise: on the couplings.
    """

    weights: float
    pairwise: float


class Coordinates:
    """A linear map between a flat vector and the parameters of a model.

        weights of the output = basis @ (scale * part)        one orthogonal basis over labels
        (biases, couplings)   = mixing @ part                 mixing mixing^T = C^-1

    Args:
        model: its parameters are read by `position` and set by `assign`.
        joint: whether the loss is that of the joint distribution, so that C is sampled; else it
            is diagonal.

    Cost: O((L + E)^3) once if joint.
    """

    def __init__(
        self, space: FeatureSpace, model: LabelCrf, penalty: Penalty, *, joint: bool
    ) -> None:
        self._model, self._penalty = model, penalty
        num_labels = model.num_labels
        moments = _sampled_covariance(space, model) if joint else _diagonal(space, model)
        moments[num_labels:, num_labels:].diagonal().add_(penalty.pairwise)
        moments.diagonal().add_(1e-4 * moments.diagonal().mean())
        values, vectors = torch.linalg.eigh(moments)
        self._mixing = vectors * values.rsqrt()
        self._unmixing = (vectors * values.sqrt()).T
        values, self._basis = torch.linalg.eigh(moments[:num_labels, :num_labels])
        of_inputs = space.variance if model.hidden is None else torch.ones(())
        curvature = values[:, None] * of_inputs + penalty.weights
        self._scale = curvature.clamp(min=_LEAST_CURVATURE).rsqrt()
        self._scale = self._scale.expand_as(model.output.weight).double()
        curvature = space.variance * values.mean() + penalty.weights
        self._hidden_scale = curvature.clamp(min=_LEAST_CURVATURE).rsqrt().double()

    def position(self) -> NDArray[np.float64]:
        """The model's parameters as a flat vector."""
        model = self._model
        joint = torch.cat([model.output.bias, model.pairwise]).detach().double()
        parts = [
            (self._basis.T @ model.output.weight.detach().double()) / self._scale,
            self._unmixing @ joint,
        ]
        if model.hidden is not None:
            parts += [
                model.hidden.weight.detach().double() / self._hidden_scale,
                model.hidden.bias.detach().double(),
            ]
        return torch.cat([part.reshape(-1) for part in parts]).numpy()

    def assign(self, position: NDArray[np.float64]) -> None:
        """Set the model's parameters from a flat vector."""
        model = self._model
        sizes = [model.output.weight.numel(), len(self._mixing)]
        if model.hidden is not None:
            sizes += [model.hidden.weight.numel(), model.hidden.bias.numel()]
        parts = torch.from_numpy(position).split(sizes)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weight = parts[0].view_as(model.output.weight)
            model.output.weight.copy_(self._basis @ (self._scale * weight))
            joint = self._mixing @ parts[1]
            model.output.bias.copy_(joint[: model.num_labels])
            model.pairwise.copy_(joint[model.num_labels :])
            if model.hidden is not None:
                weight = parts[2].view_as(model.hidden.weight)
                model.hidden.weight.copy_(weight * self._hidden_scale)
                model.hidden.bias.copy_(parts[3])

    def slope(self) -> NDArray[np.float64]:
        """The gradients of the model's parameters as one of the flat vector."""
        model = self._model
        joint = torch.cat([_gradient(model.output.bias), _gradient(model.pairwise)])
        parts = [
            self._scale * (self._basis.T @ _gradient(model.output.weight)),
            self._mixing.T @ joint,
        ]
        if model.hidden is not None:
            parts += [
                _gradient(model.hidden.weight) * self._hidden_scale,
                _gradient(model.hidden.bias),
            ]
        return torch.cat([part.reshape(-1) for part in parts]).numpy()

    def add_penalty(self) -> float:
        """The penalty of the model as it is; its gradient is added to that of the parameters."""
        model, total = self._model, 0.0
        penalised: list[tuple[Tensor, float]] = [
            (model.output.weight, self._penalty.weights),
            (model.pairwise, self._penalty.pairwise),
        ]
        if model.hidden is not None:
            penalised.append((model.hidden.weight, self._penalty.weights))
        for parameter, strength in penalised:
            total += float(strength / 2 * parameter.detach().double().square().sum())
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=strength)
        return total


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.double()


def _diagonal(space: FeatureSpace, model: LabelCrf) -> Tensor:
    """Variances of y_i and of y_i y_j over the images, as a diagonal matrix (L + E, L + E)."""
    frequency = space.frequencies()
    present = space.targets * space.observed
    together = (present.T @ present / len(space))[model.edges[:, 0], model.edges[:, 1]]
    together = together.clamp(1 / len(space), 1 - 1 / len(space))
    both = torch.cat([frequency, together]).double()
    return torch.diag(both * (1 - both))


@torch.no_grad()
def _sampled_covariance(space: FeatureSpace, model: LabelCrf) -> Tensor:
    """Mean over images of Cov(phi | x) under the model, from two samples each (L + E, L + E)."""
    potentials = model(space.rotated)
    samples = Gibbs(chains=2, burn_in=30, sweeps=1)(potentials).samples
    assert samples is not None
    y = samples.double()
    first, second = model.edges[:, 0], model.edges[:, 1]
    phi = torch.cat([y, y[..., first] * y[..., second]], -1)
    difference = phi[0] - phi[1]
    covariance = difference.T @ difference / (2 * len(space))
    # labels that the two samples never tell apart still have some curvature
    return covariance + 0.05 * torch.diag(_diagonal(space, model).diagonal())
