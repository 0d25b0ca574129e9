"""Unaries and couplings of a batch of CRFs over label sets."""

from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mlcrf.crf.limit_fields import IMPOSSIBLE, cost_of, limit_costs, limit_fields
from mlcrf.errors import PotentialsError
from mlcrf.rules import Limit, Rules

_DENSE_LABELS = 128  # up to this many labels, couplings are a dense matrix even if most are missing
_HEADROOM = 2.0**20  # what sums of sizes stay below the largest number by, as a factor
_FEW = 0.1  # up to this share of present labels, only their neighbours are computed


@dataclass(frozen=True)
class Potentials:
    """A batch of fully specified CRFs over y in {0, 1}^L:

        log_score(y) = sum_i unary_i y_i + sum_{(i, j) in edges} pairwise_ij y_i y_j
        p(y) = exp(log_score(y)) / Z

    One number per edge is stored, so an asymmetric matrix or a non-zero diagonal cannot be
    represented. Label sets that break a hard rule have no probability, and a soft rule of weight w
    takes w from the score of those that break it; where a method does not drop states, it counts
    rules as `as_couplings` does.

    Attributes:
        unary: log-odds of each label on its own, float32 or float64 (N, L).
        edges: label pairs i < j, each once, int64 (E, 2).
        pairwise: coupling of each edge, > 0 attracts: (E,), or (N, E) if it varies by image.
        rules: implications between labels, and limits on groups of them.

    Raises:
        PotentialsError: shapes, types or devices do not fit, an edge is not i < j < L or occurs
            twice, a rule names a label from L on, a value is not finite, or the sizes of
            an image's values add up to so much that scores could overflow (3e32 in float32).
    """

    has_log_score: ClassVar[bool] = True  # whether a label vector has a score without a sum

    unary: Tensor
    edges: Tensor
    pairwise: Tensor
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        if self.unary.ndim != 2 or self.unary.dtype not in (torch.float32, torch.float64):
            raise PotentialsError(
                f"unary: expected float32 or float64 (N, L), got {self.unary.dtype} "
                f"{tuple(self.unary.shape)}"
            )
        num_images, num_labels = self.unary.shape
        if not num_labels:
            raise PotentialsError("unary: expected at least one label, got (N, 0)")
        self._check_alike()
        num_edges = len(self.edges)
        if self.edges.shape != (num_edges, 2) or self.edges.dtype != torch.int64:
            raise PotentialsError(
                f"edges: expected int64 (E, 2), got {self.edges.dtype} {tuple(self.edges.shape)}"
            )
        if self.pairwise.shape not in ((num_edges,), (num_images, num_edges)):
            raise PotentialsError(
                f"pairwise: expected ({num_edges},) or ({num_images}, {num_edges}), "
                f"got {tuple(self.pairwise.shape)}"
            )
        if self.rules.num_labels > num_labels:
            raise PotentialsError(f"rules: expected labels below {num_labels}")
        if not self.unary.is_meta:
            self._check_values()

    def _check_values(self) -> None:
        num_labels, num_edges = self.num_labels, len(self.edges)
        if num_edges:
            first, second = self.edges[:, 0], self.edges[:, 1]
            if not bool(((first >= 0) & (first < second) & (second < num_labels)).all()):
                raise PotentialsError(f"edges: expected pairs i < j below {num_labels}")
            if len(torch.unique(first * num_labels + second)) != num_edges:
                raise PotentialsError("edges: a pair occurs twice")
        for name, value in self._tensors().items():
            if not bool(torch.isfinite(value).all()):
                raise PotentialsError(f"{name}: contains NaN or infinity")
        self._check_range()

    def _check_range(self) -> None:
        """Refuse values whose sums, as methods make them, could overflow."""
        sizes = self.unary.detach().abs().sum(-1) + self.pairwise.detach().abs().sum(-1)
        most = torch.finfo(sizes.dtype).max / _HEADROOM
        if not bool((sizes <= most).all()):
            raise PotentialsError(
                f"unary and pairwise: the sizes of an image add up to {float(sizes.max()):.1g}; "
                f"the most that {self.unary.dtype} allows is {most:.1g}"
            )

    def _check_alike(self) -> None:
        for name, value in self._tensors().items():
            if value.device != self.unary.device:
                raise PotentialsError(
                    f"{name}: expected on {self.unary.device} as unary, got {value.device}; "
                    "use Potentials.to(device) to move potentials as a whole"
                )
            if name != "edges" and value.dtype != self.unary.dtype:
                raise PotentialsError(
                    f"{name}: expected {self.unary.dtype} as unary, got {value.dtype}"
                )

    @property
    def num_images(self) -> int:
        return self.unary.shape[0]

    @property
    def num_labels(self) -> int:
        return self.unary.shape[1]

    @property
    def varies_by_image(self) -> bool:
        """Return whether each image has its own couplings."""
        return self.pairwise.ndim == 2

    def to(self, device: torch.device | str) -> Self:
        """Return the same CRFs on a device. Methods make what they need of rules there."""
        if self.unary.device == torch.device(device):
            return self
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def pairwise_matrix(self) -> Tensor:
        """Return the couplings as symmetric, zero-diagonal matrices, (L, L) or (N, L, L)."""
        shape = (*self.pairwise.shape[:-1], self.num_labels, self.num_labels)
        first, second = self.edges[:, 0], self.edges[:, 1]
        upper = self.pairwise.new_zeros(shape)
        upper[..., first, second] = self.pairwise
        return upper + upper.mT

    def as_couplings(self) -> "Potentials":
        """Return the same CRFs with rules as couplings, as far as these can express them.

            unary_child - IMPOSSIBLE,    pairwise_(child, parent) + IMPOSSIBLE    implications
            pairwise_ij - IMPOSSIBLE, or - weight                                 at most one

        A soft limit can be so if it is on two labels. The limits that are left are the rules of the
        result. The edges come first, in their order; pairs without an edge are added at the end.
        """
        apart, left = _as_pairs(self.rules.limits)
        if not apart and not self.rules.pairs:
            return self
        child = torch.from_numpy(self.rules.array[:, 0]).to(self.unary.device)
        cost = torch.bincount(child, minlength=self.num_labels).to(self.unary) * IMPOSSIBLE
        added = {tuple(sorted(pair)): IMPOSSIBLE for pair in self.rules.pairs}
        for pair, weight in apart.items():
            added[pair] = added.get(pair, 0.0) - weight
        ends = self.edges.new_tensor(list(added))
        edges, position = _union(self.edges, ends)
        missing = len(edges) - len(self.edges)
        zeros = self.pairwise.new_zeros((*self.pairwise.shape[:-1], missing))
        gain = self.unary.new_zeros(len(edges)).index_add(
            0, position, self.unary.new_tensor(list(added.values()))
        )
        return Potentials(
            self.unary - cost, edges, torch.cat([self.pairwise, zeros], -1) + gain, left
        )

    def log_score(self, states: Tensor) -> Tensor:
        """Return the unnormalised log-probability of label vectors: (..., N, L) -> (..., N)."""
        coupled = self.as_couplings()
        y = states.to(coupled.unary.dtype)
        together = y[..., coupled.edges[:, 0]] * y[..., coupled.edges[:, 1]]
        score = (coupled.unary * y).sum(-1) + (together * coupled.pairwise).sum(-1)
        return score - limit_costs(coupled.rules.limits, y) if coupled.rules.limits else score

    def conditional_logits(self, states: Tensor) -> Tensor:
        """Return the log-odds of each label given all other labels: (..., N, L) -> (..., N, L).

        The entry of label i does not depend on its own state. States may be real values in [0, 1],
        so this is the mean-field update too.

        Cost: O(N L^2) for up to 128 labels, else O(N E).
        """
        return Fields(self).all(states)

    def scaled(self, unary: Tensor | float, pairwise: Tensor | float) -> Self:
        """Return the CRFs with unaries and couplings multiplied by a factor each; rules stay."""
        return replace(self, unary=unary * self.unary, pairwise=pairwise * self.pairwise)

    def rows(self, wanted: Tensor | slice) -> "Potentials":
        """Return the CRFs of some of the images."""
        pairwise = self.pairwise[wanted] if self.varies_by_image else self.pairwise
        return Potentials(self.unary[wanted], self.edges, pairwise, self.rules)


def _as_pairs(limits: tuple[Limit, ...]) -> tuple[dict[tuple[int, int], float], Rules]:
    """Return the cost of each pair of labels (i, j) together, and the limits that need more."""
    apart: dict[tuple[int, int], float] = {}
    left = []
    for limit in limits:
        if limit.most != 1 or not (limit.is_hard or (len(limit.labels), limit.least) == (2, 0)):
            left.append(limit)
            continue
        for pair in combinations(sorted(limit.labels), 2):
            apart[pair] = apart.get(pair, 0.0) + cost_of(limit)
        if limit.least:
            left.append(Limit(limit.labels, 1, len(limit.labels)))
    return apart, Rules((), tuple(left))


class Fields:
    """Log-odds of labels given the other labels, prepared for many calls; rules are part of them.

    Couplings are a dense matrix up to 128 labels, else a sparse matrix and rows of neighbours, so
    that memory is linear in the edges. Differentiable in the potentials.
    """

    def __init__(self, potentials: Potentials) -> None:
        coupled = potentials.as_couplings()
        self.unary, self.edges, self.pairwise = coupled.unary, coupled.edges, coupled.pairwise
        self.limits = coupled.rules.limits
        dense = coupled.num_labels <= _DENSE_LABELS
        self._matrix = coupled.pairwise_matrix() if dense else None
        self._rows = None if dense else neighbours(coupled.edges, coupled.num_labels)
        self._sparse = self._sparse_later = None
        if not dense and not coupled.varies_by_image:
            self._sparse = _sparse_matrix(coupled)
            self._sparse_later = _sparse_matrix(coupled, later=True)

    def all(self, states: Tensor) -> Tensor:
        """Return the log-odds of every label: (..., N, L) -> (..., N, L)."""
        coupled = self._all(states.to(self.unary.dtype))
        if not self.limits:
            return coupled
        return coupled + limit_fields(self.limits, states.to(self.unary.dtype))

    def _all(self, y: Tensor) -> Tensor:
        if self._sparse is not None:
            few = not y.requires_grad and int(y.count_nonzero()) <= _FEW * y.numel()
            return self._all_of_few(y) if few else self.unary + _product(self._sparse, y)
        if self._matrix is None:
            first, second = self.edges[:, 0], self.edges[:, 1]
            fields = self.unary.expand(y.shape)
            fields = fields.index_add(-1, first, y[..., second] * self.pairwise)
            return fields.index_add(-1, second, y[..., first] * self.pairwise)
        if self._matrix.ndim == 3:
            return self.unary + torch.einsum("...nj,nji->...ni", y, self._matrix)
        return self.unary + y @ self._matrix

    def _all_of_few(self, y: Tensor) -> Tensor:
        """Return the same where few labels are present, from their neighbours alone."""
        assert self._rows is not None
        num_labels = y.shape[-1]
        flat = y.reshape(-1, num_labels)
        row, label = flat.nonzero(as_tuple=True)
        offsets, others, edge = self._rows
        first, count = offsets[label], offsets[label + 1] - offsets[label]
        of = torch.arange(len(row), device=row.device).repeat_interleave(count)
        entry = torch.arange(len(of), device=row.device) + (first + count - count.cumsum(0))[of]
        added = flat[row, label][of] * self.pairwise[edge[entry]]
        place = row[of] * num_labels + others[entry]
        return self.unary.expand(y.shape).reshape(-1).index_add(0, place, added).view(y.shape)

    def later(self, states: Tensor) -> Tensor:
        """Return the couplings' part of log-odds from later labels: (..., N, L) -> (..., N, L)."""
        y = states.to(self.unary.dtype)
        if self._sparse_later is not None:
            return _product(self._sparse_later, y)
        if self._matrix is None:
            first, second = self.edges[:, 0], self.edges[:, 1]
            return torch.zeros_like(y).index_add(-1, first, y[..., second] * self.pairwise)
        after = self._matrix.tril(-1)
        if after.ndim == 3:
            return torch.einsum("...nj,nji->...ni", y, after)
        return y @ after

    def of(self, label: int, states: Tensor) -> Tensor:
        """Return the log-odds of one label: real states (..., N, L) -> (..., N)."""
        ours = tuple(limit for limit in self.limits if label in limit.labels)
        coupled = self._of(label, states)
        return coupled + limit_fields(ours, states)[..., label] if ours else coupled

    def _of(self, label: int, states: Tensor) -> Tensor:
        if self._matrix is not None:
            return self.unary[:, label] + (self._matrix[..., label] * states).sum(-1)
        assert self._rows is not None
        offsets, others, edge = self._rows
        part = slice(int(offsets[label]), int(offsets[label + 1]))
        return self.unary[:, label] + (
            states[..., others[part]] * self.pairwise[..., edge[part]]
        ).sum(-1)

    def move(self, log_odds: Tensor, label: int, change: Tensor) -> None:
        """Update the log-odds of every label (N, L), in place, for a change of one label (N,).

        Of couplings alone: where there are `limits`, compute `all` again.
        """
        if self._matrix is not None:
            log_odds += change.unsqueeze(-1) * self._matrix[..., label, :]
            return
        assert self._rows is not None
        offsets, others, edge = self._rows
        part = slice(int(offsets[label]), int(offsets[label + 1]))
        log_odds[:, others[part]] += change.unsqueeze(-1) * self.pairwise[..., edge[part]]


def _sparse_matrix(potentials: Potentials, *, later: bool = False) -> Tensor:
    """Return the couplings of all images, symmetric (L, L), or only those to later labels."""
    edges, pairwise = potentials.edges, potentials.pairwise
    return torch.sparse_coo_tensor(
        edges.T if later else torch.cat([edges, edges.flip(1)]).T,
        pairwise if later else torch.cat([pairwise, pairwise]),
        (potentials.num_labels, potentials.num_labels),
        check_invariants=False,
    ).coalesce()


def _product(matrix: Tensor, y: Tensor) -> Tensor:
    """Multiply a sparse matrix (L, L) by states (..., L)."""
    # one row per label; the product would make this copy more slowly
    by_label = y.reshape(-1, y.shape[-1]).T.contiguous()
    product: Tensor = torch.sparse.mm(matrix, by_label)
    return product.T.reshape(y.shape)


def neighbours(edges: Tensor, num_labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each label's neighbours in compressed rows.

    Returns:
        offsets (L + 1,), neighbouring labels (2 E,) and the edge to each (2 E,), int64: those of
        label i are from offsets[i] to offsets[i + 1], in rising order.
    """
    ends, others = edges.T.reshape(-1), edges.flip(1).T.reshape(-1)
    edge = torch.arange(len(edges), device=edges.device).repeat(2)
    order = (ends * num_labels + others).argsort()
    counts = torch.bincount(ends, minlength=num_labels)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), others[order], edge[order]


def full_edges(num_labels: int) -> Tensor:
    """Return all pairs i < j in row order, int64 (L (L - 1) / 2, 2)."""
    return torch.combinations(torch.arange(num_labels), 2).reshape(-1, 2)


def _union(edges: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return edges followed by the others that are not among them, and each other's position."""
    position = {pair: at for at, pair in enumerate(map(tuple, edges.tolist()))}
    for pair in map(tuple, others.tolist()):
        position.setdefault(pair, len(position))
    where = [position[pair] for pair in map(tuple, others.tolist())]
    together = torch.tensor(list(position), dtype=torch.int64, device=edges.device)
    return together.reshape(-1, 2), torch.tensor(where, dtype=torch.int64, device=edges.device)
