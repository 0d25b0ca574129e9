"""Objectives whose expectations persist from step to step instead of being recomputed."""

from dataclasses import is_dataclass, replace
from typing import Protocol, TypeVar

from torch import Tensor

from mlcrf.crf import Potentials

Memory = TypeVar("Memory")
Objective = TypeVar("Objective")


class PersistentObjective(Protocol[Memory]):
    """A loss with a memory of each image between steps.

        memory = objective.start(potentials, targets)
        repeat: memory = objective.advance(memory, potentials); a step down objective.loss(...)

    Called with potentials and targets it is a loss like any other, without a memory.
    """

    def start(self, potentials: Potentials, targets: Tensor) -> Memory:
        """Return the memory before the first step."""
        ...

    def advance(self, memory: Memory, potentials: Potentials) -> Memory:
        """Bring the expectations closer to those of these potentials."""
        ...

    def loss(self, memory: Memory, potentials: Potentials) -> Tensor:
        """Return a scalar whose gradient, with the memory held fixed, is that of the step."""
        ...

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        """Return the loss, a scalar: summed over labels, averaged over images."""
        ...


def from_image(objective: Objective, first: int) -> Objective:
    """Return the objective for images of which the first is number `first` of all.

    An objective that samples has a `first_image`: its draws for an image are then the same however
    images are cut into parts. Others are returned as they are.
    """
    if is_dataclass(objective) and hasattr(objective, "first_image"):
        return replace(objective, first_image=first)  # type: ignore[type-var]
    return objective


def all_known(targets: Tensor) -> bool:
    """Return whether no target is unknown."""
    return bool((targets >= 0).all())
