"""How the learning rate goes over the steps of a network."""

import torch
from torch.optim.lr_scheduler import OneCycleLR

_WARM_UP = 0.1


def one_cycle(optimiser: torch.optim.Optimizer, rate: float, steps: int) -> OneCycleLR:
    """Up to `rate` over the first tenth of the steps, but at least two, then to 0 by a cosine."""
    total = max(steps, 2)
    return OneCycleLR(optimiser, rate, total_steps=total, pct_start=max(_WARM_UP, 2 / total))
