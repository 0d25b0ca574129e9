"""All 2^L states as the product of two halves: exact sums in a few matrix products.

Split the labels in A (the first L // 2) and B. With S_A, S_B the states of the halves and J_AB
the couplings between them,

    log_score(a, b) = log_alpha_a + log_beta_b + (S_A J_AB S_B^T)_ab

where log_alpha and log_beta hold the unaries and the couplings inside a half. Around a point m,

    S_A J m_B + m_A J S_B^T - m_A J m_B + (S_A - m_A) J (S_B - m_B)^T

so the kernel K = exp((S_A - m_A) J (S_B - m_B)^T) spans far less than exp(S_A J S_B^T) does, and
the rest goes into log_alpha and log_beta, image by image. We take m = 1/2, which bounds the
exponent of K by sum |J_AB| / 4.

Then Z = alpha^T K beta. Each image is first tried in float32; the sum of all that can have been
lost to underflow is bounded, and where that bound is not below `_SLACK` of Z, the image is done
again in float64, then in log space.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN

_SLACK = 1e-7  # the share of Z that underflow may cost
_BLOCK = 2**24  # entries of the kernel that are handled at once
_KEEP = 2**26  # a kernel up to this many entries is kept, a larger one made again when needed
_LOG_TINY = {torch.float32: -87.0, torch.float64: -708.0}  # logs of the smallest normal numbers
_LOG_SPACE = 2  # after the levels float32 (0) and float64 (1)
_LEVELS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Scores:
    """Log-scores of the half-states of N images and the constant that belongs to both.

    Attributes:
        log_alpha: float64 (N, 2^|A|), minus infinity where a known label is contradicted.
        log_beta: the same for B (N, 2^|B|).
    """

    log_alpha: Tensor
    log_beta: Tensor

    def rows(self, wanted: Tensor) -> "Scores":
        """Those of some of the images."""
        return Scores(self.log_alpha[wanted], self.log_beta[wanted])

    def __len__(self) -> int:
        return len(self.log_alpha)


@dataclass(frozen=True)
class Sums:
    """What follows from summing over all states.

    Attributes:
        log_partition: float64 (N,).
        mass_a: probability of each half-state of A, float64 (N, 2^|A|).
        mass_b: the same for B.
        level: 0 float32, 1 float64, 2 log space, by image (N,).
    """

    log_partition: Tensor
    mass_a: Tensor
    mass_b: Tensor
    level: Tensor

    def rows(self, wanted: Tensor) -> "Sums":
        """Those of some of the images."""
        return Sums(
            self.log_partition[wanted],
            self.mass_a[wanted],
            self.mass_b[wanted],
            self.level[wanted],
        )


class Split:
    """The two halves of one CRF with couplings shared by all images.

    Args:
        matrix: couplings, symmetric with zero diagonal (L, L).
        first_level: 0 to begin in float32, 1 in float64.
    """

    def __init__(self, matrix: Tensor, *, first_level: int = 0) -> None:
        matrix = matrix.detach().double()
        num_labels = len(matrix)
        self.half = num_labels // 2
        self.first_level = first_level
        self.states_a = all_states(self.half).to(matrix)
        self.states_b = all_states(num_labels - self.half).to(matrix)
        self._between = matrix[: self.half, self.half :]
        self._inside_a = _inside(self.states_a, matrix[: self.half, : self.half])
        self._inside_b = _inside(self.states_b, matrix[self.half :, self.half :])
        self._kernels: dict[torch.dtype, Tensor] = {}

    @cached_property
    def exponent_bound(self) -> float:
        """No exponent of the kernel is larger in size."""
        return float(self._between.abs().sum()) / 4

    def scores(self, unary: Tensor, known: Tensor) -> Scores:
        """Scores of the half-states: unary (N, L), known (N, L) of 1, 0, -1. Cost: O(2^(L/2) L)."""
        unary = unary.detach().double()
        shift_a, shift_b = self._between.sum(1) / 2, self._between.sum(0) / 2
        constant = float(self._between.sum()) / 4
        half = self.half
        log_alpha = (unary[:, :half] + shift_a) @ self.states_a.T + (self._inside_a - constant)
        log_beta = (unary[:, half:] + shift_b) @ self.states_b.T + self._inside_b
        if bool((known != UNKNOWN).any()):
            log_alpha[_contradicts(self.states_a, known[:, :half])] = -math.inf
            log_beta[_contradicts(self.states_b, known[:, half:])] = -math.inf
        return Scores(log_alpha, log_beta)

    def exponents(self, states_a: Tensor) -> Tensor:
        """Log-kernel of given half-states of A (..., |A|) against all of B: (..., 2^|B|)."""
        return (states_a - 0.5) @ self._between @ (self.states_b - 0.5).T

    def kernel_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the kernel in blocks that fit in memory, with the half-states they are for."""
        rows = max(1, _BLOCK // len(self.states_b))
        keep = len(self.states_a) * len(self.states_b) <= _KEEP
        made = dtype in self._kernels
        for start in range(0, len(self.states_a), rows):
            wanted = slice(start, start + rows)
            if made:
                yield wanted, self._kernels[dtype][wanted]
                continue
            block = self.exponents(self.states_a[wanted]).exp().to(dtype)
            if keep:
                whole = (len(self.states_a), len(self.states_b))
                self._kernels.setdefault(dtype, block.new_empty(whole))[wanted] = block
            yield wanted, block

    def sums(self, scores: Scores) -> Sums:
        """Log Z and the probability of every half-state.

        Cost: two products of 2^|A| x 2^|B| with N columns each, 4 N 2^L operations.
        """
        num_images = len(scores)
        out = Sums(
            scores.log_alpha.new_empty(num_images),
            torch.empty_like(scores.log_alpha),
            torch.empty_like(scores.log_beta),
            torch.full((num_images,), _LOG_SPACE, device=scores.log_alpha.device),
        )
        pending = torch.arange(num_images, device=scores.log_alpha.device)
        for level in range(self.first_level, _LOG_SPACE):
            if not len(pending) or self.exponent_bound > 0.8 * -_LOG_TINY[_LEVELS[level]]:
                continue
            pending = self._sums_linear(scores, pending, level, out)
        for image in pending.tolist():
            self._sums_log_space(scores, image, out)
        return out

    def _sums_linear(self, scores: Scores, wanted: Tensor, level: int, out: Sums) -> Tensor:
        """Fill in the images that are safe at this level; return the others."""
        dtype = _LEVELS[level]
        alpha, top_a = _scaled(scores.log_alpha[wanted], dtype)
        beta, top_b = _scaled(scores.log_beta[wanted], dtype)
        to_a, to_b = torch.empty_like(alpha), torch.zeros_like(beta)
        for rows, block in self.kernel_blocks(dtype):
            to_a[:, rows] = beta @ block.T
            to_b.addmm_(alpha[:, rows], block)
        weight_a, weight_b = alpha.double() * to_a, beta.double() * to_b
        total = weight_a.sum(-1)
        num_labels = self.states_a.shape[1] + self.states_b.shape[1]
        log_lost = _LOG_TINY[dtype] + self.exponent_bound + num_labels * math.log(2)
        safe = total.log() >= log_lost - math.log(_SLACK)
        done = wanted[safe]
        out.log_partition[done] = (total.log() + top_a + top_b)[safe]
        out.mass_a[done] = (weight_a / total[:, None])[safe]
        out.mass_b[done] = (weight_b / weight_b.sum(-1, keepdim=True))[safe]
        out.level[done] = level
        return wanted[~safe]

    def _sums_log_space(self, scores: Scores, image: int, out: Sums) -> None:
        log_alpha, log_beta = scores.log_alpha[image], scores.log_beta[image]
        log_a = torch.empty_like(log_alpha)
        log_b = torch.full_like(log_beta, -math.inf)
        for rows, joint in self._joint_blocks(log_alpha, log_beta):
            log_a[rows] = joint.logsumexp(1)
            log_b = torch.logaddexp(log_b, joint.logsumexp(0))
        log_z = log_a.logsumexp(0)
        out.log_partition[image] = log_z
        out.mass_a[image] = (log_a - log_z).exp()
        out.mass_b[image] = (log_b - log_z).exp()

    def _joint_blocks(self, log_alpha: Tensor, log_beta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        rows = max(1, _BLOCK // len(self.states_b))
        for start in range(0, len(self.states_a), rows):
            wanted = slice(start, start + rows)
            joint = self.exponents(self.states_a[wanted]) + log_alpha[wanted, None] + log_beta
            yield wanted, joint

    def pair_sums(self, scores: Scores, sums: Sums, weight: Tensor) -> Tensor:
        """sum_n weight_n P_n(y_i = 1, y_j = 1) for all pairs, the diagonal included: (L, L).

        Cost: one product of 2^|A| x N with N x 2^|B|, 2 N 2^L operations.
        """
        half_a = self.states_a.T @ ((weight @ sums.mass_a)[:, None] * self.states_a)
        half_b = self.states_b.T @ ((weight @ sums.mass_b)[:, None] * self.states_b)
        between = torch.zeros_like(self._between)
        for level, dtype in enumerate(_LEVELS):
            wanted = torch.nonzero(sums.level == level).squeeze(1)
            if len(wanted):
                between += self._between_linear(
                    scores.rows(wanted), sums.log_partition[wanted], weight[wanted], dtype
                )
        for image in torch.nonzero(sums.level == _LOG_SPACE).squeeze(1).tolist():
            log_z = sums.log_partition[image]
            blocks = self._joint_blocks(scores.log_alpha[image], scores.log_beta[image])
            for rows, joint in blocks:
                mass = (joint - log_z).exp() @ self.states_b
                between += weight[image] * (self.states_a[rows].T @ mass)
        top = torch.cat([half_a, between], 1)
        return torch.cat([top, torch.cat([between.T, half_b], 1)])

    def _between_linear(
        self, scores: Scores, log_z: Tensor, weight: Tensor, dtype: torch.dtype
    ) -> Tensor:
        alpha, top_a = _scaled(scores.log_alpha, dtype)
        beta, top_b = _scaled(scores.log_beta, dtype)
        scale = weight * (top_a + top_b - log_z).exp()
        weighted = alpha * scale[:, None].to(dtype)
        total = torch.zeros_like(self._between)
        for rows, block in self.kernel_blocks(dtype):
            mass = (weighted[:, rows].T @ beta).mul_(block)
            total += self.states_a[rows].T @ (mass @ self.states_b.to(dtype)).double()
        return total


def all_states(num_labels: int) -> Tensor:
    """Every label vector, the first label the slowest to change: uint8 (2^L, L)."""
    index = torch.arange(2**num_labels)
    shifts = torch.arange(num_labels - 1, -1, -1)
    return ((index[:, None] >> shifts) & 1).to(torch.uint8)


def _inside(states: Tensor, matrix: Tensor) -> Tensor:
    return ((states @ matrix.triu(1)) * states).sum(-1)


def _contradicts(states: Tensor, known: Tensor) -> Tensor:
    wrong = (known == 0).double() @ states.T + (known == 1).double() @ (1 - states).T
    return wrong > 0


def _scaled(log_values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    top = log_values.amax(-1)
    return (log_values - top[:, None]).to(dtype).exp_(), top
