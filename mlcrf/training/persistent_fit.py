"""Fit by gradient steps whose expectations are kept in a memory that follows the model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from mlcrf.model import LabelCrf
from mlcrf.objectives import Objective, PersistentObjective, from_image
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import gradients_of, require_finite_step
from mlcrf.training.preconditioner import Curvature, Penalty, Preconditioner
from mlcrf.training.progress import FitProgress, FitReport

Memory = TypeVar("Memory")

_ESTIMATED = 1000  # smallest number of images for the final loss


@dataclass(frozen=True)
class Steps:
    """Steps of gradient descent with momentum.

        velocity <- momentum velocity - rate gradient
        parameters <- parameters + velocity

    of preconditioned parameters, so that a rate of 1 would be Newton's step. In the first tenth of
    the steps the rate rises from 0, while the memory adapts; the result is the average over the
    second half, in which noise cancels out (Polyak and Juditsky 1992).
    """

    count: int = 200
    rate: float = 0.3
    momentum: float = 0.0


def fit_persistent(
    space: FeatureSpace,
    start: LabelCrf,
    objective: PersistentObjective[Memory],
    penalty: Penalty,
    *,
    curvature: Curvature,
    tolerance: float,
    steps: Steps = Steps(),
    frozen: bool = False,
    progress: Callable[[FitProgress], None] = lambda event: None,
) -> tuple[LabelCrf, FitReport]:
    """Minimise objective + penalty from `start`, which is not changed.

    Args:
        space: features and targets; the model's inputs are its rotated features.
        tolerance: converged if the estimated remaining decrease is below this, in nats per image.
            The estimate uses the mean gradient of the second half, which includes sampling noise.
        frozen: fit only biases and couplings.

    Returns:
        The averaged model, and a report whose loss is recomputed on about 1,000 images spread over
        all, since new chains for all images would take longer than the steps.

    Raises:
        RunError: a loss or a gradient is not finite.

    Cost: `steps.count` gradients and advances of the memory. Deterministic.
    """
    began = perf_counter()
    model = start.clone()
    preconditioner = Preconditioner(space, model, penalty, curvature=curvature, frozen=frozen)
    memories = _Memories(space, model, objective)
    vector, floor = preconditioner.parameters(), preconditioner.lower_bounds()
    velocity = np.zeros_like(vector)
    mean_vector, mean_gradient = np.zeros_like(vector), np.zeros_like(vector)
    averaged, warm_up = 0, max(1, steps.count // 10)
    for step in range(steps.count):
        score = gradients_of(space, model, memories.losses())
        preconditioner.add_penalty()
        gradient = preconditioner.gradient()
        gradient[(vector <= floor) & (gradient > 0)] = 0.0
        require_finite_step(f"step {step + 1}", score, gradient)
        rate = steps.rate * min(1.0, step / warm_up)
        velocity = steps.momentum * velocity - rate * gradient
        vector = np.maximum(vector + velocity, floor)
        preconditioner.assign(vector)
        if step >= steps.count // 2:
            averaged += 1
            mean_vector += (vector - mean_vector) / averaged
            mean_gradient += (gradient - mean_gradient) / averaged
        remaining = float(np.square(gradient).sum()) / 2
        share = (step + 1) / steps.count
        progress(FitProgress(step + 1, score, remaining, is_sampled=True, share=share))
    preconditioner.assign(mean_vector)
    remaining = float(np.square(mean_gradient).sum()) / 2
    report = FitReport(
        loss=_loss(space, model, objective) + _penalty(model, preconditioner),
        remaining=remaining,
        converged=remaining <= tolerance,
        gradients=steps.count,
        seconds=perf_counter() - began,
    )
    return model, report


class _Memories(Generic[Memory]):
    """Memories of an objective, one for each block of this process's images."""

    def __init__(
        self, space: FeatureSpace, model: LabelCrf, objective: PersistentObjective[Memory]
    ) -> None:
        self._space, self._model, self._blocks = space, model, space.blocks()
        self._objectives = [from_image(objective, rows.start) for rows in self._blocks]
        with torch.no_grad():
            self._memories = [
                one.start(model(space.inputs(rows)), space.targets[rows])
                for one, rows in zip(self._objectives, self._blocks, strict=True)
            ]

    def losses(self) -> Iterator[Tensor]:
        """Advance the memories; yield each block's contribution to the mean loss."""
        for at, rows in enumerate(self._blocks):
            objective, potentials = self._objectives[at], self._model(self._space.inputs(rows))
            self._memories[at] = objective.advance(self._memories[at], potentials)
            share = (rows.stop - rows.start) / len(self._space)
            yield share * objective.loss(self._memories[at], potentials)


@torch.no_grad()
def _loss(space: FeatureSpace, model: LabelCrf, objective: Objective) -> float:
    """Return the mean loss over the first images of every block, for any number of processes."""
    part = min(1.0, _ESTIMATED / len(space))
    total = torch.zeros(1, dtype=torch.float64)
    for rows in space.blocks():
        share = (rows.stop - rows.start) / len(space)
        some = slice(rows.start, rows.start + math.ceil(part * (rows.stop - rows.start)))
        estimate = from_image(objective, some.start)
        potentials = model(space.inputs(some))
        total += share * float(estimate(potentials, space.targets[some]))
    space.processes.all_reduce(total)
    return float(total)


def _penalty(model: LabelCrf, preconditioner: Preconditioner) -> float:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return preconditioner.add_penalty()
