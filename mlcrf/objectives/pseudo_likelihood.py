"""The pseudo-likelihood: each label given all other labels."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import MeanField


def pseudo_likelihood_loss(potentials: Potentials, targets: Tensor) -> Tensor:
    """Return the negative log-probability of each known label given the other labels (Besag 1975).

    Convex in the potentials where all labels are known. Unknown neighbours enter by their
    mean-field marginal given the known ones, a constant to the gradient, and are not scored
    themselves.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent, -1 unknown (N, L).

    Returns:
        A scalar: summed over labels, averaged over images.

    Cost: O(N L^2).
    """
    observed = targets >= 0
    states = targets.to(potentials.unary.dtype)
    if not bool(observed.all()):
        with torch.no_grad():
            states = MeanField(second_start=False)(potentials, known=targets).marginals
    logits = potentials.conditional_logits(states)
    each = F.binary_cross_entropy_with_logits(
        logits, torch.where(observed, states, 0.0), reduction="none"
    )
    return (each * observed).sum() / len(targets)
