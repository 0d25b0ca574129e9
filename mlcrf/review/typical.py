"""Photos that show what is in an archive, to ask about a tag of which no photo is known yet."""

import torch
from torch import Tensor

_MOST_PHOTOS = 2000  # of which some are chosen
_AXES = 50
_WIDTH = 0.25  # of the similarity, relative to the mean squared distance


def typical_photos(features: Tensor, count: int) -> Tensor:
    """Return photos, at most so many, each typical of what the earlier ones are not like.

    Greedily maximises the sum over photos of the similarity to the chosen photo that is most like
    it, exp(-d^2 / (2 w mean d^2)), with distances d along the widest principal axes (k-medoids; the
    greedy sum is at least 63 % of the largest). So the first photos stand for the largest groups.

    Args:
        features: of all photos (N, D).

    Cost: O(M^2 count + M D^2 + D^3) with M = min(N, 2,000). Memory: two matrices (M, M).
    Deterministic.

    Source: Nemhauser, Wolsey and Fisher (1978), for the bound.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(features), generator=generator)[:_MOST_PHOTOS]
    seen = features[rows].float()
    spread = seen.std(0, correction=0)
    standard = (seen - seen.mean(0)) / torch.where(spread > 0, spread, torch.inf)
    _, axes = torch.linalg.eigh(standard.T @ standard)
    places = standard @ axes[:, -_AXES:]
    distance = torch.cdist(places, places).square()
    similarity = torch.exp(-distance / (2 * _WIDTH * distance.mean().clamp(min=1e-12)))
    covered = similarity.new_zeros(len(rows))
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gain = (similarity - covered[:, None]).clamp(min=0).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        covered = torch.maximum(covered, similarity[:, chosen[-1]])
    return rows[chosen]
