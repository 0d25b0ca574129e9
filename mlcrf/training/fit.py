"""Fit a head and couplings on fixed features, to convergence.

The features are standardised and rotated to their principal axes, and the parameters are expressed
in coordinates in which the curvature of the loss is close to the identity (see
`mlcrf.training.coordinates`). There L-BFGS needs tens of gradients where it would need thousands,
and half the squared norm of the gradient estimates how much the loss can still fall (the Newton
decrement): that is the criterion of convergence, in nats an image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from mlcrf.errors import RunError
from mlcrf.model import LabelCrf
from mlcrf.training.coordinates import (
    Coordinates,
    Curvature,
    Objective,
    Penalty,
    counted_variance,
)
from mlcrf.training.features import FeatureSpace

_BLOCK = 4096  # images whose gradient is computed at once
_PATIENCE = 15  # steps without gain on held-out images
_ROUNDING = 1e-7  # of a loss in float32: what is less of it cannot be told


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes:
        loss: objective plus penalty, in nats an image.
        remaining: estimated loss still to gain (Newton decrement), in nats an image.
        converged: whether that is at most the tolerance, or what rounding leaves of the loss.
        gradients: how many gradients over all images were computed.
        seconds: wall time.
        stopped_early: whether the model is not the last one, but the best on held-out images.
    """

    loss: float
    remaining: float
    converged: bool
    gradients: int
    seconds: float
    stopped_early: bool = False


def fit(
    space: FeatureSpace,
    start: LabelCrf,
    objective: Objective,
    penalty: Penalty,
    *,
    tolerance: float,
    curvature: Curvature = counted_variance,
    frozen: bool = False,
    max_gradients: int = 1000,
    progress: Callable[[str], None] = lambda message: None,
    watch: Callable[[LabelCrf], float] | None = None,
) -> tuple[LabelCrf, FitReport]:
    """Minimise objective + penalty from `start`, which is not changed.

    Args:
        space: features and targets; the model's inputs are its rotated features.
        tolerance: stop once the estimated remaining gain is below this, in nats an image, or
            below a ten-millionth of the loss, where line searches would meet rounding alone.
        curvature: that of the objective, in biases and couplings.
        frozen: move biases and couplings only; the head's weights stay.
        max_gradients: stop there in any case; the report then says `converged=False`.
        watch: loss on held-out images. It stops after `_PATIENCE` steps in which that has not
            fallen, and the model is the best by it.

    Raises:
        RunError: the loss or its gradient is not finite.

    Cost: that of the objective's gradient over all images, 20 to 100 times. Deterministic.
    """
    began = perf_counter()
    model = start.clone()
    coordinates = Coordinates(space, model, penalty, curvature=curvature, frozen=frozen)
    floor = coordinates.lower_bounds()
    gradients = 0
    latest = (np.inf, np.inf)
    best, best_position, steps_since = np.inf, coordinates.position(), 0
    if watch is not None:
        best = watch(model)

    def evaluate(position: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal gradients, latest
        coordinates.assign(position)
        loss = _loss_and_gradient(space, model, objective) + coordinates.add_penalty()
        slope = coordinates.slope()
        gradients += 1
        if not (np.isfinite(loss) and np.isfinite(slope).all()):
            what = "gradient" if np.isfinite(loss) else "loss"
            raise RunError(f"gradient {gradients}: the {what} is not finite; raise the penalties")
        free = slope[(position > floor) | (slope < 0)]
        latest = (loss, float(np.square(free).sum()) / 2)
        progress(f"gradient {gradients}: loss {loss:.4f}, about {latest[1]:.1e} to gain")
        return loss, slope

    def check(intermediate_result: OptimizeResult) -> None:
        nonlocal best, best_position, steps_since
        if watch is not None:
            coordinates.assign(intermediate_result.x)
            held_out, steps_since = watch(model), steps_since + 1
            if held_out < best:
                best, best_position, steps_since = held_out, intermediate_result.x.copy(), 0
        if latest[1] <= _enough(tolerance, latest[0]) or steps_since >= _PATIENCE:
            raise StopIteration

    result = minimize(
        evaluate,
        coordinates.position(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, None) for low in floor] if np.isfinite(floor).any() else None,
        callback=check,
        options={
            "maxiter": max_gradients,
            "maxfun": max_gradients,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxcor": 30,
        },
    )
    stopped_early = watch is not None and steps_since > 0
    coordinates.assign(best_position if stopped_early else result.x)
    free = result.jac[(result.x > floor) | (result.jac < 0)]
    remaining = float(np.square(free).sum()) / 2
    return model, FitReport(
        float(result.fun),
        remaining,
        remaining <= _enough(tolerance, float(result.fun)),
        gradients,
        perf_counter() - began,
        stopped_early,
    )


def _enough(tolerance: float, loss: float) -> float:
    return max(tolerance, _ROUNDING * abs(loss))


def blocks_of(space: FeatureSpace) -> list[slice]:
    """The images in parts whose gradients are computed one after the other."""
    return [slice(start, start + _BLOCK) for start in range(0, len(space), _BLOCK)]


def fill_gradients(model: LabelCrf) -> None:
    """Zeros for what the objective does not depend on."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _loss_and_gradient(space: FeatureSpace, model: LabelCrf, objective: Objective) -> float:
    """Mean loss over all images; leaves its gradient in the parameters."""
    model.zero_grad()
    total = 0.0
    for rows in blocks_of(space):
        share = len(space.rotated[rows]) / len(space)
        loss = share * objective(
            model(space.rotated[rows]), space.targets[rows], space.observed[rows]
        )
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    fill_gradients(model)
    return total
