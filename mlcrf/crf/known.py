"""Labels that are known, and what they imply."""

import torch
from torch import Tensor

from mlcrf.crf.potentials import Potentials
from mlcrf.errors import PotentialsError

UNKNOWN = -1


def check_known(potentials: Potentials, known: Tensor | None) -> Tensor:
    """Known labels as an int64 tensor (N, L) of 1, 0 and -1 (unknown); all unknown if None.

    What follows by the implications is known too: the parents of a label that is present, the
    children of one that is absent.

    Raises:
        PotentialsError: wrong shape or another value; a child present whose parent is absent.
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
    return _closed(known, potentials.implications) if len(potentials.implications) else known


def _closed(known: Tensor, implications: Tensor) -> Tensor:
    known = known.clone()
    for _ in range(len(implications)):  # a chain is no longer than this
        before = known.clone()
        for child, parent in implications.tolist():
            broken = (known[:, child] == 1) & (known[:, parent] == 0)
            if bool(broken.any()):
                raise PotentialsError(
                    f"known: image {int(broken.nonzero()[0])} has label {child} without label "
                    f"{parent}, which it implies"
                )
            known[known[:, child] == 1, parent] = 1
            known[known[:, parent] == 0, child] = 0
        if torch.equal(known, before):
            break
    return known
