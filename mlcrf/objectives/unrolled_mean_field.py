"""Train the inference that will be used: the gradient goes through the sweeps of mean field."""

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import MeanField


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
    unrolled = MeanField(max_sweeps=sweeps, tolerance=0.0)
    # log(q) and log(1 - q) stay finite: float32 sigmoids saturate at 1, so q is kept inside.
    q = unrolled(potentials).marginals
    margin = torch.finfo(q.dtype).eps
    q = q.clamp(margin, 1 - margin)
    y = targets.to(q.dtype)
    each = -(torch.xlogy(y, q) + torch.xlogy(1 - y, 1 - q))
    return (each * observed).sum() / len(targets)
