"""Newton's method for losses whose gradient costs far more than samples of the model do.

The Hessian of the negative log-likelihood is the covariance, given the image, of the factors of
the parameters, averaged over images. It is estimated from samples of Gibbs chains and never stored:

    H v = mean_x Cov(phi, v . phi | x) + penalty v,    v . phi = sum_i (b_i + W_i x) y_i
                                                               + sum_ij J_ij y_i y_j

for a direction v of biases b, weights W and couplings J, which takes some small matrix products.
Conjugate gradients on the preconditioned parameters solve H step = -gradient.

Source: Nocedal and Wright, Numerical Optimization (2006), section 7.1; Byrd, Chin, Neveitt and
Nocedal (2011), "On the use of stochastic Hessian information in optimization methods".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.model import LabelCrf
from mlcrf.training.features import FeatureSpace
from mlcrf.training.preconditioner import Preconditioner

_CHAINS, _BURN_IN, _DRAWS, _THIN = 4, 15, 8, 2  # of each image
_MOST_IMAGES = 2**14  # to sample from
_RESIDUAL = 0.1  # of the step's equations, relative to the gradient
_MOST_PRODUCTS = 25  # for a step
_LEAST_GAIN = 0.5  # a step that leaves more than this share of what remained is the last

Vector = NDArray[np.float64]
Loss = Callable[[Vector], tuple[float, Vector]]


@dataclass(frozen=True)
class Point:
    """Preconditioned parameters with the loss, its gradient, and half the squared norm of this."""

    vector: Vector
    loss: float
    gradient: Vector

    @property
    def remaining(self) -> float:
        return float(np.square(self.gradient).sum()) / 2


def can_step(space: FeatureSpace, model: LabelCrf) -> bool:
    """Return whether the Hessian is as above: constant couplings, a linear head, all known."""
    is_plain = model.hidden is None and model.gates is None and not model.num_scenes
    return is_plain and bool((space.targets >= 0).all())


def newton_steps(
    start: Point,
    loss: Loss,
    hessian: "SampledHessian",
    *,
    is_over: Callable[[Point], bool],
    most_steps: int,
) -> Point:
    """Return the point after full Newton steps, as many as gain much.

    The last step is not taken if the loss does not fall.

    Args:
        is_over: called with each point, whether to stop there.

    Cost: for each step a gradient, chains of 31 sweeps for at most 2^14 images, and about 10
        products with the Hessian, each twice the cost of the head's unaries and 2 L^2 operations
        for each of 32 samples an image. Deterministic.
    """
    here = start
    for _ in range(most_steps):
        if is_over(here):
            break
        vector = here.vector + hessian.solve(here.vector, -here.gradient)
        there = Point(vector, *loss(vector))
        if there.loss >= here.loss:
            break
        gain = there.remaining <= _LEAST_GAIN * here.remaining
        here = there
        if not gain:
            break
    return here


class SampledHessian:
    """Products with the Hessian of the exact likelihood plus penalty.

    Args:
        model: the one that the preconditioner sets the parameters of.
        frozen: whether the head's weights are not fitted.
    """

    def __init__(
        self,
        space: FeatureSpace,
        model: LabelCrf,
        preconditioner: Preconditioner,
        *,
        frozen: bool = False,
    ) -> None:
        self._space, self._model, self._frozen = space, model, frozen
        self._preconditioner = preconditioner
        part = min(1.0, _MOST_IMAGES / len(space))
        self._blocks = [
            slice(rows.start, rows.start + math.ceil(part * (rows.stop - rows.start)))
            for rows in space.blocks()
        ]
        count = torch.tensor(sum(rows.stop - rows.start for rows in self._blocks)).double()
        space.processes.all_reduce(count)
        self._divisor = float(count) * _DRAWS * (_CHAINS - 1)

    def solve(self, position: Vector, wanted: Vector) -> Vector:
        """Return H^-1 wanted, up to a tenth, with H that of the parameters at `position`."""
        self._preconditioner.assign(position)
        samples = [self._sample(rows) for rows in self._blocks]
        shape = (len(wanted), len(wanted))
        operator = LinearOperator(
            shape, matvec=lambda vector: self._times(vector, samples), dtype=np.float64
        )
        found: Vector = cg(operator, wanted, rtol=_RESIDUAL, maxiter=_MOST_PRODUCTS)[0]
        return found

    @torch.no_grad()
    def _sample(self, rows: slice) -> Tensor:
        """Return label sets from chains that have left their start, (T, S, n, L)."""
        images = torch.arange(rows.start, rows.stop)
        potentials = self._model(self._space.inputs(rows))
        keys = stream_keys(0, images, chains=_CHAINS)
        started = run_chains(
            potentials,
            random_states(keys, self._model.num_labels),
            sweeps=_BURN_IN,
            images=images,
            average=False,
        )
        return run_chains(
            potentials,
            started.states,
            sweeps=_DRAWS * _THIN,
            first_sweep=_BURN_IN,
            images=images,
            thin=_THIN,
            average=False,
        ).samples

    @torch.no_grad()
    def _times(self, vector: Vector, samples: list[Tensor]) -> Vector:
        model = self._model
        self._preconditioner.assign(vector)  # the parameters are the direction now
        biases, couplings = model.output.bias, model.pairwise_matrix() / 2
        of_biases = torch.zeros_like(biases, dtype=torch.float64)
        of_weights = torch.zeros_like(model.output.weight, dtype=torch.float64)
        of_pairs = torch.zeros_like(couplings, dtype=torch.float64)
        for rows, drawn in zip(self._blocks, samples, strict=True):
            inputs, y = self._space.inputs(rows), drawn.to(biases)
            unary = biases if self._frozen else biases + inputs @ model.output.weight.T
            score = ((y @ couplings + unary) * y).sum(-1)
            # between chains, which are independent; the draws of one are not
            score -= score.mean(1, keepdim=True)
            weighted = score[..., None] * y
            of_images = weighted.sum((0, 1))
            of_biases += of_images.sum(0)
            of_weights += of_images.T @ inputs if not self._frozen else 0.0
            of_pairs += weighted.flatten(0, 2).T @ y.flatten(0, 2)
        self._space.processes.all_reduce(of_biases, of_weights, of_pairs)
        first, second = model.edges.T
        for parameter, total in (
            (model.output.bias, of_biases),
            (model.output.weight, of_weights),
            (model.pairwise, of_pairs[first, second]),
        ):
            parameter.grad = (total / self._divisor).to(parameter.dtype)
        self._preconditioner.add_penalty()
        return self._preconditioner.gradient()
