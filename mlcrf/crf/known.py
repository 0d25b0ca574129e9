"""Known labels, closed under rules."""

import torch
from torch import Tensor

from mlcrf.crf.potentials import Potentials
from mlcrf.errors import PotentialsError
from mlcrf.labels import UNKNOWN


def check_known(potentials: Potentials, known: Tensor | None) -> Tensor:
    """Return known labels as an int64 tensor (N, L) of 1, 0 and -1 (unknown); all unknown if None.

    Labels that follow by rules become known too: the parents of a present label, the
    children of an absent label.

    Raises:
        PotentialsError: wrong shape or value, or a present child with an absent parent.
    """
    if known is None:
        return torch.full(
            potentials.unary.shape, UNKNOWN, dtype=torch.int64, device=potentials.unary.device
        )
    if known.shape != potentials.unary.shape:
        raise PotentialsError(
            f"known: expected {tuple(potentials.unary.shape)}, got {tuple(known.shape)}"
        )
    if not bool(((known == 0) | (known == 1) | (known == UNKNOWN)).all()):
        raise PotentialsError("known: expected 1 (present), 0 (absent) or -1 (unknown)")
    known = known.to(device=potentials.unary.device, dtype=torch.int64)
    rules = potentials.rules
    if not len(rules):
        return known
    values = known.cpu().numpy()
    broken = rules.contradiction(values)
    if broken:
        image, child, parent = broken
        raise PotentialsError(
            f"known: image {image} has label {child} without label {parent}, which it implies"
        )
    return torch.from_numpy(rules.close(values)).to(known.device)
