"""Mean field: the best fully factorised distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, check_known
from mlcrf.inference.posterior import LogPartitionKind, Posterior, climb


@dataclass(frozen=True)
class MeanField:
    """Approximate marginals by the best fully factorised distribution.

    Coordinate ascent on the evidence bound, one label at a time, so the bound never falls:

        q_i = sigmoid(unary_i + sum_j pairwise_ij q_j)
        log Z >= sum_i unary_i q_i + sum_{i<j} pairwise_ij q_i q_j + sum_i H(q_i)

    Fails where labels exclude each other strongly: the answer then depends on the start, which
    is sigmoid(unary), and on the order of the labels, which is theirs.

    Attributes:
        max_sweeps: passes over all labels at most.
        tolerance: an image has converged once no marginal moves by more than this in a sweep.

    Cost: O(N L^2) a sweep, one label after the other. Deterministic. Differentiable in both
    potentials through every sweep made; no image then stops before the others.

    Source: Wainwright and Jordan (2008), section 5.3.
    """

    max_sweeps: int = 50
    tolerance: float = 1e-5

    @property
    def name(self) -> str:
        """`mean-field`."""
        return "mean-field"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Factorised beliefs and a lower bound on log Z."""
        clamped = check_known(potentials, known)
        fields = Fields(potentials)
        start = fields.unary.sigmoid()
        q = torch.where(clamped == UNKNOWN, start, clamped.to(start.dtype))
        moved = torch.full_like(q[:, 0], torch.inf)
        sweeps = 0
        while sweeps < self.max_sweeps and bool((moved > self.tolerance).any()):
            before = q
            q, _ = sweep(fields, q, clamped)
            moved = (q - before).detach().abs().amax(-1)
            sweeps += 1
        converged = moved <= self.tolerance
        return Posterior(
            marginals=q,
            log_partition=potentials.log_score(q) + _entropy(q),
            log_partition_kind=LogPartitionKind.LOWER,
            converged=converged,
            sweeps=sweeps,
            advice=""
            if bool(converged.all())
            else f"mean field: {int((~converged).sum())} of {len(q)} images had not converged "
            f"after {sweeps} sweeps; raise max_sweeps, or use exact or gibbs",
        )

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Marginals rounded at 0.5, then climbed to a local maximum of the score."""
        with torch.no_grad():
            rounded = (self(potentials, known=known).marginals > 0.5).long()
            return climb(potentials, rounded, check_known(potentials, known))


def sweep(fields: Fields, q: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Update every unknown label once, in order.

    Args:
        fields: of the potentials.
        q: marginals before (N, L).
        known: 1, 0 or -1 for unknown (N, L).

    Returns:
        Marginals after, and the log-odds from which each was set (N, L).
    """
    logits = []
    for label in range(q.shape[-1]):
        field = fields.of(label, q)
        updated = torch.where(known[:, label] == UNKNOWN, field.sigmoid(), q[:, label])
        q = q.clone()  # autograd still needs the old one
        q[:, label] = updated
        logits.append(field)
    return q, torch.stack(logits, -1)


def _entropy(q: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(q) + torch.special.entr(1 - q)
    return entropy.sum(-1)
