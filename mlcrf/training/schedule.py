"""How the learning rate goes over the steps of a network."""

import torch
from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimiser: torch.optim.Optimizer, rate: float, steps: int) -> OneCycleLR:
    """Up to `rate` over the first tenth of the steps, then to 0 by a cosine."""
    total = max(steps, 2)
    warm_up = 1.1 if total == 10 else total / 10  # torch divides by zero where it is one step
    return OneCycleLR(optimiser, rate, total_steps=total, pct_start=warm_up / total)
