"""Train the inference that will be used: the gradient goes through the sweeps of mean field."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import Fields, Potentials, check_known
from mlcrf.inference.mean_field import sweep


def unrolled_mean_field_loss(
    potentials: Potentials, targets: Tensor, observed: Tensor, *, sweeps: int = 5
) -> Tensor:
    """Cross-entropy of the observed labels under mean field's marginals after some sweeps.

    This is the loss of the marginals that are decoded, not of the joint distribution, and it is
    not convex.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent (N, L).
        observed: which targets are known, boolean (N, L).
        sweeps: how many passes are unrolled; decode with as many.

    Returns:
        A scalar: summed over labels, averaged over images.

    Cost: O(sweeps N L^2), memory too.
    """
    known = check_known(potentials, None)
    fields = Fields(potentials)
    q = fields.unary.sigmoid()
    logits = fields.unary
    for _ in range(sweeps):
        q, logits = sweep(fields, q, known)
    y = torch.where(observed, targets.to(logits.dtype), 0.0)
    # from log-odds, which keep their gradient where the marginal has saturated
    each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (each * observed).sum() / len(targets)
