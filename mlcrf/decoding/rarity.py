"""Scores that let rare labels through: the probability, over a power of the label's frequency."""

import torch
from torch import Tensor

from mlcrf.errors import ProbabilitiesError

_RARITIES = [step / 10 for step in range(21)]


def estimate_frequencies(targets: Tensor) -> tuple[float, ...]:
    """Return the share of images with each label, never 0: (positives + 1/2) / (known + 1).

    Args:
        targets: 1, 0, or -1 for unknown (N, L).
    """
    positives, known = (targets == 1).sum(0).double(), (targets >= 0).sum(0).double()
    return tuple(((positives + 0.5) / (known + 1)).tolist())


def scores_by_rarity(marginals: Tensor, frequencies: Tensor, rarity: float) -> Tensor:
    """Return p / frequency ** rarity, which ranks as log p - rarity log frequency (N, L).

    Let each of N images have exactly k labels. Two exponents are maximisers:

        0   the expected number of right labels: it is the sum of the p of what is chosen
        1   the expected mean recall of a label, with frequency = the mean of p over the images:

                E R = 1/L sum_l E[ sum_n h_nl y_nl / sum_n y_nl ]
                   ~= 1/L sum_l sum_n h_nl p_nl / sum_n p_nl

            is a sum over what is chosen, with terms proportional to p_nl / frequency_l. (It is
            exact up to the spread of the number of positives, which matters if they are few.)

    The mean precision also depends on how often each label is chosen, over all images; no score of
    single images maximises it. The exponent that trades the two best is tuned: see `tune_rarity`.
    """
    return marginals.double() * frequencies.double() ** -rarity


def tune_rarity(marginals: Tensor, targets: Tensor, frequencies: Tensor, k: int) -> float:
    """Return the rarity from 0 to 2 of highest F1 of the means at k, in steps of 0.1.

    F1 of mean precision and mean recall, over labels with a positive; see `mlcrf.metrics.Measures`.
    Ties go to the smallest; 0 if no label has a positive.

    Args:
        marginals: P(y_i = 1) (N, L).
        targets: 1, 0, or -1 for unknown, which is neither right nor wrong (N, L).
        frequencies: share of images with each label, above 0 (L,).
        k: number of labels that each image has.

    Cost: O(N L) per candidate.
    """
    if marginals.shape != targets.shape or frequencies.shape != marginals.shape[1:]:
        raise ProbabilitiesError(
            f"marginals, targets and frequencies: expected (N, L), (N, L) and (L,), got "
            f"{tuple(marginals.shape)}, {tuple(targets.shape)} and {tuple(frequencies.shape)}"
        )

    def value(rarity: float) -> float:
        scores = scores_by_rarity(marginals, frequencies, rarity)
        return _f1_of_means(scores.topk(k, dim=1).indices, targets)

    return max(_RARITIES, key=value)


def _f1_of_means(chosen: Tensor, targets: Tensor) -> float:
    """Return the F1 of the means of chosen label numbers (N, k); 0 without a positive."""
    found = targets.gather(1, chosen)
    hits, known = (
        torch.bincount(chosen.flatten(), one.double().flatten(), minlength=targets.shape[1])
        for one in (found == 1, found >= 0)
    )
    positives = (targets == 1).sum(0)
    present = positives > 0
    if not bool(present.any()):
        return 0.0
    precision = float((hits / known.clamp(min=1))[present].mean())
    recall = float((hits / positives)[present].mean())
    return 2 * precision * recall / (precision + recall) if recall else 0.0
