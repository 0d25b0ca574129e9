"""Each label on its own."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import Potentials


def independent_loss(potentials: Potentials, targets: Tensor, observed: Tensor) -> Tensor:
    """Negative log-probability of the observed labels under sigmoid(unary); couplings are ignored.

    Args:
        potentials: unary (N, L).
        targets: 1 present, 0 absent; what is not observed may hold anything (N, L).
        observed: which targets are known, boolean (N, L).

    Returns:
        A scalar: summed over labels, averaged over images.
    """
    y = torch.where(observed, targets.to(potentials.unary.dtype), 0.0)
    each = F.binary_cross_entropy_with_logits(potentials.unary, y, reduction="none")
    return (each * observed).sum() / len(targets)
