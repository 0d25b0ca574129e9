"""The loss of independent labels, optionally weighted or asymmetric."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.objectives.objective import with_silence


def independent_loss(
    potentials: Potentials,
    targets: Tensor,
    *,
    pos_weight: float = 1.0,
    focus_positive: float = 0.0,
    focus_negative: float = 0.0,
    margin: float = 0.0,
    silence: Tensor | None = None,
) -> Tensor:
    """Return the negative log-probability of the known labels under p = sigmoid(unary).

        present:  -pos_weight (1 - p)^focus_positive log p
        absent:   -q^focus_negative log (1 - q),              q = max(p - margin, 0)

    Couplings are ignored. By default the loss is the likelihood and p is calibrated. A weight above
    1 overestimates rare labels, and the asymmetric loss (focus, margin) ignores easy labels; both
    are not convex in general, and p is then not a probability.

    Args:
        potentials: unary (N, L).
        targets: 1 present, 0 absent, -1 unknown (N, L).
        pos_weight: weight of present labels.
        focus_positive: exponent for present labels in the asymmetric loss; 0 for none.
        focus_negative: exponent for absent labels in the asymmetric loss; 0 for none.
        margin: probability below which an absent label costs nothing.
        silence: evidence of sources that mention only a part of what is present; see
            `mlcrf.objectives.objective.with_silence`.

    Returns:
        A scalar: summed over labels, averaged over images.

    Source: Ridnik et al. (2021) for the asymmetric loss.
    """
    unary = potentials.unary
    present = -pos_weight * _focus(F.logsigmoid(-unary), focus_positive) * F.logsigmoid(unary)
    if margin:
        q = (unary.sigmoid() - margin).clamp(min=0)
        # where q is 0 there is no loss and no gradient
        some = torch.where(q > 0, q, 1.0)
        absent = torch.where(q > 0, -_focus(some.log(), focus_negative) * torch.log1p(-q), 0.0)
    else:
        absent = -_focus(F.logsigmoid(unary), focus_negative) * F.logsigmoid(-unary)
    each = torch.where(targets == 1, present, absent) * (targets >= 0)
    if silence is not None:
        told, _ = with_silence(potentials, targets, silence)
        each = each + torch.where(
            targets < UNKNOWN, F.softplus(unary) - F.softplus(told.unary), 0.0
        )
    return each.sum() / len(targets)


def _focus(log_share: Tensor, exponent: float) -> Tensor | float:
    return (exponent * log_share).exp() if exponent else 1.0
