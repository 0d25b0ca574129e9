"""Blended learning (Chen et al. 2015): convex belief propagation and steps on the potentials."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference.convex_bp import dual_value, settled_messages, start_messages, update
from mlcrf.objectives.objective import all_known


@dataclass(frozen=True)
class Messages:
    """The memory of blended learning.

    Attributes:
        known: 1, 0 or -1 for unknown (N, L).
        free: fields (N, 2 E).
        clamped: fields with known labels clamped; None if all labels are known.
        marginals: the labels' beliefs by `clamped` (N, L), or None.
        pairs: the pairs' beliefs by `clamped` (N, E), or None.
    """

    known: Tensor
    free: Tensor
    clamped: Tensor | None = None
    marginals: Tensor | None = None
    pairs: Tensor | None = None


@dataclass(frozen=True)
class BlendedConvexBp:
    """Loss that bounds the negative log-likelihood from above, by convex belief propagation.

        loss = D(messages; potentials) - log_score(targets),     log Z <= D at any messages

    with all counting numbers 1. It is jointly convex in messages and potentials, so sweeps of
    messages and steps on the potentials can alternate instead of inference being run to
    convergence at every step. Where labels are unknown the second term is the bound with the known
    labels clamped: the difference of two bounds is not a bound, and not convex; its step holds the
    beliefs in the unknown labels fixed, as expectation maximisation does.

    This is not the likelihood of the CRF: predict with `ConvexBeliefPropagation`.

    Attributes:
        sweeps: number of message sweeps per step.

    Cost: O(sweeps N E) per step. Memory: 2 E numbers per image.

    Sources: Hazan and Urtasun (2010); Chen et al. (2015).
    """

    sweeps: int = 2

    @torch.no_grad()
    def start(self, potentials: Potentials, targets: Tensor) -> Messages:
        """Return the memory before any message."""
        clamped = None
        if not all_known(targets):
            clamped = start_messages(potentials, known=targets)
        return Messages(targets, start_messages(potentials), clamped)

    @torch.no_grad()
    def advance(self, memory: Messages, potentials: Potentials) -> Messages:
        """Make some sweeps of messages."""
        free, clamped = memory.free, memory.clamped
        for _ in range(self.sweeps):
            free = update(potentials, free)
            if clamped is not None:
                clamped = update(potentials, clamped, known=memory.known)
        memory = replace(memory, free=free, clamped=clamped)
        if clamped is None:
            return memory
        with torch.enable_grad():
            unary = potentials.unary.detach().requires_grad_()
            pairwise = potentials.pairwise.detach().expand(len(unary), -1).requires_grad_()
            held = replace(potentials, unary=unary, pairwise=pairwise)
            bound = dual_value(held, clamped, known=memory.known).sum()
        marginals, pairs = torch.autograd.grad(bound, (unary, pairwise), materialize_grads=True)
        return replace(memory, marginals=marginals, pairs=pairs)

    def loss(self, memory: Messages, potentials: Potentials) -> Tensor:
        """Return the bound at these messages minus the score of the targets, a mean over images."""
        if memory.marginals is None or memory.pairs is None:
            score = potentials.log_score(memory.known)
        else:
            score = (potentials.unary * memory.marginals).sum(-1)
            score = score + (potentials.pairwise * memory.pairs).sum(-1)
        return (dual_value(potentials, memory.free) - score).mean()

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        """Return the loss with converged messages.

        Args: as `PersistentObjective`.

        Returns:
            A scalar: summed over labels, averaged over images.
        """
        bound = dual_value(potentials, settled_messages(potentials))
        if all_known(targets):
            return (bound - potentials.log_score(targets)).mean()
        clamped = settled_messages(potentials, known=targets)
        return (bound - dual_value(potentials, clamped, known=targets)).mean()
