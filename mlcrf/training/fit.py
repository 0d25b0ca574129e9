"""Fit a head and couplings on fixed features, to convergence.

The features are standardised and rotated to their principal axes, and the parameters are
preconditioned so that the curvature of the loss is close to the identity (see
`mlcrf.training.preconditioner`). L-BFGS then needs tens of gradients instead of thousands, and half
the squared norm of the gradient estimates how much the loss can still fall (the Newton decrement):
the convergence criterion, in nats per image. Where a gradient is expensive, Newton steps with a
sampled Hessian come first, and mostly suffice (see `mlcrf.training.newton`).
"""

import math
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from mlcrf.errors import RunError
from mlcrf.model import LabelCrf
from mlcrf.objectives import Objective, from_image, sharing
from mlcrf.training.features import FeatureSpace
from mlcrf.training.newton import Point, SampledHessian, can_step, newton_steps
from mlcrf.training.preconditioner import Curvature, Penalty, Preconditioner, counted_variance
from mlcrf.training.progress import FitProgress, FitReport

_PATIENCE = 15  # number of steps without gain on held-out images
_MOST_KEPT = 2**26  # numbers stored by L-BFGS for parameters, and as many for gradients: 1 GB
_MOST_NEWTON_STEPS = 20
_TIMED = 512  # largest number of images whose gradient is timed
_ROUNDING = 1e-7  # relative rounding error of a float32 loss


def fit(
    space: FeatureSpace,
    start: LabelCrf,
    objective: Objective,
    penalty: Penalty,
    *,
    tolerance: float,
    curvature: Curvature = counted_variance,
    frozen: bool = False,
    newton: bool = False,
    max_gradients: int = 1000,
    progress: Callable[[FitProgress], None] = lambda event: None,
    watch: Callable[[LabelCrf], float] | None = None,
) -> tuple[LabelCrf, FitReport]:
    """Minimise objective + penalty from `start`, which is not changed.

    Args:
        space: features and targets; the model's inputs are its rotated features.
        tolerance: stop once the estimated remaining decrease is below this, in nats per image, or
            below a ten-millionth of the loss, where line searches would only see rounding.
        curvature: curvature of the objective, in biases and couplings.
        frozen: fit only biases and couplings, not the head's weights.
        newton: whether the objective is the exact likelihood with a gradient so expensive that
            Newton steps are worth their samples. They are made if all labels are known, the model
            is linear with constant couplings, and there is no L1 penalty.
        max_gradients: stop after this many, with `converged=False` in the report.
        watch: loss on held-out images. The fit stops after `_PATIENCE` steps in which it has not
            fallen, and returns the model of lowest held-out loss.

    Raises:
        RunError: the loss or its gradient is not finite.

    Cost: that of the objective's gradient over all images, 20 to 100 times. Deterministic.
    """
    began = perf_counter()
    model = start.clone()
    preconditioner = Preconditioner(space, model, penalty, curvature=curvature, frozen=frozen)
    floor = preconditioner.lower_bounds()
    loss = _PenalisedLoss(space, model, objective, preconditioner, tolerance, progress)
    stopping = None if watch is None else _EarlyStopping(watch, model, preconditioner)
    vector = np.maximum(preconditioner.parameters(), floor)
    here = Point(vector, *loss(vector))
    bounded = bool(np.isfinite(floor).any())
    if newton and stopping is None and not bounded and can_step(space, model):
        here = newton_steps(
            here,
            loss,
            SampledHessian(space, model, preconditioner, frozen=frozen),
            is_over=lambda point: point.remaining <= _reachable(tolerance, point.loss),
            most_steps=min(_MOST_NEWTON_STEPS, max_gradients - 1),
        )
    first, first_vector = (here.loss, here.gradient), here.vector
    remaining = _decrement(here.gradient, first_vector, floor)
    converged = remaining <= _reachable(tolerance, here.loss)
    if converged or loss.gradients >= max_gradients:
        preconditioner.assign(first_vector)
        seconds = perf_counter() - began
        return model, FitReport(here.loss, remaining, converged, loss.gradients, seconds)

    def check(intermediate_result: OptimizeResult) -> None:
        is_over = stopping is not None and stopping.is_over(intermediate_result.x)
        if is_over or loss.remaining <= _reachable(tolerance, loss.value):
            raise StopIteration

    most = max_gradients + 1 - loss.gradients  # `minimize` counts the first one again
    result = minimize(
        lambda vector: first if np.array_equal(vector, first_vector) else loss(vector),
        first_vector,
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, None) for low in floor] if bounded else None,
        callback=check,
        options={
            "maxiter": most,
            "maxfun": most,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxcor": max(5, min(30, _MOST_KEPT // max(1, len(floor)))),
        },
    )
    stopped_early = stopping is not None and stopping.steps_since_best > 0
    best = stopping.best if stopping is not None and stopped_early else result.x
    preconditioner.assign(best)
    remaining = _decrement(result.jac, result.x, floor)
    return model, FitReport(
        float(result.fun),
        remaining,
        remaining <= _reachable(tolerance, float(result.fun)),
        loss.gradients,
        perf_counter() - began,
        stopped_early,
    )


class _PenalisedLoss:
    """Objective plus penalty as a function of the preconditioned parameters.

    Attributes:
        value, remaining: loss of the last call, and its estimated remaining decrease.
        gradients: number of calls.
    """

    def __init__(
        self,
        space: FeatureSpace,
        model: LabelCrf,
        objective: Objective,
        preconditioner: Preconditioner,
        tolerance: float,
        progress: Callable[[FitProgress], None],
    ) -> None:
        self._space, self._model, self._objective = space, model, objective
        self._preconditioner, self._progress = preconditioner, progress
        self._floor = preconditioner.lower_bounds()
        self._tolerance, self._first, self._share = tolerance, -math.inf, 0.0
        self.value = self.remaining = np.inf
        self.gradients = 0

    def __call__(self, vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        space, model, preconditioner = self._space, self._model, self._preconditioner
        preconditioner.assign(vector)
        objective = sharing(self._objective)
        losses = (_loss_of(space, objective, model, rows) for rows in space.blocks())
        loss = gradients_of(space, model, losses) + preconditioner.add_penalty()
        gradient = preconditioner.gradient()
        self.gradients += 1
        require_finite_step(f"gradient {self.gradients}", loss, gradient)
        self.value, self.remaining = loss, _decrement(gradient, vector, self._floor)
        share = self._share_done()
        self._progress(FitProgress(self.gradients, loss, self.remaining, share=share))
        return loss, gradient

    def _share_done(self) -> float:
        """Return the share of the way to the tolerance, on a logarithmic scale, best so far."""
        goal = math.log(max(_reachable(self._tolerance, self.value), 1e-300))
        now = math.log(max(self.remaining, 1e-300))
        self._first = max(self._first, now)
        if now > goal and self._first > goal:
            self._share = max(self._share, (self._first - now) / (self._first - goal))
        return self._share


class _EarlyStopping:
    """Best parameters on held-out images so far, and the decision to stop.

    Attributes:
        best: preconditioned parameters.
        steps_since_best: number of later steps.
    """

    def __init__(
        self, held_out: Callable[[LabelCrf], float], model: LabelCrf, preconditioner: Preconditioner
    ) -> None:
        self._held_out, self._model, self._preconditioner = held_out, model, preconditioner
        self.best, self.steps_since_best = preconditioner.parameters(), 0
        self._least = held_out(model)

    def is_over(self, vector: NDArray[np.float64]) -> bool:
        self._preconditioner.assign(vector)
        loss = self._held_out(self._model)
        self.steps_since_best += 1
        if loss < self._least:
            self._least, self.best, self.steps_since_best = loss, vector.copy(), 0
        return self.steps_since_best >= _PATIENCE


def _decrement(
    gradient: NDArray[np.float64], vector: NDArray[np.float64], floor: NDArray[np.float64]
) -> float:
    """Return half the squared norm of the gradient in the free directions."""
    free = gradient[(vector > floor) | (gradient < 0)]
    return float(np.square(free).sum()) / 2


def _reachable(tolerance: float, loss: float) -> float:
    """Return the tolerance, or the rounding error of the loss if that is larger."""
    return max(tolerance, _ROUNDING * abs(loss))


def require_finite_step(title: str, loss: float, gradient: NDArray[np.float64]) -> None:
    """Raise RunError if loss or gradient is not finite."""
    if not (np.isfinite(loss) and np.isfinite(gradient).all()):
        what = "gradient" if np.isfinite(loss) else "loss"
        raise RunError(f"{title}: the {what} is not finite; raise the penalties")


def gradients_of(space: FeatureSpace, model: LabelCrf, losses: Iterable[Tensor]) -> float:
    """Return the sum of the losses of all processes; set the parameters' gradients to its gradient.

    Summed in float64, so that the result hardly depends on the division among processes.

    Args:
        losses: scalars, computed lazily.
    """
    parameters = list(model.parameters())
    sums = [torch.zeros_like(one, dtype=torch.float64) for one in parameters]
    total = torch.zeros(1, dtype=torch.float64)
    for loss in losses:
        total += float(loss.detach())
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for whole, gradient in zip(sums, gradients, strict=True):
            whole.add_(gradient)
    space.processes.all_reduce(total, *sums)
    for parameter, whole in zip(parameters, sums, strict=True):
        parameter.grad = whole.to(parameter.dtype)
    return float(total)


def time_gradient(
    space: FeatureSpace, model: LabelCrf, objective: Any, *, is_persistent: bool
) -> float:
    """Return the seconds of a gradient over this process's images, measured on a part of them.

    Args:
        is_persistent: whether the objective has a memory, which is advanced first.
    """
    blocks = space.blocks()
    if not blocks:
        return 0.0
    rows = slice(blocks[0].start, min(blocks[0].stop, blocks[0].start + _TIMED))
    one, seconds, images = sharing(from_image(objective, rows.start)), 0.0, rows.stop - rows.start
    for _ in range(2):  # the first compiles
        targets = space.targets[rows]
        if is_persistent:
            with torch.no_grad():
                memory = one.start(model(space.inputs(rows)), targets)
        began = perf_counter()
        potentials = model(space.inputs(rows))
        loss = (
            one.loss(one.advance(memory, potentials), potentials)
            if is_persistent
            else one(potentials, targets)
        )
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        seconds = perf_counter() - began
    return seconds * float(sum(each.stop - each.start for each in blocks)) / float(images)


def _loss_of(space: FeatureSpace, objective: Objective, model: LabelCrf, rows: slice) -> Tensor:
    """Return the contribution of some images to the mean loss over all images."""
    potentials = model(space.inputs(rows))
    share = (rows.stop - rows.start) / len(space)
    mean = from_image(objective, rows.start)(potentials, space.targets[rows])
    part: Tensor = share * mean
    return part
