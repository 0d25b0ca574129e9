"""Marginal inference in plain tensor operations without data-dependent branches, for export.

Every module here takes unaries (N, L) and couplings as a symmetric matrix with zero diagonal,
(L, L), or (N, L, L) if they vary by image, and returns P(y_i = 1) as (N, L).
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from mlcrf.inference.exact.halves import Across, soft_costs
from mlcrf.inference.exact.partition import possible_states, split_labels
from mlcrf.rules import Rules

_SLACK = 1e-7  # largest share of Z that may be lost to underflow
_LOG_TINY = {torch.float32: -87.0, torch.float64: -708.0}  # logs of the smallest normal numbers
_FACTORS = 3  # number of successive factors, each of which may underflow


class Marginals(nn.Module):
    """Base class of the modules; used directly, it computes marginals of independent labels.

    Attributes:
        name: name of the inference method, as stored in the exported file.
        is_exact: whether no approximation is made.
    """

    name = "independent"
    is_exact = True

    def forward(self, unary: Tensor, matrix: Tensor) -> Tensor:
        """Return marginals (N, L); here of independent labels."""
        return unary.sigmoid()


class SplitMarginals(Marginals):
    """Exact marginals by split enumeration, see `mlcrf.inference.exact.split_enumeration`.

    With S_A, S_B the possible states of two halves of the labels, alpha and beta their weights,

        K = exp((S_A - 1/2) J_AB (S_B - 1/2)^T),      P(a) ~ alpha_a (K beta)_a,    P(b) likewise

    K is the same for all images, so that a runtime computes it once. alpha and beta are divided by
    their largest entry, so Z >= exp(-B) with B the largest size of K's exponents, for any unaries,
    and underflow loses at most 3 x 2^L x tiny x exp(B); so the couplings alone decide whether
    float32 or float64 is enough. If neither is enough, if couplings vary by image, or if limits
    name labels of both halves, all states are normalised in log space, image by image.

    Args:
        matrix: typical couplings (L, L), which choose the halves; in linear space, the couplings of
            `forward`.
        rules: states that break a hard one are left out.
        varies_by_image: whether couplings will be (N, L, L).

    Cost: 4 N 2^L operations and N 2^(L/2) numbers; in log space N 2^L numbers.
    """

    name = "exact"

    def __init__(self, matrix: Tensor, rules: Rules, *, varies_by_image: bool = False) -> None:
        super().__init__()
        exact = matrix.detach().double()
        parts = split_labels(exact.abs(), rules)
        first, second = (possible_states(part, rules).double() for part in parts)
        for key, part, states in (("a", parts[0], first), ("b", parts[1], second)):
            self.register_buffer(f"labels_{key}", torch.tensor(part, dtype=torch.int64))
            self.register_buffer(f"states_{key}", states.float())
            self.register_buffer(f"costs_{key}", soft_costs(part, rules, states).float())
        across = Across(rules, self.labels_a, self.labels_b)
        added = across.log_weights(first, second) if across.limits else torch.zeros(1, 1)
        self.register_buffer("added", added.float())
        self.register_buffer("place", torch.tensor(parts[0] + parts[1]).argsort())
        exponents = (first - 0.5) @ exact[parts[0]][:, parts[1]] @ (second - 0.5).T
        log_states = math.log(len(first)) + math.log(len(second))
        costs = float(self.costs_a.abs().max() + self.costs_b.abs().max())
        linear = not varies_by_image and not across.limits
        bound = exponents.abs().max() + costs
        self.dtype = _safe_type(bound, log_states) if linear else None
        self.log2_states = log_states / math.log(2)

    labels_a: Tensor
    labels_b: Tensor
    states_a: Tensor
    states_b: Tensor
    costs_a: Tensor
    costs_b: Tensor
    added: Tensor
    place: Tensor

    def forward(self, unary: Tensor, matrix: Tensor) -> Tensor:
        dtype = self.dtype or unary.dtype
        u, j = unary.to(dtype), matrix.to(dtype)
        s_a, s_b = self.states_a.to(dtype), self.states_b.to(dtype)
        between = j.index_select(-2, self.labels_a).index_select(-1, self.labels_b)
        log_a = _log_weights(u, j, self.labels_a, s_a, between.sum(-1) / 2)
        log_a = log_a + self.costs_a.to(dtype)
        log_b = _log_weights(u, j, self.labels_b, s_b, between.sum(-2) / 2)
        log_b = log_b + self.costs_b.to(dtype)
        exponents = (s_a - 0.5) @ between @ (s_b - 0.5).T
        if self.dtype is None:
            joint = log_a.unsqueeze(2) + log_b.unsqueeze(1) + exponents + self.added.to(dtype)
            p = joint.flatten(1).softmax(-1).view_as(joint)
            mass_a, mass_b = p.sum(2), p.sum(1)
        else:
            kernel = exponents.exp()
            alpha, beta = (each - each.amax(-1, keepdim=True) for each in (log_a, log_b))
            alpha, beta = alpha.exp(), beta.exp()
            mass_a, mass_b = alpha * (beta @ kernel.T), beta * (alpha @ kernel)
        shares = [
            (mass @ states) / mass.sum(-1, keepdim=True)
            for mass, states in ((mass_a, s_a), (mass_b, s_b))
        ]
        return torch.cat(shares, -1).index_select(-1, self.place).clamp(0, 1).to(unary.dtype)


class MeanFieldMarginals(Marginals):
    """A fixed number of sweeps of `mlcrf.inference.MeanField(parallel=True)`.

    log-odds_i <- damping log-odds_i + (1 - damping) (unary_i + sum_j matrix_ij q_j)
    """

    is_exact = False

    def __init__(self, sweeps: int, damping: float = 0.5) -> None:
        super().__init__()
        self.sweeps, self.damping = sweeps, damping
        self.name = f"parallel-mean-field, {sweeps} sweeps"

    def forward(self, unary: Tensor, matrix: Tensor) -> Tensor:
        logits = unary
        for _ in range(self.sweeps):
            fields = unary + (logits.sigmoid().unsqueeze(-2) @ matrix).squeeze(-2)
            logits = self.damping * logits + (1 - self.damping) * fields
        return logits.sigmoid()


class BetheMarginals(Marginals):
    """A fixed number of damped sweeps of loopy belief propagation; see `mlcrf.inference.Bethe`.

        m_ij <- damping m_ij + (1 - damping) (softplus(h_ij + matrix_ij) - softplus(h_ij)),
        h_ij = unary_i + sum_k m_ki - m_ji

    Pairs without a coupling send 0, so that a dense matrix of messages serves every edge set.

    Cost: N L^2 operations and numbers per sweep.
    """

    is_exact = False

    def __init__(self, sweeps: int, damping: float = 0.5) -> None:
        super().__init__()
        self.sweeps, self.damping = sweeps, damping
        self.name = f"bethe, {sweeps} sweeps"

    def forward(self, unary: Tensor, matrix: Tensor) -> Tensor:
        messages = unary.unsqueeze(-1) * torch.zeros_like(matrix)  # (N, L, L), from row to column
        for _ in range(self.sweeps):
            beliefs = unary + messages.sum(-2)
            fields = beliefs.unsqueeze(-1) - messages.mT
            sent = F.softplus(fields + matrix) - F.softplus(fields)
            messages = self.damping * messages + (1 - self.damping) * sent
        return (unary + messages.sum(-2)).sigmoid()


def _log_weights(
    unary: Tensor, matrix: Tensor, labels: Tensor, states: Tensor, shift: Tensor
) -> Tensor:
    """Return the log-weight of every state of a half (N, S), without K and a constant."""
    inside = matrix.index_select(-2, labels).index_select(-1, labels)
    pairs = ((states @ inside) * states).sum(-1) / 2
    return (unary.index_select(-1, labels) + shift) @ states.T + pairs


def _safe_type(bound: Tensor, log_states: float) -> torch.dtype | None:
    """Return the cheapest type whose underflow provably costs less than `_SLACK` of Z."""
    lost = math.log(_FACTORS) + log_states + 2 * float(bound) - math.log(_SLACK)
    return next((dtype for dtype, log_tiny in _LOG_TINY.items() if lost + log_tiny <= 0), None)
