"""The label sets of many images of highest expected F1 of mean precision and mean recall."""

import torch
from torch import Tensor

from mlcrf.decoding.admissible import Admissible

_ROUNDING = 1e-9  # relative; a smaller rise may be one
_WORTH_A_SWEEP = 1e-3  # relative rise


def maximise_f1_of_means(
    marginals: Tensor, admissible: Admissible, *, max_sweeps: int = 50
) -> tuple[Tensor, float]:
    """Choose the label sets of N images together, for a high expected F1 of the means at k.

    Of label sets h and truth y, mean precision and mean recall over labels are

        P = mean_l sum_n h_nl y_nl / sum_n h_nl,    R = mean_l sum_n h_nl y_nl / sum_n y_nl

    The expectation of P has p in place of y, exactly: h is fixed. That of R has it to first order,
    as expected hits over expected positives. Maximised is F = 2 P R / (P + R) of the two.

    How much a label adds to P depends on how often other images have it, so no score of a single
    image does this. But given the sets of the other images, label l adds to image n

        dP = (hits_l + p_nl) / (count_l + 1) - hits_l / count_l,    dR = p_nl / sum_m p_ml

    (times 1 / L), and to first order its best labels are those of highest R^2 dP + P^2 dR, along
    the gradient of F. Images are visited in turn, and a change is made only if F rises, until a
    sweep over all images raises it by less than 1e-3 of itself. This is coordinate ascent: its
    result need not be the best of all. It begins with the maximiser of R.

    An image that must have more labels than are likely gets, as the rest, those whose precision has
    little to lose. That serves this measure, not a person who reads the labels.

    Args:
        marginals: P(y_i = 1) (N, L).
        admissible: how many labels each image has, and which; images get their largest number.

    Returns:
        Label sets, int64 (N, L), and F.

    Cost: O(L log L) per image and sweep, up to ten sweeps; about a millisecond an image in all.

    Source: Schultheis, Wydmuch, Kotlowski, Babbar and Dembczynski (2023), Generalized test
    utilities for long-tail performance in extreme multi-label classification.
    """
    p = marginals.double()
    recalls = _quotient(p, p.sum(0))
    states = admissible.fit(torch.zeros_like(p, dtype=torch.int64), recalls)
    hits, counts = (states * p).sum(0), states.sum(0).double()
    recall = (states * recalls).sum()
    value = _f1(_quotient(hits, counts).sum(), recall)
    for _ in range(max_sweeps):
        before = value
        for n, size in enumerate(admissible.most.tolist()):
            # all labels without this image, and what each would gain by it
            base = _quotient(hits - states[n] * p[n], counts - states[n])
            gains = _quotient(hits + (1 - states[n]) * p[n], counts + 1 - states[n]) - base
            precision = base.sum() + (states[n] * gains).sum()
            scores = recall**2 * gains + precision**2 * recalls[n]
            order = admissible.rows(slice(n, n + 1)).order(scores[None])[0]
            chosen = torch.zeros_like(states[n]).scatter(0, order[:size], 1)
            change = chosen - states[n]
            new_precision = precision + (change * gains).sum()
            new_recall = recall + (change * recalls[n]).sum()
            new_value = _f1(new_precision, new_recall)
            if new_value > value * (1 + _ROUNDING):
                states[n], recall, value = chosen, new_recall, new_value
                hits, counts = hits + change * p[n], counts + change
        if not value > before * (1 + _WORTH_A_SWEEP):
            break
    return states, float(value) / max(1, p.shape[1])


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, 0 where the whole is nothing."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-300), 0.0)


def _f1(precision: Tensor, recall: Tensor) -> Tensor:
    return _quotient(2 * precision * recall, precision + recall)
