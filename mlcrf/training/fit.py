"""Fit a head and couplings on fixed features, to convergence.

The features are standardised and rotated to their principal axes, and the parameters are expressed
in coordinates in which the curvature of the loss is close to the identity (see
`mlcrf.training.coordinates`). There L-BFGS needs tens of gradients where it would need thousands,
and half the squared norm of the gradient estimates how much the loss can still fall (the Newton
decrement): that is the criterion of convergence, in nats an image.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from mlcrf.errors import RunError
from mlcrf.model import LabelCrf
from mlcrf.objectives import from_image
from mlcrf.training.coordinates import (
    Coordinates,
    Curvature,
    Objective,
    Penalty,
    counted_variance,
)
from mlcrf.training.features import FeatureSpace
from mlcrf.training.progress import FitProgress

_PATIENCE = 15  # steps without gain on held-out images
_REMEMBERED = 2**26  # numbers that L-BFGS keeps of positions, and as many of slopes
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
    progress: Callable[[FitProgress], None] = lambda event: None,
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
        losses = (_loss_of(space, objective, model, rows) for rows in space.blocks())
        loss = gradients_of(space, model, losses) + coordinates.add_penalty()
        slope = coordinates.slope()
        gradients += 1
        if not (np.isfinite(loss) and np.isfinite(slope).all()):
            what = "gradient" if np.isfinite(loss) else "loss"
            raise RunError(f"gradient {gradients}: the {what} is not finite; raise the penalties")
        free = slope[(position > floor) | (slope < 0)]
        latest = (loss, float(np.square(free).sum()) / 2)
        progress(FitProgress(gradients, loss, latest[1]))
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

    position = np.maximum(coordinates.position(), floor)
    first = evaluate(position)  # not again by `minimize`, which begins there
    if latest[1] <= _enough(tolerance, latest[0]):
        return model, FitReport(*latest, True, gradients, perf_counter() - began)

    result = minimize(
        lambda wanted: first if np.array_equal(wanted, position) else evaluate(wanted),
        position,
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, None) for low in floor] if np.isfinite(floor).any() else None,
        callback=check,
        options={
            "maxiter": max_gradients,
            "maxfun": max_gradients,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxcor": max(
                5, min(30, 2**26 // max(1, len(floor)))
            ),  # vectors; they are to fit in 1 GB
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


def gradients_of(space: FeatureSpace, model: LabelCrf, losses: Iterable[Tensor]) -> float:
    """Sum of what this and the other processes' losses are, and of their gradients.

    The gradients replace those of the parameters. They are summed in float64, so that hardly a bit
    depends on which process has computed what.

    Args:
        losses: scalars, each computed when it is its turn.
    """
    parameters = list(model.parameters())
    sums = [torch.zeros_like(one, dtype=torch.float64) for one in parameters]
    total = torch.zeros(1, dtype=torch.float64)
    for loss in losses:
        total += float(loss.detach())
        slopes = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for whole, slope in zip(sums, slopes, strict=True):
            whole.add_(slope)
    space.processes.total(total, *sums)
    for parameter, whole in zip(parameters, sums, strict=True):
        parameter.grad = whole.to(parameter.dtype)
    return float(total)


def _loss_of(space: FeatureSpace, objective: Objective, model: LabelCrf, rows: slice) -> Tensor:
    """What some images add to the mean loss over all."""
    potentials = model(space.inputs(rows))
    share = (rows.stop - rows.start) / len(space)
    mean = from_image(objective, rows.start)(potentials, space.targets[rows])
    part: Tensor = share * mean
    return part
