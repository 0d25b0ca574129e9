"""The joint probability of the label set."""

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, ScenePotentials
from mlcrf.inference import Exact, InferenceMethod


def exact_likelihood_loss(
    potentials: Potentials, targets: Tensor, observed: Tensor, *, exact: InferenceMethod = Exact()
) -> Tensor:
    """Negative log-probability of the observed labels, the others summed out.

        loss = log Z - log Z(observed clamped)

    which is log Z - log_score(targets) where all is observed, convex in the potentials then.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent (N, L).
        observed: which targets are known, boolean (N, L).
        exact: a method whose log Z is exact and differentiable.

    Returns:
        A scalar: summed over labels, averaged over images.

    Raises:
        TooManyLabelsError: exact inference does not reach.

    Cost: that of log Z with its gradient, 6 N 2^L operations by enumeration at most; twice that
    where labels are unknown.
    """
    log_partition = exact(potentials).log_partition
    if bool(observed.all()) and not isinstance(potentials, ScenePotentials):
        clamped = potentials.log_score(targets)
    else:
        known = torch.where(observed, targets.long(), UNKNOWN)
        clamped = exact(potentials, known=known).log_partition
    return (log_partition - clamped).sum() / len(targets)
