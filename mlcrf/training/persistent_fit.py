"""Fit by steps, where the gradient comes from a memory that follows the model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mlcrf.errors import RunError
from mlcrf.model import LabelCrf
from mlcrf.objectives import PersistentObjective, from_image
from mlcrf.training.coordinates import Coordinates, Curvature, Objective, Penalty
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import FitReport, gradients_of
from mlcrf.training.progress import FitProgress

Memory = TypeVar("Memory")

_ESTIMATED = 1000  # images at least, if there are so many, of which the closing loss is the mean


@dataclass(frozen=True)
class Steps:
    """How a model is moved.

        velocity <- momentum velocity - rate slope
        position <- position + velocity

    in coordinates in which the loss is about equally curved, so that a rate of 1 would be Newton's
    step. The first tenth of the steps is only for the memory, with a rate that rises from 0; the
    result is the average of the positions of the second half, in which noise cancels out (Polyak
    and Juditsky 1992).

    Attributes:
        count: of steps.
        rate, momentum: above.
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
        tolerance: what the estimated remaining gain must be below to count as converged, in nats
            an image. It is that of the mean slope over the second half, in which the noise of a
            sampled gradient still shows.
        frozen: move biases and couplings only.

    Returns:
        The averaged model, and a report whose loss is computed anew: on about 1,000 images spread
        over all, since new chains for each of them would take longer than the steps.

    Raises:
        RunError: a loss or a gradient is not finite.

    Cost: `steps.count` gradients and advances of the memory. Deterministic.
    """
    began = perf_counter()
    model = start.clone()
    coordinates = Coordinates(space, model, penalty, curvature=curvature, frozen=frozen)
    parts = space.blocks()
    objectives = [from_image(objective, rows.start) for rows in parts]
    with torch.no_grad():
        memories = [
            one.start(model(space.inputs(rows)), space.targets[rows])
            for one, rows in zip(objectives, parts, strict=True)
        ]

    def losses() -> Iterator[Tensor]:
        for at, rows in enumerate(parts):
            potentials = model(space.inputs(rows))
            memories[at] = objectives[at].advance(memories[at], potentials)
            share = (rows.stop - rows.start) / len(space)
            yield share * objectives[at].loss(memories[at], potentials)

    position, floor = coordinates.position(), coordinates.lower_bounds()
    velocity = np.zeros_like(position)
    mean_position, mean_slope = np.zeros_like(position), np.zeros_like(position)
    averaged, warm_up = 0, max(1, steps.count // 10)
    for step in range(steps.count):
        total = gradients_of(space, model, losses())
        coordinates.add_penalty()
        slope = coordinates.slope()
        slope[(position <= floor) & (slope > 0)] = 0.0
        if not (np.isfinite(total) and np.isfinite(slope).all()):
            what = "gradient" if np.isfinite(total) else "loss"
            raise RunError(f"step {step + 1}: the {what} is not finite; raise the penalties")
        rate = steps.rate * min(1.0, step / warm_up)
        velocity = steps.momentum * velocity - rate * slope
        position = np.maximum(position + velocity, floor)
        coordinates.assign(position)
        if step >= steps.count // 2:
            averaged += 1
            mean_position += (position - mean_position) / averaged
            mean_slope += (slope - mean_slope) / averaged
        remaining = float(np.square(slope).sum()) / 2
        progress(FitProgress(step + 1, total, remaining, is_sampled=True))
    coordinates.assign(mean_position)
    remaining = float(np.square(mean_slope).sum()) / 2
    report = FitReport(
        loss=_loss(space, model, objective) + _penalty(model, coordinates),
        remaining=remaining,
        converged=remaining <= tolerance,
        gradients=steps.count,
        seconds=perf_counter() - began,
    )
    return model, report


@torch.no_grad()
def _loss(space: FeatureSpace, model: LabelCrf, objective: Objective) -> float:
    """The mean over the first images of every block, the same however many processes there are."""
    part = min(1.0, _ESTIMATED / len(space))
    total = torch.zeros(1, dtype=torch.float64)
    for rows in space.blocks():
        share = (rows.stop - rows.start) / len(space)
        some = slice(rows.start, rows.start + math.ceil(part * (rows.stop - rows.start)))
        estimate = from_image(objective, some.start)
        potentials = model(space.inputs(some))
        total += share * float(estimate(potentials, space.targets[some]))
    space.processes.total(total)
    return float(total)


def _penalty(model: LabelCrf, coordinates: Coordinates) -> float:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return coordinates.add_penalty()
