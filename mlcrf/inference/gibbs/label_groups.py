"""Gibbs sweeps at a scale of the couplings, over groups of labels that are redrawn together."""

import itertools
import math

import torch
from torch import Tensor

from mlcrf.crf import Potentials, neighbours
from mlcrf.crf.limit_fields import IMPOSSIBLE


class GroupedCouplings:
    """The couplings' part of labels' log-odds, for groups of labels without an edge among them:

        coupled_i = sum_j pairwise_ij y_j - IMPOSSIBLE (parents of i that are absent)

    where a present child adds IMPOSSIBLE to its parent too. Labels of a group can be redrawn at
    once; with all pairs coupled each label is a group of its own. The label is the first axis of
    states, (L, S, N), so that the states of a label are contiguous in memory.

    Attributes:
        groups: labels of each group in rising order; each label is in one group.
    """

    def __init__(self, potentials: Potentials, *, less: Tensor | float = 0.0) -> None:
        """Group the labels; `less` (N, L) is subtracted, where it is counted elsewhere."""
        coupled, num_labels = potentials.as_couplings(), potentials.num_labels
        offsets, others, edge = neighbours(coupled.edges, num_labels)
        colours = _colours(offsets, others)
        self.groups = _split_by(colours, torch.arange(num_labels, device=colours.device))
        ends = torch.repeat_interleave(offsets.diff())
        parts = _split_by(colours[ends], torch.arange(len(ends), device=colours.device))
        parts += [ends[:0]] * (len(self.groups) - len(parts))  # without any edge
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._matrices: list[Tensor] = []
        for group, part in zip(self.groups, parts, strict=True):
            rows, columns = torch.searchsorted(group, ends[part]), others[part]
            weights = coupled.pairwise[..., edge[part]]
            if potentials.varies_by_image:
                self._rows.append((rows, columns, weights.T[:, None].contiguous()))
            else:
                self._matrices.append(
                    torch.sparse_coo_tensor(
                        torch.stack([rows, columns]),
                        weights,
                        (len(group), num_labels),
                        is_coalesced=True,
                        check_invariants=False,
                    )
                )
        children = torch.from_numpy(potentials.rules.array[:, 0]).to(coupled.unary.device)
        parents = torch.bincount(children, minlength=num_labels)
        self._less = (IMPOSSIBLE * parents + torch.zeros_like(coupled.unary) + less).T[:, None]

    def of(self, group: int, y: Tensor) -> Tensor:
        """Return the part of one group: states (L, S, N) -> (labels of the group, S, N)."""
        shape = (len(self.groups[group]), *y.shape[1:])
        if self._matrices:
            brought = (self._matrices[group] @ y.flatten(1)).view(shape)
        else:
            rows, columns, weights = self._rows[group]
            brought = y.new_zeros(shape).index_add_(0, rows, weights * y[columns])
        return brought.sub_(self._less[self.groups[group]])


def _split_by(keys: Tensor, values: Tensor) -> list[Tensor]:
    """Split values by their key, 0, 1, ..., keeping their order."""
    order = keys.argsort(stable=True)
    return list(torch.split(values[order], torch.bincount(keys).tolist()))


def _colours(offsets: Tensor, others: Tensor) -> Tensor:
    """Assign each label in turn the first group that holds none of its neighbours (L,)."""
    neighbour = others.tolist()
    colours: list[int] = []
    for label, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        taken = {colours[other] for other in neighbour[first:last] if other < label}
        colours.append(next(colour for colour in itertools.count() if colour not in taken))
    return torch.tensor(colours, device=offsets.device)


def certain_bias(unary: Tensor, known: Tensor) -> Tensor:
    """Return unaries (N, L) as (L, N), plus or minus infinity where a label is known."""
    bias = unary.masked_fill(known == 1, math.inf).masked_fill(known == 0, -math.inf)
    return bias.T.contiguous()


def draw(uniforms: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with draws from (0, 1); at 0 an impossible label would be present."""
    return uniforms.uniform_(generator=generator).clamp_min_(torch.finfo(uniforms.dtype).eps / 4)


def sweep_groups(
    couplings: GroupedCouplings,
    y: Tensor,
    bias: Tensor,
    scale: float,
    uniforms: Tensor,
    *,
    probabilities: Tensor | None = None,
) -> Tensor:
    """Redraw every label once, group by group, in place:

        P(y_i = 1 | the others) = sigmoid(bias_i + scale coupled_i)

    Args:
        y: states, changed in place (L, S, N).
        bias: log-odds of each label without the others (L, N).
        scale: factor on the couplings.
        uniforms: draws from (0, 1), one per label (L, S, N).
        probabilities: filled with the probabilities from which labels were drawn (L, S, N).

    Returns:
        The rise of the couplings' part of the score (S, N).
    """
    risen = torch.zeros_like(y[0])
    for number, labels in enumerate(couplings.groups):
        # a view is faster than an index
        group = slice(int(labels), int(labels) + 1) if len(labels) == 1 else labels
        coupled = couplings.of(number, y)
        p = (coupled * scale).add_(bias[group][:, None]).sigmoid_()
        drawn = (uniforms[group] < p).to(y.dtype)
        risen += coupled.mul_(drawn - y[group]).sum(0)
        y[group] = drawn
        if probabilities is not None:
            probabilities[group] = p
    return risen
