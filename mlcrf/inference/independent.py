"""Independent labels: exact inference without couplings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference.posterior import LogPartitionKind, Posterior


@dataclass(frozen=True)
class Independent:
    """Infer independent labels: the baseline, and any CRF without edges.

        P(y_i = 1) = sigmoid(unary_i),      log Z = sum_i log(1 + exp(unary_i))

    Cost: O(N L). Deterministic. Differentiable.
    """

    @property
    def name(self) -> str:
        return "independent"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer exact beliefs.

        Raises:
            PotentialsError: there is an edge, or a rule.
        """
        clamped = self._check(potentials, known)
        free = clamped == UNKNOWN
        log_terms = torch.where(free, F.softplus(potentials.unary), potentials.unary * clamped)
        return Posterior(
            marginals=torch.where(
                free, potentials.unary.sigmoid(), clamped.to(potentials.unary.dtype)
            ),
            log_partition=log_terms.sum(-1),
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones(len(clamped), dtype=torch.bool, device=clamped.device),
        )

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return each label's likelier value."""
        clamped = self._check(potentials, known)
        return torch.where(clamped == UNKNOWN, (potentials.unary > 0).long(), clamped)

    def _check(self, potentials: Potentials, known: Tensor | None) -> Tensor:
        for what, given in (("edge", potentials.edges), ("rule", potentials.rules)):
            if len(given):
                raise PotentialsError(
                    f"independent inference: expected no {what}, got {len(given)}"
                )
        return check_known(potentials, known)
