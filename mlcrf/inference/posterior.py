"""The result of inference (`Posterior`) and the interface of a method (`InferenceMethod`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials


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
        converged: whether the method met its own convergence criterion (N,). That does not make
            beliefs right: a fixed point can be far from the truth, and chains can all miss a mode.
        advice: how many images did not converge, and options to try; empty if all did.
        pairwise_marginals: P(y_i = 1, y_j = 1) of each edge (N, E), if asked for.
        samples: label vectors (S, N, L), if the method draws any.
        error_bound: largest possible error of any marginal of an exact method, apart from
            rounding, float64 (N,); None if the method gives no bound.
        log_partition_error: standard error of log_partition of a method that samples, float64
            (N,), in nats; infinite where the samples do not support an estimate.
    """

    marginals: Tensor
    log_partition: Tensor
    log_partition_kind: LogPartitionKind
    converged: Tensor
    advice: str = ""
    pairwise_marginals: Tensor | None = None
    samples: Tensor | None = None
    error_bound: Tensor | None = None
    log_partition_error: Tensor | None = None


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


def find_converged(problems: Mapping[str, Tensor]) -> Tensor:
    """Return which images have no problem (N,)."""
    return ~torch.stack(list(problems.values())).any(0)


def advise(name: str, problems: Mapping[str, Tensor], remedy: str) -> str:
    """Return the advice of a posterior: empty if no image has a problem.

    Args:
        problems: what images did or have, and which images (N,); an image may have several.
        remedy: options to try.
    """
    counts = {problem: int(images.sum()) for problem, images in problems.items() if images.any()}
    if not counts:
        return ""
    (first, count), *others = counts.items()
    total = len(next(iter(problems.values())))
    said = [f"{count} of {total} images {first}", *(f"{count} {text}" for text, count in others)]
    return f"{name}: {', '.join(said)}; their probabilities may be off. Try {remedy}"
