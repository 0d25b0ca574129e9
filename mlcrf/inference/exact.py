"""Exact inference for fully connected CRFs of up to about 28 labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference.posterior import LogPartitionKind, Posterior
from mlcrf.inference.split import Scores, Split, Sums

_CHUNK_ENTRIES = 2**23  # half-states times images that are handled at once


@dataclass(frozen=True)
class Exact:
    """Sum over all 2^L label vectors by split enumeration; see `mlcrf.inference.split`.

        Z = sum_{a, b} alpha_a K_ab beta_b,      d log Z / d unary_i    = P(y_i = 1)
                                                 d log Z / d pairwise_ij = P(y_i = 1, y_j = 1)

    `log_partition` is differentiable once in both potentials by these identities; the marginals
    themselves carry no gradient. Any edge set will do, what is not an edge has coupling 0.

    Attributes:
        max_labels: more labels are refused.
        pairwise_marginals: whether to return them too, which costs far more than the rest.

    Cost: 4 N 2^L operations for log Z and marginals, half as much again for the gradient; N times
    a kernel of 2^L entries more where couplings vary by image. Memory: 4 bytes x 2^L up to 26
    labels, less by tiles beyond. Deterministic.
    """

    max_labels: int = 28
    pairwise_marginals: bool = False

    @property
    def name(self) -> str:
        """`exact`."""
        return "exact"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Exact marginals and log Z.

        Raises:
            TooManyLabelsError: more than `max_labels` labels.
        """
        clamped = self._check(potentials, known)
        log_partition, marginals = _LogPartition.apply(
            potentials.unary, potentials.pairwise, potentials.edges, clamped
        )
        pairs = _pairs(potentials, clamped) if self.pairwise_marginals else None
        return Posterior(
            marginals=marginals,
            log_partition=log_partition,
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            pairwise_marginals=pairs,
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """The most probable label vectors, exact but for ties within rounding, int64 (N, L).

        The probability of a half-state bounds that of every state it is part of, so half-states
        are completed in falling order of probability until none left can hold the best.

        Cost: that of the marginals where one state stands out, up to N 2^L where none does.
        """
        clamped = self._check(potentials, known)
        parts = [
            _best_states(split, scores, split.sums(scores))
            for split, scores, _ in _chunks(potentials, clamped)
        ]
        return torch.cat([clamped[:0], *parts])

    @torch.no_grad()
    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Independent exact samples, uint8 (num_samples, N, L).

        Draws the half-state of A by its probability, then that of B given it.
        """
        clamped = self._check(potentials, known)
        drawn = torch.empty(
            (num_samples, *potentials.unary.shape), dtype=torch.uint8, device=clamped.device
        )
        for split, scores, rows in _chunks(potentials, clamped):
            mass_a = split.sums(scores).mass_a
            for sample in range(num_samples):
                a = torch.multinomial(mass_a, 1, generator=generator).squeeze(1)
                log_b = split.exponents(split.states_a[a]) + scores.log_beta
                b = torch.multinomial(log_b.softmax(-1), 1, generator=generator).squeeze(1)
                drawn[sample, rows] = torch.cat([split.states_a[a], split.states_b[b]], 1).byte()
        return drawn

    def _check(self, potentials: Potentials, known: Tensor | None) -> Tensor:
        if potentials.num_labels > self.max_labels:
            raise TooManyLabelsError(
                f"exact inference over {potentials.num_labels} labels would enumerate "
                f"2**{potentials.num_labels} states; the limit is 2**{self.max_labels}. "
                "Use --inference gibbs or mean-field, or raise --max-exact-labels."
            )
        return check_known(potentials, known)


class _LogPartition(torch.autograd.Function):
    """Log Z and marginals; the gradient of log Z is the marginals of labels and pairs."""

    @staticmethod
    def forward(
        ctx: Any, unary: Tensor, pairwise: Tensor, edges: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        potentials = Potentials(unary.detach(), edges, pairwise.detach())
        log_partition = torch.empty_like(potentials.unary[:, 0], dtype=torch.float64)
        marginals = torch.empty_like(potentials.unary)
        kept = []
        for split, scores, rows in _chunks(potentials, known):
            sums = split.sums(scores)
            log_partition[rows] = sums.log_partition
            marginals[rows] = _marginals(split, sums).to(unary.dtype)
            kept.append((split, scores, sums, rows))
        ctx.kept = kept if ctx.needs_input_grad[1] else []
        ctx.edges, ctx.pairwise = edges, potentials.pairwise
        ctx.save_for_backward(marginals)
        ctx.mark_non_differentiable(marginals)
        return log_partition.to(unary.dtype), marginals

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (marginals,) = ctx.saved_tensors
        pairwise_grad = torch.zeros_like(ctx.pairwise)
        for split, scores, sums, rows in ctx.kept:
            pairs = split.pair_sums(scores, sums, grad[rows].double())
            of_edges = pairs[ctx.edges[:, 0], ctx.edges[:, 1]].to(pairwise_grad.dtype)
            if pairwise_grad.ndim == 2:
                pairwise_grad[rows] = of_edges
            else:
                pairwise_grad += of_edges
        return grad[:, None] * marginals, pairwise_grad, None, None


def _chunks(potentials: Potentials, known: Tensor) -> Iterator[tuple[Split, Scores, slice]]:
    """The images in groups that share a kernel and fit in memory; one by one if couplings vary."""
    first_level = int(potentials.unary.dtype == torch.float64)
    half_states = 2 ** math.ceil(potentials.num_labels / 2)
    size = 1 if potentials.varies_by_image else max(1, min(1024, _CHUNK_ENTRIES // half_states))
    matrix = potentials.pairwise_matrix()
    shared = None if potentials.varies_by_image else Split(matrix, first_level=first_level)
    for start in range(0, potentials.num_images, size):
        rows = slice(start, start + size)
        split = shared or Split(matrix[start], first_level=first_level)
        yield split, split.scores(potentials.unary[rows], known[rows]), rows


def _marginals(split: Split, sums: Sums) -> Tensor:
    both = torch.cat([sums.mass_a @ split.states_a, sums.mass_b @ split.states_b], 1)
    return both.clamp_(0, 1)


def _pairs(potentials: Potentials, known: Tensor) -> Tensor:
    result = torch.empty(potentials.num_images, len(potentials.edges), dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64, device=known.device)
    for split, scores, rows in _chunks(potentials, known):
        sums = split.sums(scores)
        for offset in range(len(scores)):
            image = torch.tensor([offset], device=known.device)
            pairs = split.pair_sums(scores.rows(image), sums.rows(image), one)
            result[rows.start + offset] = pairs[potentials.edges[:, 0], potentials.edges[:, 1]]
    return result.to(potentials.unary)


def _best_states(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """Complete half-states of A in falling order of probability until the best is certain."""
    order = sums.mass_a.argsort(descending=True, dim=1)
    # what underflow and rounding may have hidden of a half-state's probability
    log_bound = (sums.mass_a.gather(1, order) * (1 + 1e-5) + 1e-6).log()
    best_log_prob = torch.full_like(sums.log_partition, -math.inf)
    best_a = torch.zeros_like(order[:, 0])
    best_b = torch.zeros_like(best_a)
    done, step = 0, 4
    active = torch.arange(len(scores), device=order.device)
    while len(active) and done < order.shape[1]:
        for part in torch.split(active, max(1, 2**22 // (step * len(split.states_b)))):
            a = order[part, done : done + step]
            joint = split.exponents(split.states_a[a]) + scores.log_beta[part, None]
            value, b = joint.max(-1)
            value = value + scores.log_alpha[part].gather(1, a) - sums.log_partition[part, None]
            top, which = value.max(-1)
            better = top > best_log_prob[part]
            changed = part[better]
            best_log_prob[changed] = top[better]
            best_a[changed] = a.gather(1, which[:, None]).squeeze(1)[better]
            best_b[changed] = b.gather(1, which[:, None]).squeeze(1)[better]
        done, step = done + step, step * 4
        if done < order.shape[1]:
            active = active[log_bound[active, done] > best_log_prob[active]]
    return torch.cat([split.states_a[best_a], split.states_b[best_b]], 1).long()
