"""The interface of objectives: `Objective`, and `PersistentObjective` with a memory."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials

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


def sharing(objective: Given) -> Given:
    """Return the objective for calls with the same couplings, as for the parts of one gradient.

    The exact likelihood then computes once what depends on couplings alone. Other objectives are
    returned unchanged.
    """
    shared = getattr(objective, "sharing", None)
    return objective if shared is None else shared()


def all_known(targets: Tensor) -> bool:
    """Return whether no target is unknown."""
    return bool((targets >= 0).all())


def with_silence(
    potentials: Potentials, targets: Tensor, silence: Tensor | None
) -> tuple[Potentials, Tensor]:
    """Return potentials and targets in which sources that do not mention a label are evidence.

    A source that mentions a label that is present with probability c, and never one that is
    absent, and does not mention it, adds log(1 - c) to the label's unary: the likelihood of what
    sources say is then log Z(known clamped, evidence added) - log Z, but for a constant.

    Args:
        targets: 1, 0, -1 unknown; -1 - k unknown, and not mentioned as in row k of `silence`.
        silence: the evidence (K + 1, L), its first row 0; None if all sources tell all.
    """
    if silence is None:
        return potentials, targets
    labels = torch.arange(targets.shape[1], device=targets.device)
    evidence = silence[(UNKNOWN - targets).clamp(min=0), labels].to(potentials.unary)
    return replace(potentials, unary=potentials.unary + evidence), targets.clamp(min=UNKNOWN)
