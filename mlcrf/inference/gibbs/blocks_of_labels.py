"""Gibbs sweeps that keep to limits: labels that hard rules link are redrawn together.

A block is some labels with states that may be theirs, redrawn given all other labels:

    P(state) ~ exp(sum_i field_i state_i + couplings inside - what limits cost)

Labels that hard rules link are a block with every state that the rules allow, up to 2^10, so that
one draw goes from any of them to any other. In a larger group each label is a block, and each pair
of neighbours in a limit, whose draw can exchange the two; both leave the distribution as it is, but
may not reach every label set where limits contradict each other much.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.rules import Limit
from mlcrf.rules.states import list_states, log_weights, within

_MOST = 2**10  # states of a block
_MOST_SWEEPS = 50  # of the search for the best states


class _Limited(NamedTuple):
    """A limit on labels of a block and on others."""

    limit: Limit
    others: Tensor  # its labels outside of the block
    present: Tensor  # how many of its labels each state has (S,)


@dataclass(frozen=True)
class Block:
    """Labels that are redrawn together.

    Attributes:
        labels: int64 (l,); states: float (S, l).
        limits: those that name labels of the block and others, and soft ones inside.
        below, above: labels (of the block, outside) of implications: those of the block imply
            others, and are implied by others, int64 (R, 2).
    """

    labels: Tensor
    states: Tensor
    limits: tuple[_Limited, ...]
    below: Tensor
    above: Tensor


class Blocks:
    """The blocks of a batch of CRFs.

    Args:
        known: 1, 0 and -1, closed under the rules (N, L).

    Attributes:
        blocks: each unknown label is in one of the first `num_disjoint`.
    """

    def __init__(self, potentials: Potentials, known: Tensor) -> None:
        self._matrix = potentials.pairwise_matrix()
        self._unary, self._rules, self.known = potentials.unary, potentials.rules, known
        large: list[list[int]] = []
        self.blocks: list[Block] = []
        for labels in self._rules.linked(potentials.num_labels):
            states = list_states(labels, self._rules, most=2 * _MOST)
            if states is not None and len(states) <= _MOST:
                self.blocks.append(self._block(labels, torch.from_numpy(states)))
            else:
                large.append(labels)
                self.blocks += [self._few([label]) for label in labels]
        self.num_disjoint = len(self.blocks)
        self._large = sorted(label for labels in large for label in labels)
        for limit in self._rules.hard_limits:
            if not set(limit.labels).isdisjoint(self._large):
                around = pairwise((*limit.labels, limit.labels[0]))
                self.blocks += [self._few(list(pair)) for pair in around]

    def start(self, states: Tensor) -> Tensor:
        """Return states (S, N, L) with known labels, from which every draw is possible."""
        y = torch.where(
            self.known == UNKNOWN, states.to(self._unary.dtype), self.known.clamp(min=0)
        )
        if not self._large:
            return y
        every = torch.stack([self._completion(row) for row in self.known])
        y[..., self._large] = every.to(y)[:, self._large]
        return y

    def sweep(self, y: Tensor, uniforms: Tensor) -> Tensor:
        """Redraw every block once, in order, in place.

        Args:
            y: states of the potentials' type (S, N, L).
            uniforms: draws from (0, 1], one for each block (S, N, B).

        Returns:
            The probability of each label when it was drawn last (S, N, L).
        """
        probabilities = torch.empty_like(y)
        for at, block in enumerate(self.blocks):
            p = self._log_weights(block, y).softmax(-1)
            reached = p.cumsum(-1)
            below = reached < uniforms[..., at, None] * reached[..., -1:]
            drawn = below.sum(-1).clamp(max=len(block.states) - 1)
            y[..., block.labels] = block.states[drawn]
            probabilities[..., block.labels] = p @ block.states
        return probabilities

    def log_steps(self, samples: Tensor, end: Tensor) -> Tensor:
        """Return the log-probability of a sweep of disjoint blocks from samples to one end.

        Args:
            samples: (S, N, L); end: (N, L).

        Returns:
            (S, N).
        """
        y = samples.to(self._unary.dtype).clone()
        total = torch.zeros_like(y[..., 0])
        for block in self.blocks[: self.num_disjoint]:
            log_p = self._log_weights(block, y).log_softmax(-1)
            wanted = end[:, block.labels].to(y)
            at = (block.states == wanted[:, None]).all(-1).int().argmax(-1)
            total += log_p.gather(-1, at.expand(len(y), -1)[..., None]).squeeze(-1)
            y[..., block.labels] = wanted
        return total

    def improve(self, states: Tensor) -> Tensor:
        """Give each block of label sets (N, L) its likeliest state, until none changes; int64."""
        y = states.to(self._unary.dtype)[None].clone()
        for _ in range(_MOST_SWEEPS):
            before = y.clone()
            for block in self.blocks:
                y[..., block.labels] = block.states[self._log_weights(block, y).argmax(-1)]
            if torch.equal(before, y):
                break
        return y[0].long()

    def _log_weights(self, block: Block, y: Tensor) -> Tensor:
        """Return the log-weights of a block's states given the others (S, N, K)."""
        others = y.index_fill(-1, block.labels, 0)
        matrix = self._matrix[..., block.labels]  # (L, l) or (N, L, l)
        if matrix.ndim == 2:
            fields = self._unary[:, block.labels] + others @ matrix
            inside = self._matrix[block.labels][:, block.labels].triu(1)
        else:
            fields = self._unary[:, block.labels] + torch.einsum("snj,nji->sni", others, matrix)
            inside = self._matrix[:, block.labels[:, None], block.labels].triu(1)
        weights = fields @ block.states.T + ((block.states @ inside) * block.states).sum(-1)
        for limit, labels, present in block.limits:
            count = others[..., labels].sum(-1, keepdim=True) + present
            weights = weights + log_weights((limit,), [count]).to(weights)
        for own, other in block.below.tolist():
            wrong = (block.states[:, own] == 1) & (others[..., other, None] == 0)
            weights = weights.masked_fill(wrong, -torch.inf)
        for own, other in block.above.tolist():
            wrong = (block.states[:, own] == 0) & (others[..., other, None] == 1)
            weights = weights.masked_fill(wrong, -torch.inf)
        told = self.known[:, None, block.labels]
        return weights.masked_fill(((told != UNKNOWN) & (told != block.states)).any(-1), -torch.inf)

    def _few(self, labels: list[int]) -> Block:
        states = list_states(labels, self._rules)
        assert states is not None
        return self._block(labels, torch.from_numpy(states))

    def _block(self, labels: list[int], states: Tensor) -> Block:
        place = {label: at for at, label in enumerate(labels)}
        device = self._unary.device
        limits = []
        for limit in self._rules.limits:
            inner = [place[one] for one in limit.labels if one in place]
            if inner and not (limit.is_hard and within(limit, labels)):
                outer = torch.tensor([one for one in limit.labels if one not in place]).long()
                present = states[:, inner].sum(1).to(device)
                limits.append(_Limited(limit, outer.to(device), present))
        pairs = self._rules.pairs
        return Block(
            torch.tensor(labels, device=device),
            states.to(self._unary),
            tuple(limits),
            _rows([(place[c], p) for c, p in pairs if c in place and p not in place]),
            _rows([(place[p], c) for c, p in pairs if p in place and c not in place]),
        )

    def _completion(self, known: Tensor) -> Tensor:
        found = self._rules.completion(known.cpu().numpy())
        assert found is not None  # `check_known` has refused what nothing completes
        return torch.from_numpy(found)


def _rows(pairs: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
