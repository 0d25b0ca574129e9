"""Sums over label sets of CRFs with terms beyond pairs, exactly, by two halves of the labels.

    log_score(y) = unary y + sum_ij pairwise_ij y_i y_j + count_|y| + sum_t triple_t y_i y_j y_k

What both halves have part in is a kernel (S_A, S_B) that all photos share, whatever its order: so
counts and triples cost what couplings cost.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from mlcrf.crf import full_edges

_AT_ONCE = 1000  # photos
_CANDIDATES = 64  # half-states of each half among which the most probable set is looked for


class HigherOrderCrf(nn.Module):
    """A CRF whose unaries are a linear function of log-odds, as above dropout heads of mlcrf.

        unary = odds + weight z + bias,      z the whitened log-odds

    All parameters start at 0.

    Args:
        odds: log-odds of photos, which give mean and spread (N, L).
        terms: triples, int64 (T, 3).
    """

    weight: Tensor
    bias: Tensor
    pairwise: Tensor
    counts: Tensor
    triples: Tensor

    def __init__(self, odds: Tensor, terms: Tensor | None = None) -> None:
        super().__init__()
        num_labels = odds.shape[1]
        self.edges = full_edges(num_labels)
        self.terms = torch.empty((0, 3), dtype=torch.int64) if terms is None else terms
        self.centre = odds.mean(0)
        self.axes = torch.linalg.cholesky(torch.linalg.inv(odds.T.cov()))
        shapes = {
            "weight": (num_labels, num_labels),
            "bias": (num_labels,),
            "pairwise": (len(self.edges),),
            "counts": (num_labels + 1,),
            "triples": (len(self.terms),),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(odds.new_zeros(shape)))

    def with_terms(self, terms: Tensor) -> "HigherOrderCrf":
        """Return the same CRF with these triples, whose weights are 0."""
        result = copy.deepcopy(self)
        result.terms = terms
        result.triples = nn.Parameter(self.bias.new_zeros(len(terms)))
        return result

    def unary(self, odds: Tensor) -> Tensor:
        """Return the unaries (N, L)."""
        return odds + (odds - self.centre) @ self.axes @ self.weight.T + self.bias

    def statistics(self, targets: Tensor) -> dict[str, Tensor]:
        """Return what each parameter but `weight` is multiplied by, of label sets (N, L)."""
        y = targets.double()
        first, second, third = (y[:, one] for one in self.terms.T)
        return {
            "bias": y,
            "pairwise": y[:, self.edges[:, 0]] * y[:, self.edges[:, 1]],
            "counts": nn.functional.one_hot(targets.long().sum(1), y.shape[1] + 1).double(),
            "triples": first * second * third,
        }

    def matrix(self) -> Tensor:
        """Return the couplings, symmetric with zero diagonal (L, L)."""
        upper = self.pairwise.new_zeros(len(self.centre), len(self.centre))
        upper = upper.index_put(tuple(self.edges.T), self.pairwise)
        return upper + upper.T

    def inside(self, states: Tensor) -> Tensor:
        """Return the log-scores of states (S, L) from couplings and triples: (S,)."""
        pairs = ((states @ self.matrix().triu(1)) * states).sum(-1)
        if not len(self.terms):
            return pairs
        first, second, third = (states[:, one] for one in self.terms.T)
        return pairs + (first * second * third) @ self.triples

    def log_score(self, odds: Tensor, targets: Tensor) -> Tensor:
        """Return the log-scores of label sets (N, L): (N,)."""
        y = targets.double()
        scores = (self.unary(odds) * y).sum(-1) + self.inside(y)
        return scores + self.counts[targets.sum(-1)]


@dataclass(frozen=True)
class HalfStates:
    """States of two halves of the labels, each (S, L) with zeros at labels of the other half.

    Attributes:
        precision: of the sums.
    """

    first: Tensor
    second: Tensor
    precision: torch.dtype = torch.float64

    @classmethod
    def every(cls, parts: tuple[list[int], list[int]]) -> "HalfStates":
        """States of two parts of the labels, all of them."""
        num_labels, halves = len(parts[0]) + len(parts[1]), []
        for labels in parts:
            numbers = torch.arange(2 ** len(labels))
            states = torch.zeros(len(numbers), num_labels, dtype=torch.float64)
            for at, label in enumerate(labels):
                states[:, label] = (numbers >> at) & 1
            halves.append(states)
        return cls(*halves)

    def likely(self, sums: "Sums", odds: Tensor, leave_out: float) -> "HalfStates":
        """Return the half-states that carry all but a share of the mass of some photos together."""
        found = [[one.sum(0) for one in part.masses()] for part in sums.batches(odds)]
        mean = [torch.stack(one).sum(0) / len(odds) for one in zip(*found, strict=True)]
        kept = []
        for states, mass in zip((self.first, self.second), mean, strict=True):
            falling = mass.sort(descending=True)
            rest = falling.values.flip(0).cumsum(0).flip(0)
            kept.append(states[falling.indices[rest > leave_out].sort().values])
        return HalfStates(kept[0], kept[1], self.precision)


class Sums:
    """The kernel of a CRF over some half-states, and sums with it; differentiable in the CRF."""

    def __init__(self, crf: HigherOrderCrf, states: HalfStates) -> None:
        self.crf, self.states = crf, states
        a, b = states.first, states.second
        kernel = a @ crf.matrix() @ b.T
        hot_a, hot_b = (_one_hot_counts(one) for one in (a, b))
        both = torch.arange(hot_a.shape[1])[:, None] + torch.arange(hot_b.shape[1])
        kernel = kernel + hot_a @ crf.counts[both] @ hot_b.T
        if len(crf.terms):
            kernel = kernel + _across(crf, a, b) + _across(crf, b, a).T
        row = kernel.mean(1)
        column = kernel.mean(0) - kernel.mean()
        self.inside = crf.inside(a) + row, crf.inside(b) + column
        self.kernel = (kernel - row[:, None] - column).exp().to(states.precision)
        self.by_count = hot_a, hot_b

    def weigh(self, odds: Tensor) -> "Weights":
        """Return the weights of half-states of some photos."""
        unary = self.crf.unary(odds)
        logs = [
            unary @ states.T + inside
            for states, inside in zip(
                (self.states.first, self.states.second), self.inside, strict=True
            )
        ]
        tops = [one.detach().amax(1, keepdim=True) for one in logs]
        alpha, beta = (
            (one - top).exp().to(self.states.precision) for one, top in zip(logs, tops, strict=True)
        )
        return Weights(self, alpha, beta, (tops[0] + tops[1]).squeeze(1))

    def batches(self, odds: Tensor) -> Iterator["Weights"]:
        """Yield the weights of photos, some at a time."""
        for part in odds.split(_AT_ONCE):
            yield self.weigh(part)


@dataclass
class Weights:
    """Weights of the half-states of some photos, alpha (n, S_A) and beta (n, S_B)."""

    sums: Sums
    alpha: Tensor
    beta: Tensor
    top: Tensor

    def log_partition(self) -> Tensor:
        """Return log Z (n,)."""
        on_b = self.alpha @ self.sums.kernel
        return (on_b * self.beta).sum(1).double().log() + self.top

    def masses(self) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the half-states, (n, S_A) and (n, S_B)."""
        of_a = self.alpha * (self.beta @ self.sums.kernel.T)
        of_b = self.beta * (self.alpha @ self.sums.kernel)
        total = of_b.sum(1, keepdim=True)
        return (of_a / total).double(), (of_b / total).double()

    def marginals(self) -> Tensor:
        """Return P(y_i = 1) (n, L)."""
        of_a, of_b = self.masses()
        return of_a @ self.sums.states.first + of_b @ self.sums.states.second

    def expected_f1(self, targets: Tensor) -> Tensor:
        """Return the mean F1 of a set drawn from the CRF with the right set (n,)."""
        y, size = targets.double(), targets.sum(1)
        a, b, (hot_a, hot_b) = self.sums.states.first, self.sums.states.second, self.sums.by_count
        on_a, on_b = ((y @ one.T).to(self.alpha) for one in (a, b))
        sizes = hot_b @ torch.arange(hot_b.shape[1], dtype=torch.float64)
        value, total = y.new_zeros(len(y)), y.new_zeros(len(y))
        for count in range(hot_a.shape[1]):
            rows = hot_a[:, count].nonzero().squeeze(1)
            if not len(rows):
                continue
            alpha, kernel = self.alpha[:, rows], self.sums.kernel[rows]
            mass = (alpha @ kernel) * self.beta
            shared = ((alpha * on_a[:, rows]) @ kernel) * self.beta + mass * on_b
            both = count + sizes + size[:, None]
            value = value + (2 * shared / both.clamp(min=1)).sum(1)
            value = value + (mass * (both == 0)).sum(1)
            total = total + mass.sum(1)
        return value / total

    def count_marginals(self) -> Tensor:
        """Return P(y_i = 1, |y| = s) (n, L, L + 1)."""
        a, b, (hot_a, hot_b) = self.sums.states.first, self.sums.states.second, self.sums.by_count
        num_labels = a.shape[1]
        result = self.top.new_zeros(len(self.alpha), num_labels, num_labels + 1)
        kernel = self.sums.kernel
        for ours, theirs, hot, hot_other, states, matrix in (
            (self.alpha, self.beta, hot_a, hot_b, b, kernel),
            (self.beta, self.alpha, hot_b, hot_a, a, kernel.T),
        ):
            labels = states.any(0).nonzero().squeeze(1)
            each = torch.einsum("sl,sc->slc", states[:, labels], hot_other)
            for count in range(hot.shape[1]):
                rows = hot[:, count].nonzero().squeeze(1)
                mass = ((ours[:, rows] @ matrix[rows]) * theirs).double()
                found = (mass @ each.flatten(1)).view(len(mass), len(labels), -1)
                result[:, labels, count : count + found.shape[2]] += found
        total = (self.log_partition() - self.top).exp()
        return result / total[:, None, None]

    def best(self) -> Tensor:
        """Return the most probable label sets, int64 (n, L).

        Its half-states are at least as probable as the set, so once the set is more probable than
        all half-states that were not tried, none is better.
        """
        kernel, a, b = self.sums.kernel, self.sums.states.first, self.sums.states.second
        masses = self.masses()
        total = (self.log_partition() - self.top).exp()
        tried = [one.topk(min(_CANDIDATES, one.shape[1]), 1) for one in masses]
        first, second = (one.indices for one in tried)
        joint = self.alpha.gather(1, first)[:, :, None] * self.beta.gather(1, second)[:, None]
        joint = joint * kernel[first[:, :, None], second[:, None]]
        value, at = joint.flatten(1).max(1)
        row, column = at // second.shape[1], at % second.shape[1]
        found = a[first.gather(1, row[:, None])[:, 0]] + b[second.gather(1, column[:, None])[:, 0]]
        certain = torch.ones(len(found), dtype=torch.bool)
        for one, mass in zip(tried, masses, strict=True):
            if one.indices.shape[1] < mass.shape[1]:
                certain &= value / total >= one.values[:, -1]
        for image in (~certain).nonzero().squeeze(1).tolist():
            whole = self.alpha[image, :, None] * kernel * self.beta[image]
            where = int(whole.argmax())
            found[image] = a[where // whole.shape[1]] + b[where % whole.shape[1]]
        return found.long()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return label sets drawn from the CRF, int8 (count, n, L)."""
        kernel, a, b = self.sums.kernel, self.sums.states.first, self.sums.states.second
        rows = (
            self.masses()[0].clamp(min=0).multinomial(count, replacement=True, generator=generator)
        )
        drawn = []
        for row in rows.T:
            within = (kernel[row] * self.beta).double().cumsum(1)
            level = torch.rand(len(row), 1, generator=generator, dtype=torch.float64)
            column = torch.searchsorted(within, level * within[:, -1:]).squeeze(1)
            drawn.append((a[row] + b[column.clamp(max=len(b) - 1)]).to(torch.int8))
        return torch.stack(drawn)


def all_triples(num_labels: int) -> Tensor:
    """Return all i < j < k, int64 (T, 3)."""
    return torch.tensor(list(combinations(range(num_labels), 3)), dtype=torch.int64)


def _one_hot_counts(states: Tensor) -> Tensor:
    """Return indicators of the number of labels (S, C)."""
    return nn.functional.one_hot(states.sum(1).long()).double()


def _across(crf: HigherOrderCrf, ours: Tensor, others: Tensor) -> Tensor:
    """Return the scores of triples with two labels in `ours` and one in `others` (S, S')."""
    inside = ours.any(0)[crf.terms]
    chosen = (inside.sum(1) == 2).nonzero().squeeze(1)
    pairs = (inside[chosen].long() * torch.tensor([4, 2, 1])).sum(1)
    two = torch.ones(len(ours), len(chosen), dtype=torch.float64)
    for place, bit in enumerate((4, 2, 1)):
        column = ours[:, crf.terms[chosen, place]]
        two = torch.where((pairs & bit) > 0, two * column, two)
    alone = crf.terms[chosen][~inside[chosen]]
    return (two * crf.triples[chosen]) @ others[:, alone].T
