"""Unrolled mean field: the gradient of a loss through the sweeps of inference."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.inference import MeanField

_SHOWN = 0.5  # share of the known labels that is clamped in images with unknown labels


def unrolled_mean_field_loss(
    potentials: Potentials,
    targets: Tensor,
    *,
    method: MeanField = MeanField(max_sweeps=10, parallel=True),
    seed: int = 0,
) -> Tensor:
    """Return the cross-entropy of the known labels under mean field's marginals after some sweeps.

    This is the loss of the marginals, not of the joint distribution, and it is not convex. An image
    whose labels are all known is scored with nothing clamped. Where labels are unknown, a random
    half of the known labels is clamped and the other half is scored, counted twice: the unknown
    labels are inferred from the first half and used to predict the second.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent, -1 unknown (N, L).
        method: makes all of its sweeps; predict with the same method.
        seed: random seed of the choice of clamped labels, which is the same in every call.

    Returns:
        A scalar: summed over labels, averaged over images.

    Cost: O(sweeps N L^2), memory O(sweeps N L).
    """
    observed = targets >= 0
    partly = ~observed.all(-1, keepdim=True)
    shown = observed & partly & _draw(observed, seed)
    known = check_known(potentials, targets.where(shown, UNKNOWN))
    logits = method.unroll(potentials, known)
    weight = (observed & ~shown) * torch.where(partly, 1 / (1 - _SHOWN), 1.0)
    y = torch.where(observed, targets.to(logits.dtype), 0.0)
    # from log-odds, which keep their gradient where the marginal has saturated
    each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (each * weight).sum() / len(targets)


def _draw(observed: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shown = torch.rand(observed.shape, generator=generator) < _SHOWN
    return shown.to(observed.device)
