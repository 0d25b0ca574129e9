"""The label sets of highest sum of scores that keep to rules and have an allowed size.

Labels that hard rules link are a group, whose states are listed. Groups are independent but for the
size, so the best set of each size follows group by group:

    best_g(t) = max_s best_{g - 1}(t - s) + value_g(s)

with value_g(s) the best sum of the states of group g with s labels. Labels under no rule are one
group: the s of highest score.

Where labels may be left open, too, a group's states are partial: 1, 0 or open, see
`list_partial_states`, and s counts the labels that are present.
"""

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.rules import Rules
from mlcrf.rules.states import list_partial_states, list_states

_MOST = 2**14  # largest number of states of a group that is listed


class Choice(NamedTuple):
    """Label sets, int64 (N, L), and sums of scores, float64 (N,), -inf where no size is allowed.

    Labels that are left open are -1.
    """

    states: Tensor
    value: Tensor


@lru_cache(maxsize=16)
def sized_sets(rules: Rules, num_labels: int) -> "SizedSets":
    """Return the groups of labels under these rules, made once."""
    return SizedSets(rules, num_labels)


class SizedSets:
    """The groups of labels that hard rules link.

    Attributes:
        free: labels under no rule.
        groups: labels and states of each other group, (l,) and float64 (S, l).
        is_exact: whether the states of every group are listed; `best` needs it.
    """

    def __init__(self, rules: Rules, num_labels: int) -> None:
        self._rules = rules
        linked = rules.linked(num_labels)
        self.free = torch.tensor([one[0] for one in linked if len(one) == 1], dtype=torch.int64)
        self.groups: list[tuple[Tensor, Tensor]] = []
        self.is_exact = True
        for labels in linked:
            if len(labels) > 1:
                states = list_states(labels, rules, most=_MOST)
                self.is_exact &= states is not None
                if states is not None:
                    listed = torch.from_numpy(states).double()
                    self.groups.append((torch.tensor(labels), listed))

    def nearest(self, states: Tensor, weights: Tensor, known: Tensor, limits: Tensor) -> Tensor:
        """Return for each label set the one that keeps to the rules and changes the fewest labels.

        Of those as near the one that keeps the likely and adds the likely. If a group has too many
        states to list, labels are settled one by one, the surest first, and the size is ignored.

        Args:
            states: label sets (N, L).
            weights: probabilities or other scores, none below 0 (N, L).
            known: 1, 0 and -1, closed under the rules (N, L).
            limits: the smallest and the largest number of labels, int64 (2, N).
        """
        p = weights.double() / weights.double().amax().clamp(min=1)
        gain = torch.where(states == 1, 1 + p, p - 2)
        if self.is_exact:
            return self.best(gain, known, limits).states
        return self.settled(gain, known)

    def best(
        self, scores: Tensor, known: Tensor, limits: Tensor, open_scores: Tensor | None = None
    ) -> Choice:
        """Return the best label sets whose size is allowed, or else nearest to what is.

        Args:
            scores: of present labels (N, L); those of absent labels are 0.
            open_scores: of labels that are left open (N, L), -inf where none may be; None if no
                label may. Needs `open_groups`.

        Other arguments as of `nearest`.

        Cost: O(L^2 + L S) for each image, S the states of a group.
        """
        scores = scores.double()
        groups = self.groups if open_scores is None else self.open_groups
        if groups is None:
            raise ValueError("groups have too many partial states to list")
        tables = [self._of_free(scores, known, open_scores)]
        tables += [
            _of_group(scores, known, *self._on(group, scores), open_scores) for group in groups
        ]
        total, steps = scores.new_zeros(len(scores), 1), []
        for table in tables:
            total, step = _add(total, table.values)
            steps.append(step)
        sizes = torch.arange(total.shape[1], device=scores.device)
        fewest, most = limits
        outside = (fewest[:, None] - sizes).clamp(min=0) + (sizes - most[:, None]).clamp(min=0)
        possible = total > -torch.inf
        nearest = outside.masked_fill(~possible, total.shape[1]).amin(1, keepdim=True)
        size = total.masked_fill(outside != nearest, -torch.inf).argmax(1)
        value = total.gather(1, size[:, None]).squeeze(1)
        value = value.masked_fill(nearest.squeeze(1) > 0, -torch.inf)
        chosen = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)
        for table, step in zip(reversed(tables), reversed(steps), strict=True):
            here = step.gather(1, size[:, None]).squeeze(1)
            table.put(chosen, here)
            size = size - here
        return Choice(chosen, value)

    def _on(self, group: tuple[Tensor, Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
        labels, states = group
        return labels.to(scores.device), states.to(scores.device)

    @cached_property
    def open_groups(self) -> list[tuple[Tensor, Tensor]] | None:
        """The groups with their partial states; None if some group has too many to list."""
        if not self.is_exact:
            return None
        found = []
        for labels, states in self.groups:
            partial = list_partial_states(states.numpy().astype(np.uint8), most=_MOST)
            if partial is None:
                return None
            found.append((labels, torch.from_numpy(partial).double()))
        return found

    def settled(self, scores: Tensor, known: Tensor) -> Tensor:
        """Return label sets (N, L) that keep to the rules, labels settled by falling |score|.

        For groups with too many states to list; sizes are ignored.
        """
        rows = [self._settle(*row) for row in zip(scores.cpu(), known.cpu(), strict=True)]
        return torch.stack(rows).to(scores.device) if rows else known

    def _of_free(
        self, scores: Tensor, known: Tensor, open_scores: Tensor | None = None
    ) -> "_Table":
        labels = self.free.to(scores.device)
        own, told = scores[:, labels], known[:, labels]
        otherwise = torch.zeros_like(own)  # the better of absent and open
        if open_scores is not None:
            otherwise = open_scores[:, labels].clamp(min=0).masked_fill(told != UNKNOWN, 0)
            own = own - otherwise
        ranked = own.masked_fill(told == 1, torch.inf).masked_fill(told == 0, -torch.inf)
        order = ranked.argsort(stable=True, dim=1, descending=True)
        sums = own.gather(1, order).cumsum(1)
        values = torch.cat([sums.new_zeros(len(sums), 1), sums], 1)
        values = values + otherwise.sum(1, keepdim=True)
        sizes = torch.arange(values.shape[1], device=scores.device)
        fixed, possible = (told == 1).sum(1, keepdim=True), (told != 0).sum(1, keepdim=True)
        values = values.masked_fill((sizes < fixed) | (sizes > possible), -torch.inf)
        rank = order.argsort(1)
        return _Table(values, labels, rank=rank, is_open=otherwise > 0)

    def _settle(self, gain: Tensor, known: Tensor) -> Tensor:
        """Return a label set (L,) that keeps to the rules, labels settled by falling |gain|."""
        row = known.numpy().astype(np.int8)
        linked = [
            label for group in self._rules.linked(len(row)) if len(group) > 1 for label in group
        ]
        wanted = (gain > 0).numpy()
        row = np.where(
            row == UNKNOWN, np.where(np.isin(np.arange(len(row)), linked), row, wanted), row
        )
        for label in sorted(linked, key=lambda one: -abs(float(gain[one]))):
            if row[label] == UNKNOWN:
                tried = row.copy()
                tried[label] = wanted[label]
                possible = self._rules.completion(tried) is not None
                row[label] = wanted[label] if possible else not wanted[label]
        return torch.from_numpy(row.astype(np.int64))


class _Table(NamedTuple):
    """The best states of a group by their number of labels.

    Attributes:
        values: the best sum of scores for each size, -inf where there is none (N, l + 1).
        labels: the group (l,).
        states: the states of the group (S, l); at: the best one for each size (N, l + 1).
        rank: for labels under no rule the place of each by falling score (N, l).
        is_open: for these, whether each is left open where it is not present (N, l).
    """

    values: Tensor
    labels: Tensor
    states: Tensor | None = None
    at: Tensor | None = None
    rank: Tensor | None = None
    is_open: Tensor | None = None

    def put(self, chosen: Tensor, size: Tensor) -> None:
        """Write the best states of some size (N,) into label sets (N, L)."""
        if self.rank is not None:
            assert self.is_open is not None
            present = self.rank < size[:, None]
            chosen[:, self.labels] = present.long().masked_fill(~present & self.is_open, UNKNOWN)
            return
        assert self.states is not None and self.at is not None
        which = self.at.gather(1, size[:, None]).squeeze(1)
        chosen[:, self.labels] = self.states[which].long()


def _of_group(
    scores: Tensor, known: Tensor, labels: Tensor, states: Tensor, open_scores: Tensor | None = None
) -> _Table:
    told = known[:, labels]
    present, absent = (states == 1).double(), (states == 0).double()
    sums = scores[:, labels] @ present.T
    if open_scores is not None:
        is_open = (states == UNKNOWN).double()
        never = (open_scores[:, labels] == -torch.inf).double() @ is_open.T
        allowed = open_scores[:, labels].masked_fill(open_scores[:, labels] == -torch.inf, 0)
        sums = (sums + allowed @ is_open.T).masked_fill(never > 0, -torch.inf)
    wrong = (told == 0).double() @ (1 - absent).T + (told == 1).double() @ (1 - present).T
    sums = sums.masked_fill(wrong > 0, -torch.inf)
    sizes = present.sum(1)
    values = sums.new_full((len(sums), len(labels) + 1), -torch.inf)
    at = torch.zeros(values.shape, dtype=torch.int64, device=sums.device)
    for size in range(len(labels) + 1):
        of_size = (sizes == size).nonzero().squeeze(1)
        if len(of_size):
            values[:, size], best = sums[:, of_size].max(1)
            at[:, size] = of_size[best]
    return _Table(values, labels, states, at)


def _add(total: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best sums by size of two groups (N, a + b - 1), and the size of the second."""
    width = total.shape[1] + values.shape[1] - 1
    best = total.new_full((len(total), width), -torch.inf)
    step = torch.zeros(best.shape, dtype=torch.int64, device=total.device)
    for size in range(values.shape[1]):
        here = slice(size, size + total.shape[1])
        reached = total + values[:, size, None]
        better = reached > best[:, here]
        best[:, here] = torch.where(better, reached, best[:, here])
        step[:, here] = torch.where(better, size, step[:, here])
    return best, step
