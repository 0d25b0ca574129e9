"""Mean field: the best fully factorised distribution."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, check_known
from mlcrf.errors import SettingsError
from mlcrf.inference.modes import check_fixed_point, iterated_conditional_modes
from mlcrf.inference.posterior import LogPartitionKind, Posterior, advise, find_converged


@dataclass(frozen=True)
class MeanField:
    """Approximate marginals by the best fully factorised distribution.

    Coordinate ascent on the evidence bound, one label at a time, so the bound never falls:

        q_i = sigmoid(unary_i + sum_j pairwise_ij q_j)
        log Z >= sum_i unary_i q_i + sum_{i<j} pairwise_ij q_i q_j + sum_i H(q_i)

    The parallel form updates all labels at once and keeps a part of their log-odds, which is a
    natural gradient step on the same bound:

        log-odds_i <- damping log-odds_i + (1 - damping) (unary_i + sum_j pairwise_ij q_j)

    It is a few matrix products, with a gradient that is as cheap: the form to unroll in training.
    At strong couplings it can oscillate where one label at a time cannot.

    Fails where labels attract or exclude each other strongly: the answer then depends on the
    start, which is sigmoid(unary), and on the order of the labels. An image has converged if it is
    at a fixed point, and neither local search nor a second start shows that this is not the answer
    (`check_fixed_point`). That is no promise: marginals can be far off where there is one mode.

    Attributes:
        max_sweeps: maximum number of passes over all labels.
        tolerance: an image is at a fixed point once no marginal moves by more than this in a sweep.
        parallel: update all labels at once.
        damping: share of the old log-odds that the parallel form keeps, from 0 to below 1.
        unrolled: the model was trained through these sweeps, so that they define its marginals:
            every image counts as converged after `max_sweeps`.
        second_start: whether to look for another answer, which costs up to as much again. Without,
            `converged` means a fixed point and no more.

    Raises:
        SettingsError: damping is out of range.

    Cost: O(N L^2) per sweep, one label after another, or one matrix product if parallel.
    Deterministic. Differentiable in both potentials through every sweep.

    Source: Wainwright and Jordan (2008), section 5.3.
    """

    max_sweeps: int = 50
    tolerance: float = 1e-5
    parallel: bool = False
    damping: float = 0.5
    unrolled: bool = False
    second_start: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise SettingsError(f"mean field: damping: expected 0 to below 1, got {self.damping}")

    @property
    def name(self) -> str:
        return "parallel-mean-field" if self.parallel else "mean-field"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer factorised beliefs and a lower bound on log Z."""
        clamped = check_known(potentials, known)
        posterior, problems = self._infer(potentials, clamped)
        if self.unrolled:
            return replace(posterior, converged=torch.ones_like(posterior.converged))
        if self.second_start:
            problems |= check_fixed_point(
                posterior, potentials, clamped, lambda *given: self._infer(*given)[0]
            )
        return replace(
            posterior,
            converged=find_converged(problems),
            advice=advise(
                self.name,
                problems,
                "--inference exact, junction-tree or gibbs of train, evaluate and report, or train "
                "with a larger --set mean_field_sweeps",
            ),
        )

    def _infer(
        self, potentials: Potentials, known: Tensor, start: Tensor | None = None
    ) -> tuple[Posterior, dict[str, Tensor]]:
        """Infer beliefs from sigmoid(unary) or from label vectors (N, L), and the problems."""
        fields = Fields(potentials)
        logits = fields.unary if start is None else fields.all(start)
        q = _beliefs(logits, known)
        moved = torch.full_like(q[:, 0], torch.inf)
        sweeps = 0
        while sweeps < self.max_sweeps and bool((moved > self.tolerance).any()):
            before = q
            q, logits = self._sweep(fields, q, logits, known)
            moved = (q - before).detach().abs().amax(-1)
            sweeps += 1
        settled = moved <= self.tolerance
        posterior = Posterior(
            marginals=q,
            log_partition=potentials.log_score(q) + _entropy(q, logits, known),
            log_partition_kind=LogPartitionKind.LOWER,
            converged=settled,
        )
        return posterior, {f"had not converged after {sweeps} sweeps": ~settled}

    def unroll(self, potentials: Potentials, known: Tensor) -> Tensor:
        """Return the log-odds of the marginals after exactly `max_sweeps` sweeps (N, L).

        For training. Log-odds of known labels are those given the other labels.
        """
        fields = Fields(potentials)
        logits = fields.unary
        q = _beliefs(logits, known)
        for _ in range(self.max_sweeps):
            q, logits = self._sweep(fields, q, logits, known)
        return logits

    def _sweep(
        self, fields: Fields, q: Tensor, logits: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return marginals and log-odds after one more sweep (N, L)."""
        if not self.parallel:
            return sweep(fields, q, known)
        logits = self.damping * logits + (1 - self.damping) * fields.all(q)
        return _beliefs(logits, known), logits

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the marginals rounded at 0.5, improved to a local maximum of the score."""
        with torch.no_grad():
            clamped = check_known(potentials, known)
            rounded = (self._infer(potentials, clamped)[0].marginals > 0.5).long()
            return iterated_conditional_modes(potentials, rounded, clamped)


def sweep(fields: Fields, q: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Update every unknown label once, in order.

    Args:
        fields: log-odds of the potentials.
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


def _beliefs(logits: Tensor, known: Tensor) -> Tensor:
    q = logits.sigmoid()
    return torch.where(known == UNKNOWN, q, known.to(q.dtype))


def _entropy(q: Tensor, logits: Tensor, known: Tensor) -> Tensor:
    """Return the entropy of unknown labels (N,), from log-odds: q log q has no gradient at 0."""
    entropy = -q * F.logsigmoid(logits) - (1 - q) * F.logsigmoid(-logits)
    return torch.where(known == UNKNOWN, entropy, 0).sum(-1)
