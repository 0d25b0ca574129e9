"""Label sets drawn from a CRF beside those that are there: do photos look as it says?

For every label, pair, triple and number of labels, the photos with it are counted in drawn data
(Rubin 1984; Gelman, Meng and Stern 1996) and in the photos: z = (observed - mean) / deviation. A
CRF that is right has a mean z^2 of about 1; how often drawn data have one as large is its p-value.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEAST = 5.0  # expected photos, of what is counted


def compare(drawn: Iterable[Tensor], targets: Tensor) -> dict[str, dict[str, Any]]:
    """Compare drawn data, label sets int8 (N, L) each, with the photos' (N, L).

    Returns:
        By kind (labels, pairs, triples, counts): how many are counted, mean z^2, its p-value, and
        the share with |z| > 3. What is expected in fewer than 5 photos is left out.
    """
    observed = _count(targets)
    replicates = [_count(one) for one in drawn]
    found = {}
    for kind, there in observed.items():
        each = np.stack([one[kind] for one in replicates])
        mean, spread = each.mean(0), each.std(0, ddof=1)
        often = mean >= _LEAST
        if not often.any():
            figures = ("mean_square", "usual", "p", "far")
            found[kind] = {"number": 0} | dict.fromkeys(figures, float("nan"))
            continue
        z = (there - mean)[often] / spread[often]
        # each drawn one beside all others: their mean and deviation without it
        others = len(each) - 1
        left = (each - mean)[:, often] * len(each) / others
        rest = ((spread[often] ** 2 * others) - left**2 * others / len(each)) / (others - 1)
        usual = (left**2 / np.maximum(rest, 1e-9)).mean(1)
        size = float((z**2).mean())
        found[kind] = {
            "number": int(often.sum()),
            "mean_square": size,
            "usual": float(usual.mean()),
            "p": float((1 + (usual >= size).sum()) / (1 + len(usual))),
            "far": float((np.abs(z) > 3).mean()),
        }
    return found


def _count(states: Tensor) -> dict[str, NDArray[np.float64]]:
    """Return how many photos have each label, pair, triple and number of labels."""
    y = states.float()
    num_labels = y.shape[1]
    first, second = torch.triu_indices(num_labels, num_labels, 1)
    pairs = y[:, first] * y[:, second]
    three = pairs.T @ y
    later = torch.arange(num_labels) > second[:, None]
    found = {
        "labels": y.sum(0),
        "pairs": pairs.sum(0),
        "triples": three[later],
        "counts": torch.bincount(states.long().sum(1), minlength=num_labels + 1),
    }
    return {kind: values.double().numpy() for kind, values in found.items()}
