"""Upper bounds on the best score, so that a search can say how far off it may be."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known

_CHUNK_ENTRIES = 2**20  # couplings times images that are handled at once
_SWEEPS_TO_CHECK = 10  # between two looks for the proof


@dataclass(frozen=True)
class ScoreBound:
    """A value that no score exceeds, and what its relaxation makes of the labels.

    Attributes:
        value: upper bound on the score of every state that agrees with what is known,
            float64 (N,).
        leaning: from -1 (absent) over 0 (undecided) to 1 (present), float64 (N, L).
    """

    value: Tensor
    leaning: Tensor


@dataclass(frozen=True)
class DualBound:
    """Bound max_y log_score(y) from above by two relaxations, and take the lower.

    The roof dual is the best bound that gives every edge away to its two labels. It is tight on
    trees and where every coupling attracts, loose where many disagree. The semidefinite bound
    lets labels be unit vectors, needs the full matrix, and is far tighter on dense models. Both
    hold at every iterate, converged or not.

    Mean gap to the best score, all pairs coupled, unaries uniform on [-1, 1] and couplings on
    plus or minus their size (16 to 48 images):

        labels   size   best score   roof dual   semidefinite   lower of both
            12    0.3          3.5        0.01           0.05            0.01
            12    1            7.3        1.0            0.22            0.18
            24    0.3          8.0        2.3            0.24            0.23
            24    1           19.2       14.6            1.2             1.2
            38    1           38.3       47.7            2.4             2.4

    Attributes:
        roof_sweeps: steps of the roof dual at most.
        semidefinite_sweeps: passes over the labels for the semidefinite bound.
        max_semidefinite_labels: with more labels the roof dual stands alone.

    Cost: O(N E) a step of the roof dual; O(N L^2.5) a sweep of the other, and O(N L^3) once.
    Memory: linear in edges, or L^2 an image with the semidefinite bound. Deterministic.

    Sources: see `roof_dual` and `semidefinite_bound`.
    """

    roof_sweeps: int = 200
    semidefinite_sweeps: int = 20
    max_semidefinite_labels: int = 128

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> ScoreBound:
        """The bound for each image; implications count as `Potentials.as_couplings` has them."""
        clamped = check_known(potentials, known)
        coupled = potentials.as_couplings()
        value = torch.empty(clamped.shape[:1], dtype=torch.float64, device=clamped.device)
        leaning = torch.empty(clamped.shape, dtype=torch.float64, device=clamped.device)
        size = max(1, _CHUNK_ENTRIES // (len(coupled.edges) + coupled.num_labels))
        for start in range(0, coupled.num_images, size):
            rows = slice(start, start + size)
            part = self._bound(coupled.rows(rows), clamped[rows])
            value[rows], leaning[rows] = part.value, part.leaning
        return ScoreBound(value, leaning)

    def _bound(self, potentials: Potentials, known: Tensor) -> ScoreBound:
        constant, rest = _without_known(potentials, known)
        bound = roof_dual(rest, max_sweeps=self.roof_sweeps)
        if len(rest.edges) and rest.num_labels <= self.max_semidefinite_labels:
            other = semidefinite_bound(rest, sweeps=self.semidefinite_sweeps)
            better = other.value < bound.value
            bound = ScoreBound(
                torch.where(better, other.value, bound.value),
                torch.where(better[:, None], other.leaning, bound.leaning),
            )
        certain = (2 * known - 1).double()
        return ScoreBound(
            constant + bound.value, torch.where(known == UNKNOWN, bound.leaning, certain)
        )


@torch.no_grad()
def roof_dual(potentials: Potentials, *, max_sweeps: int = 200) -> ScoreBound:
    """Bound the best score by a sum of terms of one label each.

    For any 0 <= flow <= |pairwise_ij| an edge lies under a roof that is linear in its ends,

        pairwise y_i y_j <= flow y_i + (pairwise - flow) y_j        where it attracts
        pairwise y_i y_j <= flow (1 - y_i - y_j)                    where it repels

    so that with load_i = unary_i + all that edges bring to label i

        max_y log_score(y) <= sum_i max(0, load_i) + sum of the flows of edges that repel

    The flows that minimise sum_i load_i^2 minimise the bound as well: there the two ends of an
    edge have the same load (opposite ones where it repels), or its flow is at the limit nearer to
    that. So labels of 1 where the load is above 0, 0 below and 1/2 at 0 meet every roof, which
    proves it. Accelerated projected gradient finds these flows and stops at that proof; the best
    bound on its way is returned.

    Cost: O(N E) a sweep. Deterministic.

    Sources: Hammer, Hansen and Simeone (1984), Roof duality, complementation and persistency in
    quadratic 0-1 optimization; Beck and Teboulle (2009) for the steps, O'Donoghue and Candes
    (2015) for when to restart them.
    """
    unary, pairwise = _label_first(potentials)
    first, second = potentials.edges.T
    limit, attraction = pairwise.abs(), pairwise.clamp_min(0)
    sign = torch.where(pairwise > 0, 1.0, -1.0).to(unary)
    degree = torch.bincount(potentials.edges.reshape(-1), minlength=len(unary))
    step = (1 / (degree[first] + degree[second]).to(unary))[:, None]

    def loads(flow: Tensor) -> Tensor:
        brought = unary.index_add(0, first, sign * flow)
        return brought.index_add_(0, second, attraction - flow)

    flow = ahead = limit / 2
    load = load_ahead = loads(flow)
    value = _roof_value(load, flow, sign)
    momentum = torch.ones_like(value)
    for sweep in range(max_sweeps):
        if sweep % _SWEEPS_TO_CHECK == 0 and _is_best_roof(potentials, value, load, limit):
            break
        slope = sign * load_ahead[first] - load_ahead[second]
        moved = (ahead - step * slope).clamp_min(0).minimum(limit)
        change, load_moved = moved - flow, loads(moved)
        # start anew where the momentum points uphill
        momentum[((ahead - moved) / step * change).sum(0) > 0] = 1
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        gain = (momentum - 1) / following
        ahead = moved + gain * change
        load_ahead = load_moved + gain * (load_moved - load)
        flow, load, momentum = moved, load_moved, following
        value = torch.minimum(value, _roof_value(load, flow, sign))
    return ScoreBound(value, _leaning(potentials, load, limit).T)


@torch.no_grad()
def semidefinite_bound(potentials: Potentials, *, sweeps: int = 20) -> ScoreBound:
    """Bound the best score by letting labels be unit vectors instead of signs.

    With y_i = (1 + s_i) / 2 and one more sign s_0 for the linear terms, the score is a constant
    plus s^T C s, and for any numbers d

        max_s s^T C s <= sum_i d_i + (L + 1) max(0, largest eigenvalue of C - diag(d))

    Good d come from maximising sum_ij C_ij v_i.v_j over unit vectors, one at a time (the mixing
    method): v_i is the direction of sum_j C_ij v_j, and d_i its length.

    Cost: O(N L^2.5) a sweep, O(N L^3) for the eigenvalues. Memory: O(N L^2). Deterministic.

    Sources: Goemans and Williamson (1995); Wang, Chang and Kolter (2017), The mixing method.
    """
    num_images, num_labels = potentials.unary.shape
    matrix = potentials.pairwise_matrix().double().expand(num_images, -1, -1)
    linear = potentials.unary.double() / 2 + matrix.sum(-1) / 4
    constant = potentials.unary.double().sum(-1) / 2 + matrix.sum((-2, -1)) / 8
    quadratic = F.pad(matrix / 8, (1, 0, 1, 0))
    quadratic[:, 0, 1:] = quadratic[:, 1:, 0] = linear / 2
    size = num_labels + 1
    rank = math.ceil(math.sqrt(2 * size)) + 1  # enough for no local maximum but the global one
    start = torch.randn((size, rank), generator=torch.Generator().manual_seed(0)).to(quadratic)
    vectors = F.normalize(start, dim=-1).repeat(num_images, 1, 1)
    for _ in range(sweeps):
        for label in range(size):
            pull = quadratic[:, label : label + 1] @ vectors
            vectors[:, label] = F.normalize(pull[:, 0], dim=-1)
    lengths = (quadratic @ vectors).norm(dim=-1)
    excess = torch.linalg.eigvalsh(quadratic - torch.diag_embed(lengths))[:, -1].clamp_min(0)
    leaning = (vectors[:, 1:] * vectors[:, :1]).sum(-1)
    return ScoreBound(constant + lengths.sum(-1) + size * excess, leaning)


def _without_known(potentials: Potentials, known: Tensor) -> tuple[Tensor, Potentials]:
    """The score of what is known, float64 (N,), and the CRFs of the rest at the same places."""
    free = known == UNKNOWN
    both = free[:, potentials.edges[:, 0]] & free[:, potentials.edges[:, 1]]
    precise = Potentials(potentials.unary.double(), potentials.edges, potentials.pairwise.double())
    present = known.clamp_min(0).double()
    unary = precise.conditional_logits(present).masked_fill(~free, 0.0)
    rest = Potentials(unary, potentials.edges, precise.pairwise * both)
    return precise.log_score(present), rest


def _label_first(potentials: Potentials) -> tuple[Tensor, Tensor]:
    """Unaries (L, N) and couplings (E, N), where sums over the edges of a label are fast."""
    pairwise = potentials.pairwise.expand(potentials.num_images, -1)
    return potentials.unary.double().T.contiguous(), pairwise.double().T.contiguous()


def _roof_value(load: Tensor, flow: Tensor, sign: Tensor) -> Tensor:
    return load.clamp_min(0).sum(0) + (flow * (sign < 0)).sum(0)


def _leaning(potentials: Potentials, load: Tensor, limit: Tensor) -> Tensor:
    """Loads as shares of what they could be at most, (L, N)."""
    first, second = potentials.edges.T
    most = load.abs().index_add(0, first, limit).index_add_(0, second, limit)
    return load / most.clamp_min(torch.finfo(load.dtype).tiny)


def _is_best_roof(potentials: Potentials, value: Tensor, load: Tensor, limit: Tensor) -> bool:
    """Whether labels of 0, 1/2 and 1 by the loads reach the bound in the relaxation."""
    y = (_leaning(potentials, load, limit).T / 1e-6).round().clamp(-1, 1) / 2 + 0.5
    first, second = y[:, potentials.edges[:, 0]], y[:, potentials.edges[:, 1]]
    attracting = torch.minimum(first, second) * potentials.pairwise.clamp_min(0)
    repelling = (first + second - 1).clamp_min(0) * potentials.pairwise.clamp_max(0)
    reached = (potentials.unary * y).sum(-1) + (attracting + repelling).sum(-1)
    return bool((value - reached <= 1e-7 * (1 + value.abs())).all())
