"""The label set of highest expected Jaccard index."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.decoding.admissible import Admissible
from mlcrf.decoding.counts import count_marginals_from_samples, empty_probability
from mlcrf.decoding.expected_f1 import maximise_expected_f1

_ENTRIES = 2**21  # largest number of candidate entries per chunk of images
_CODE_BITS = 62  # label sets of up to this many labels are numbers; larger sets are hashed


def maximise_expected_jaccard(
    samples: Tensor,
    marginals: Tensor,
    admissible: Admissible | None = None,
    *,
    exhaustive_labels: int = 10,
) -> tuple[Tensor, Tensor]:
    """Return label sets h of highest average Jaccard(h, y) = |h & y| / |h | y| over samples y.

    No efficient exact maximiser is known: the Jaccard median is NP-hard. Up to
    `exhaustive_labels` labels all sets are tried. Above, the candidates are the distinct samples,
    the nested sets by falling marginal up to twice the largest number of labels in a sample, and
    the set of highest average F1, each made admissible; the best of them is then improved by
    flipping single labels until none helps. Jaccard of two empty sets is 1.

    Args:
        samples: label sets of 0 and 1 (S, N, L).
        marginals: P(y_i = 1) (N, L), for the nested sets and to make sets admissible.
        admissible: which sets may be chosen; all if None.

    Returns:
        Label sets, int64 (N, L), and their average over the samples, float64 (N,).

    Cost: O(D^2 U) per image, D the distinct samples and U the labels in any of them; memory is
    bounded by chunks of images.

    Source: Chierichetti, Kumar, Pandey and Vassilvitskii (2010), Finding the Jaccard median.
    """
    num_samples, num_images, num_labels = samples.shape
    if admissible is None:
        admissible = Admissible(torch.full(marginals.shape, -1, device=marginals.device))
    states = torch.zeros(marginals.shape, dtype=torch.int64, device=marginals.device)
    value = torch.zeros(num_images, dtype=torch.float64, device=marginals.device)
    exhaustive = num_labels <= exhaustive_labels
    num_candidates = 2**num_labels if exhaustive else num_samples + num_labels + 2
    step = max(1, _ENTRIES // (num_candidates * num_labels))
    for start in range(0, num_images, step):
        rows = slice(start, start + step)
        allowed, part = admissible.rows(rows), samples[:, rows]
        truth = _distinct(part)
        if exhaustive:
            labels = torch.arange(num_labels, device=part.device)
            numbers = torch.arange(num_candidates, device=part.device)
            every = ((numbers[:, None] >> labels) & 1).to(torch.uint8)
            candidates = every[:, None].expand(-1, part.shape[1], -1)
        else:
            candidates = _candidates(part, truth, marginals[rows], allowed)
        candidates = allowed.fit(candidates, marginals[rows])
        best = _average(candidates, truth).argmax(0)
        chosen = candidates[best, torch.arange(part.shape[1], device=best.device)]
        states[rows], value[rows] = _improve(chosen, truth, allowed)
    return states, value


@dataclass(frozen=True)
class _Distribution:
    """Distinct samples of a few images, with weights.

    Attributes:
        states: distinct label sets, uint8 (D, N, L), padded by sets of weight 0.
        weights: how often each was drawn, as a share, float64 (D, N).
    """

    states: Tensor
    weights: Tensor

    @property
    def sizes(self) -> Tensor:
        """Number of labels in each, at least 1 so that it divides (D, N)."""
        return self.states.sum(-1).clamp(min=1)

    @property
    def empty(self) -> Tensor:
        """Share of the empty set (N,)."""
        return (self.weights * (self.states.sum(-1) == 0)).sum(0)


def _distinct(samples: Tensor) -> _Distribution:
    """Return the distinct samples, each with its share as weight."""
    num_samples, num_images, num_labels = samples.shape
    code = torch.zeros(samples.shape[:2], dtype=torch.int64, device=samples.device)
    for label, factor in enumerate(_code_factors(num_labels)):
        code += samples[..., label].long() * factor
    code, order = code.sort(0)
    fresh = torch.ones_like(code)
    fresh[1:] = code[1:] != code[:-1]
    place = fresh.cumsum(0) - 1
    width = int(place.max()) + 1
    weights = torch.zeros((width, num_images), dtype=torch.float64, device=samples.device)
    weights.scatter_add_(0, place, torch.full_like(place, 1 / num_samples, dtype=torch.float64))
    source = torch.zeros((width, num_images), dtype=torch.int64, device=samples.device)
    source.scatter_(0, place, order)
    states = samples.gather(0, source.unsqueeze(-1).expand(-1, -1, num_labels))
    return _Distribution(states * (weights > 0).unsqueeze(-1), weights)


def _code_factors(num_labels: int) -> list[int]:
    """Return integers whose sums over two label sets differ if the sets do.

    Powers of two; many labels have random numbers, whose sums modulo 2^64 agree for two
    given sets with a chance of 2^-64.
    """
    if num_labels <= _CODE_BITS:
        return [2**label for label in range(num_labels)]
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(torch.int64)
    return torch.randint(limits.min, limits.max, (num_labels,), generator=generator).tolist()


def _candidates(
    samples: Tensor, truth: _Distribution, marginals: Tensor, admissible: Admissible
) -> Tensor:
    """Return candidate label sets, uint8 (C, N, L)."""
    rank = admissible.order(marginals.double()).argsort(-1)
    longest = min(rank.shape[1], 2 * int(truth.sizes.max()))
    lengths = torch.arange(longest + 1, device=rank.device)
    nested = (rank < lengths[:, None, None]).to(torch.uint8)
    counts = count_marginals_from_samples(samples)
    f1, _ = maximise_expected_f1(counts, empty_probability(counts), admissible)
    return torch.cat([truth.states, nested, f1.to(torch.uint8)[None]])


def _average(candidates: Tensor, truth: _Distribution) -> Tensor:
    """Return the average Jaccard of candidates (C, N, L), to six digits: (C, N).

    With a = |h|, b = |y| and u = |h | y|, Jaccard is (a + b - u) / u = a / u + b / u - 1, so that
    all that is made of candidates by samples is u = a + b - |h & y|, one product. A loop over
    images: each is a large product of its own, and a batch of them is slower.
    """
    used = truth.states.sum((0, 1)) > 0
    sizes, true_sizes = candidates.sum(-1).T.float(), truth.sizes.T.float()
    ours, theirs = (
        states[..., used].transpose(0, 1).float() for states in (candidates, truth.states)
    )
    average = truth.empty.float()[:, None] * (sizes == 0) - 1
    inverse = average.new_empty(len(candidates), len(truth.states))
    for image, weights in enumerate(truth.weights.T.float()):
        a, b = sizes[image], true_sizes[image]
        left = torch.cat([torch.stack([a, torch.ones_like(a)], -1), ours[image]], -1)
        right = torch.cat([torch.stack([torch.ones_like(b), b], -1), -theirs[image]], -1)
        torch.mm(left, right.T, out=inverse).reciprocal_()
        average[image] += a * (inverse @ weights) + inverse @ (weights * b)
    return average.T


def _improve(states: Tensor, truth: _Distribution, admissible: Admissible) -> tuple[Tensor, Tensor]:
    """Flip the best label of each set (N, L) until none helps; return sets and averages (N,)."""
    states = states.long()
    theirs = truth.states.double()

    def average(rows: Tensor, both: Tensor, sizes: Tensor) -> Tensor:
        """Return averages of sets that share `both` (D, n, K) labels and have `sizes` (n, K)."""
        either = sizes + truth.sizes[:, rows, None] - both
        shared = (truth.weights[:, rows, None] * both / either).sum(0)
        return shared + truth.empty[rows, None] * (sizes == 0)

    rows = torch.arange(len(states), device=states.device)
    both = (theirs * states).sum(-1, keepdim=True)
    value = average(rows, both, states.sum(-1, keepdim=True)).squeeze(-1)
    while len(rows):
        own, samples = states[rows], theirs[:, rows]
        both = (samples * own).sum(-1, keepdim=True)
        sign = 1 - 2 * own
        turned = average(rows, both + sign * samples, own.sum(-1, keepdim=True) + sign)
        may = admissible.rows(rows).may_turn(own)
        top, label = turned.masked_fill(~may, -torch.inf).max(-1)
        helps = top > value[rows] + 1e-12
        rows, top, label = rows[helps], top[helps], label[helps]
        states[rows, label] = 1 - states[rows, label]
        value[rows] = top
    return states, value
