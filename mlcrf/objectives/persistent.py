"""Objectives whose expectations are carried on from step to step instead of computed anew."""

from dataclasses import is_dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from mlcrf.crf import Potentials

Memory = TypeVar("Memory")


class PersistentObjective(Protocol[Memory]):
    """A loss with something to remember of each image between steps.

        memory = objective.start(potentials, targets)
        repeat: memory = objective.advance(memory, potentials); a step down objective.loss(...)

    Called with potentials and targets alone it is a loss like any other, which computes
    everything anew.
    """

    def start(self, potentials: Potentials, targets: Tensor) -> Memory:
        """What there is before the first step."""
        ...

    def advance(self, memory: Memory, potentials: Potentials) -> Memory:
        """Bring the expectations closer to those of these potentials."""
        ...

    def loss(self, memory: Memory, potentials: Potentials) -> Tensor:
        """A scalar whose gradient, with the memory held fixed, is the step's direction."""
        ...

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        """The loss, a scalar: summed over labels, averaged over images."""
        ...


def from_image(objective: Any, first: int) -> Any:
    """The objective for images of which the first is number `first` of all.

    One that draws, an objective with a `first_image`, then draws for each image the same, however
    images are cut into parts; another does not ask.
    """
    if is_dataclass(objective) and hasattr(objective, "first_image"):
        return replace(objective, first_image=first)  # type: ignore[type-var]
    return objective
