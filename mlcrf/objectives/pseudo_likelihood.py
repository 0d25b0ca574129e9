"""Each label given all the others."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import MeanField


def pseudo_likelihood_loss(potentials: Potentials, targets: Tensor, observed: Tensor) -> Tensor:
    """Negative log-probability of each observed label given the true others (Besag 1975).

    Convex in the potentials where all is observed. Neighbours that are not observed enter by
    their mean-field marginal given what is observed, a constant to the gradient, and are not
    scored themselves.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent (N, L).
        observed: which targets are known, boolean (N, L).

    Returns:
        A scalar: summed over labels, averaged over images.

    Cost: O(N L^2).
    """
    states = targets.to(potentials.unary.dtype)
    if not bool(observed.all()):
        with torch.no_grad():
            known = torch.where(observed, targets.long(), UNKNOWN)
            states = MeanField()(potentials, known=known).marginals
    logits = potentials.conditional_logits(states)
    each = F.binary_cross_entropy_with_logits(
        logits, torch.where(observed, states, 0.0), reduction="none"
    )
    return (each * observed).sum() / len(targets)
