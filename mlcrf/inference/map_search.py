"""The most probable label vectors where there are too many to enumerate."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.inference.annealed_importance import GroupedCouplings, certain_bias, draw, sweep
from mlcrf.inference.messages.dual_bound import DualBound
from mlcrf.inference.posterior import climb

_CHUNK_ENTRIES = 2**20  # labels and couplings, times starts, times images handled at once
_MEAN_FIELD_SWEEPS = 10


@dataclass(frozen=True)
class MapResult:
    """The best label vectors found, and how far from the best of all they can be.

    Scores are float64 whatever the potentials are, so that no gap is one of rounding.

    Attributes:
        states: label vectors that no single change betters, int64 (N, L).
        score: their log-score (N,).
        upper_bound: no label vector that agrees with what is known scores more (N,).
        certain: whether the gap is within the tolerance (N,).
    """

    states: Tensor
    score: Tensor
    upper_bound: Tensor
    certain: Tensor

    @property
    def gap(self) -> Tensor:
        """By how much at most the best of all scores more, never below 0 (N,)."""
        return self.upper_bound - self.score


@dataclass(frozen=True)
class MapSearch:
    """Find the most probable label vectors, and bound what was missed.

    Starts are the mode of the unaries, that of a few sweeps of mean field, and random states.
    From each goes a chain of Gibbs sweeps at a falling temperature T,

        P(y_i = 1 | the others) = sigmoid((unary_i + sum_j pairwise_ij y_j) / T)

    Starts and ends are climbed, and the best is kept. An upper bound then says how far from the
    best of all it can be. Where that is above the tolerance, both values of the label that the
    bound leaves most open are tried, and so on, `branch` labels deep. A trial whose bound is not
    above the best score is over (branch and bound); each is rounded and climbed as well.

    The state is most often the best even where that is not certain. With `branch=16` it mostly is
    certain at 24 labels (0.05 s an image) and at 38 (0.3 s), with couplings as large as the
    unaries. With more than `bound.max_semidefinite_labels` labels the bound is the roof dual:
    certain on trees and where couplings attract, else seldom.

    Attributes:
        starts: starts, and chains, an image.
        sweeps: sweeps of a chain, each at a lower temperature.
        seed: of the draws; the same seed gives the same bits.
        bound: settings of the upper bound.
        branch: labels deep that the trials go, so at most 2^branch an image at a time; 0 for the
            one bound of an image, 16 to be certain for about 40 labels.
        tolerance: a gap up to this is certain.

    Cost: O(starts sweeps N (L + E)), and one `DualBound` a trial. Memory: linear in edges, times
    starts or trials where couplings vary by image.

    Sources: Besag (1986) for climbing; Kirkpatrick, Gelatt and Vecchi (1983), and Geman and Geman
    (1984) for annealing; Rendl, Rinaldi and Wiegele (2010) for branch and bound with
    semidefinite bounds.
    """

    starts: int = 8
    sweeps: int = 100
    seed: int = 0
    bound: DualBound = field(default_factory=DualBound)
    branch: int = 0
    tolerance: float = 1e-4

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> MapResult:
        """Search and bound; implications count as `Potentials.as_couplings` has them."""
        clamped = check_known(potentials, known)
        states = self.map_states(potentials, known=known)
        precise = _precise(potentials)
        score = precise.log_score(states)
        upper_bound = torch.empty_like(score)
        for rows in _chunks(potentials, 2 ** min(self.branch, 6)):
            states[rows], score[rows], upper_bound[rows] = self._bounded(
                precise.rows(rows), clamped[rows], states[rows], score[rows]
            )
        return MapResult(states, score, upper_bound, upper_bound - score <= self.tolerance)

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """What is found without a bound, int64 (N, L)."""
        clamped = check_known(potentials, known)
        generator = torch.Generator(device=clamped.device).manual_seed(self.seed)
        states = torch.empty_like(clamped)
        for rows in _chunks(potentials, self.starts):
            states[rows] = self._found(potentials.rows(rows), clamped[rows], generator)
        return states

    def _found(self, potentials: Potentials, known: Tensor, generator: torch.Generator) -> Tensor:
        """The best of the starts and the chains' ends, all climbed."""
        precise = _precise(potentials)
        couplings, bias = GroupedCouplings(precise), certain_bias(precise.unary, known)
        shape = (potentials.num_labels, self.starts, len(known))
        uniforms = bias.new_empty(shape)
        y = (draw(uniforms, generator) < 0.5).to(bias.dtype)
        for start, mode in enumerate((bias, _mean_field(couplings, bias))[: self.starts]):
            y[:, start] = mode > 0
        modes = _climbed(couplings, bias, y.clone())
        hot, cold = _temperatures(potentials)
        for step in range(self.sweeps):
            cooled = step / max(1, self.sweeps - 1)
            temperature = hot ** (1 - cooled) * cold**cooled
            sweep(couplings, y, bias / temperature, 1 / temperature, draw(uniforms, generator))
        states = torch.cat([modes, _climbed(couplings, bias, y)], 1).permute(1, 2, 0).long()
        best = precise.log_score(states).argmax(0)
        found = states[best, torch.arange(len(known), device=known.device)]
        return climb(precise, found, known)

    def _bounded(
        self, precise: Potentials, known: Tensor, states: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States and scores, better ones if trials met any, and the upper bound."""
        image = torch.arange(len(known), device=known.device)
        trial, ceiling = known, torch.full_like(score, math.inf)
        upper_bound = score
        for depth in range(self.branch + 1):
            bound = self.bound(precise.rows(image), known=trial)
            ceiling = torch.minimum(ceiling, bound.value)
            states, score = _bettered(precise, known, states, score, image, bound.leaning > 0)
            still = ceiling > score[image] + self.tolerance
            if depth == self.branch:
                still = torch.zeros_like(still)
            over = ~still
            upper_bound = upper_bound.scatter_reduce(0, image[over], ceiling[over], "amax")
            if not bool(still.any()):
                break
            image, ceiling = image[still], ceiling[still].repeat(2)
            trial = _both_values(precise.rows(image), trial[still], bound.leaning[still])
            image = image.repeat(2)
        return states, score, torch.maximum(upper_bound, score)


def _chunks(potentials: Potentials, copies: int) -> list[slice]:
    """The images in groups of which so many copies fit in memory."""
    entries = potentials.num_labels + len(potentials.edges)
    size = max(1, _CHUNK_ENTRIES // (copies * entries))
    return [slice(start, start + size) for start in range(0, potentials.num_images, size)]


def _precise(potentials: Potentials) -> Potentials:
    """The same in float64, implications among the couplings."""
    coupled = potentials.as_couplings()
    return Potentials(coupled.unary.double(), coupled.edges, coupled.pairwise.double())


def _temperatures(potentials: Potentials) -> tuple[Tensor, Tensor]:
    """The first, at which every coupling gives way, and the last, float64 (N,) each."""

    def strengths(potentials: Potentials) -> Tensor:
        squares = potentials.pairwise.double().square().expand(potentials.num_images, -1)
        both = potentials.unary.new_zeros(potentials.unary.shape, dtype=torch.float64)
        for end in potentials.edges.T:
            both.index_add_(1, end, squares)
        return both.sqrt()

    # the cost of a broken implication is not what the last temperature must tell apart
    hot, cold = strengths(potentials.as_couplings()).amax(1), strengths(potentials).mean(1)
    return 0.5 * hot + 1e-6, 0.05 * cold + 1e-6


def _mean_field(couplings: GroupedCouplings, bias: Tensor) -> Tensor:
    """Log-odds of the labels after some sweeps of mean field, (L, N)."""
    logits = bias.clone()[:, None]
    q = logits.sigmoid()
    for _ in range(_MEAN_FIELD_SWEEPS):
        for number, group in enumerate(couplings.groups):
            logits[group] = couplings.of(number, q) + bias[group][:, None]
            q[group] = logits[group].sigmoid()
    return logits[:, 0]


def _climbed(couplings: GroupedCouplings, bias: Tensor, y: Tensor) -> Tensor:
    """States (L, S, N), changed in place until each label has its likelier value."""
    even = torch.full_like(y, 0.5)
    for _ in range(100):
        before = y.clone()
        sweep(couplings, y, bias, 1.0, even)
        if torch.equal(y, before):
            break
    return y


def _bettered(
    precise: Potentials,
    known: Tensor,
    states: Tensor,
    score: Tensor,
    image: Tensor,
    rounded: Tensor,
) -> tuple[Tensor, Tensor]:
    """States and scores, replaced where some image's climbed `rounded` (R, L) has a better one."""
    rows = precise.rows(image)
    bias, y = certain_bias(rows.unary, known[image]), rounded.T[:, None].to(rows.unary.dtype)
    climbed = _climbed(GroupedCouplings(rows), bias, y)[:, 0].T.long()
    reached = rows.log_score(climbed)
    best = score.scatter_reduce(0, image, reached, "amax")
    winning = (reached == best[image]) & (reached > score[image])
    states = states.clone()
    states[image[winning]] = climbed[winning]
    return states, best


def _both_values(precise: Potentials, trial: Tensor, leaning: Tensor) -> Tensor:
    """Trials (R, L) with an open label set to 0, then as many with it set to 1."""
    free = trial == UNKNOWN
    first, second = precise.edges.T
    between = precise.pairwise.abs() * (free[:, first] & free[:, second])
    reach = torch.zeros_like(leaning).index_add(1, first, between).index_add(1, second, between)
    label = ((1 - leaning.abs()) * reach).masked_fill(~free, -1).argmax(1, keepdim=True)
    return torch.cat([trial.scatter(1, label, value) for value in (0, 1)])
