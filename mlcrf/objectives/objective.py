"""The interface of objectives: `Objective`, and `PersistentObjective` with a memory."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Protocol, TypeVar

from torch import Tensor

from mlcrf.crf import Potentials

Memory = TypeVar("Memory")
Given = TypeVar("Given")

Objective = Callable[[Potentials, Tensor], Tensor]  # (potentials, targets) -> scalar


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


def from_image(objective: Given, first: int) -> Given:
    """Return the objective for a part of the images that begins with number `first`.

    An objective that samples has a `first_image`, so that its draws for an image do not depend on
    how images are cut into parts. Other objectives are returned unchanged.
    """
    if is_dataclass(objective) and hasattr(objective, "first_image"):
        return replace(objective, first_image=first)  # type: ignore[type-var]
    return objective


def all_known(targets: Tensor) -> bool:
    """Return whether no target is unknown."""
    return bool((targets >= 0).all())
