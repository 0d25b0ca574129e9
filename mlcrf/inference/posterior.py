"""The result of inference (`Posterior`) and the interface of a method (`InferenceMethod`)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials


class LogPartitionKind(StrEnum):
    """The status of a value of log Z."""

    EXACT = "exact"
    ESTIMATE = "estimate"
    LOWER = "lower bound"
    UPPER = "upper bound"


@dataclass(frozen=True)
class Posterior:
    """Beliefs about the labels of N images.

    With known labels clamped, `log_partition` is the log-sum over the states that agree with
    them, their own score included, and their marginals are 0 or 1.

    Attributes:
        marginals: P(y_i = 1 given x and what is known) (N, L).
        log_partition: log Z (N,).
        log_partition_kind: whether that is exact, an estimate or a bound.
        converged: whether the method met its own convergence criterion (N,).
        advice: how many images did not converge, and options to try; empty if all did.
        pairwise_marginals: P(y_i = 1, y_j = 1) of each edge (N, E), if asked for.
        samples: label vectors (S, N, L), if the method draws any.
        error_bound: largest possible error of any marginal of an exact method, apart from
            rounding, float64 (N,); None if the method gives no bound.
    """

    marginals: Tensor
    log_partition: Tensor
    log_partition_kind: LogPartitionKind
    converged: Tensor
    advice: str = ""
    pairwise_marginals: Tensor | None = None
    samples: Tensor | None = None
    error_bound: Tensor | None = None


class InferenceMethod(Protocol):
    """A method with its settings, called on potentials."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        ...

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs; `known` (N, L) holds 1, 0, or -1 for unknown."""
        ...

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors the method finds, int64 (N, L)."""
        ...


def log_mass(method: InferenceMethod, potentials: Potentials, known: Tensor) -> Tensor:
    """Return the log-sum over the label vectors that agree with what is known (N, L), (N,).

    Where every label is known, this is the score of the label vector, which needs no inference,
    unless label vectors have no score (see `Potentials.has_log_score`).
    """
    if potentials.has_log_score and bool((known != UNKNOWN).all()):
        return potentials.log_score(known)
    return method(potentials, known=known).log_partition


def advise(name: str, converged: Tensor, problem: str, remedy: str) -> str:
    """Return the advice of a posterior: empty if all images have converged (N,).

    Args:
        problem: what the images that have not converged did or have.
        remedy: options to try.
    """
    failed = int((~converged).sum())
    if not failed:
        return ""
    return (
        f"{name}: {failed} of {len(converged)} images {problem}; their probabilities may be off. "
        f"Try {remedy}"
    )


@torch.no_grad()
def iterated_conditional_modes(
    potentials: Potentials, states: Tensor, known: Tensor, *, max_sweeps: int = 100
) -> Tensor:
    """Improve label vectors until no single change raises their score.

    Iterated conditional modes (Besag 1986): each label in turn takes its likelier value given
    the others. The score never falls. Known labels keep their value.

    Args:
        states: where to start (N, L).
        known: 1, 0 or -1 for unknown (N, L).

    Returns:
        Local maxima, int64 (N, L), not necessarily global.

    Cost: O(N L) for each label of a sweep that changes in any image; other labels are skipped.
    """
    fields = Fields(potentials)
    free = known == UNKNOWN
    y = torch.where(free, states, known).to(potentials.unary.dtype)
    log_odds = fields.all(y)
    for _ in range(max_sweeps):
        label, settled = 0, True
        while True:
            wrong = (((log_odds > 0).to(y.dtype) != y) & free)[:, label:].any(0).nonzero()
            if not len(wrong):
                break
            label, settled = label + int(wrong[0]), False
            likelier = (log_odds[:, label] > 0).to(y.dtype)
            change = torch.where(free[:, label], likelier - y[:, label], 0.0)
            y[:, label] += change
            fields.move(log_odds, label, change)
            label += 1
        if settled:
            break
    return y.long()
