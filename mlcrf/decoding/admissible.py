"""Label sets that may be chosen, and the order in which labels are added to them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.decoding.sized_sets import Choice, SizedSets, sized_sets
from mlcrf.rules import Rules


@dataclass(frozen=True)
class Admissible:
    """Label sets that may be chosen for each of N images.

    They agree with the known labels, keep to the hard rules, and have at least `at_least` and at
    most `at_most` labels. If that is impossible, known labels and rules win and the number of
    labels is as close to the limit as they allow.

    Attributes:
        known: 1, 0 or -1 for unknown, closed under rules (see `check_known`) (N, L).
        at_least: minimum number of labels.
        at_most: maximum number of labels; None means no limit.
    """

    known: Tensor
    rules: Rules = Rules()
    at_least: int = 0
    at_most: int | None = None

    @cached_property
    def fewest(self) -> Tensor:
        """The smallest number of labels of each image, int64 (N,)."""
        return self._within_known(self.at_least)

    @cached_property
    def most(self) -> Tensor:
        """The largest number of labels of each image, int64 (N,)."""
        num_labels = self.known.shape[-1]
        return self._within_known(num_labels if self.at_most is None else self.at_most)

    def rows(self, wanted: Tensor | slice) -> "Admissible":
        """Return the same for some of the images."""
        return replace(self, known=self.known[wanted])

    def order(self, scores: Tensor) -> Tensor:
        """Return labels by falling score: scores (..., N, L) -> label numbers (..., N, L).

        Known labels come first or last. No child comes before its parent, which moves up to the
        place of its best child. So without limits on groups the first k labels are an admissible
        set for every k from `fewest` to `most`. Equal scores keep the order of the labels.
        """
        scores = scores.masked_fill(self.known == 1, torch.inf)
        lifted = self._close(scores.masked_fill(self.known == 0, -torch.inf))
        ranked = lifted[..., self._parents_first].argsort(stable=True, dim=-1, descending=True)
        return self._parents_first[ranked]

    def fit(self, states: Tensor, marginals: Tensor) -> Tensor:
        """Make label sets admissible: (..., N, L) -> the same shape and type.

        Known labels are set and missing parents added. If there are too many labels, the labels of
        highest marginal (N, L) are kept; if too few, the labels of highest marginal are added,
        a parent always before its child. Where limits on groups are broken, the nearest set that
        keeps to all rules is taken, see `SizedSets.nearest`. Admissible sets stay as they are.
        """
        states = states.masked_fill(self.known == 1, 1).masked_fill(self.known == 0, 0)
        states = self._sized(self._close(states), marginals)
        if not self.rules.hard_limits:
            return states
        obey = torch.from_numpy(self.rules.obeyed_by(states.byte().cpu().numpy()))
        *lead, image = (~obey).to(states.device).nonzero(as_tuple=True)
        if not len(image):
            return states
        fitted = states.clone()
        fitted[(*lead, image)] = self._sets.nearest(
            states[(*lead, image)],
            marginals[image],
            self.known[image],
            torch.stack([self.fewest, self.most])[:, image],
        ).to(states.dtype)
        return fitted

    def best_of_size(self, scores: Tensor, size: int) -> Choice | None:
        """Return the admissible sets of one size with the highest sum of scores (N, L).

        None if labels under limits are so many that their sets are not listed.
        """
        if self._sets.is_exact:
            limits = torch.full((2, len(scores)), size, device=scores.device)
            return self._sets.best(scores, self.known, limits)
        return None

    def best(self, scores: Tensor, open_scores: Tensor | None = None) -> Tensor:
        """Return the sets with the highest sum of scores, int64 (N, L); open labels are -1.

        Where linked labels have too many states to list, a set that need not be the best; see
        `minimise_expected_cost`.

        Args:
            scores: of present labels (N, L); those of absent labels are 0.
            open_scores: of labels that are left open, or None; see `SizedSets.best`.
        """
        sets = self._sets
        if sets.is_exact and (open_scores is None or sets.open_groups is not None):
            limits = torch.stack([self.fewest, self.most])
            return sets.best(scores, self.known, limits, open_scores).states
        if sets.is_exact:
            states = self.best(scores)
        else:
            shifted = scores - scores.amin(-1, keepdim=True)
            states = self.fit(sets.settled(scores, self.known), shifted)
        if open_scores is None:
            return states
        is_open = (open_scores > scores * states) & (self.known < 0)
        left = (states.bool() & ~is_open).sum(-1)
        is_open &= (states == 0) | (left >= self.fewest)[:, None]
        partial = states.masked_fill(is_open, UNKNOWN).cpu().numpy()
        return torch.from_numpy(self.rules.close(partial)).to(states.device)

    @property
    def _sets(self) -> SizedSets:
        return sized_sets(self.rules, self.known.shape[-1])

    def _sized(self, states: Tensor, marginals: Tensor) -> Tensor:
        """Keep or add labels until the size is allowed; see `fit`."""
        size = states.sum(-1)
        wanted = size.maximum(self.fewest).minimum(self.most)
        if torch.equal(size, wanted):
            return states
        order = self.order(marginals).expand(states.shape)
        chosen = states.gather(-1, order)
        kept = chosen.cumsum(-1) <= wanted.unsqueeze(-1)
        added = (1 - chosen).cumsum(-1) <= (wanted - size).unsqueeze(-1)
        return torch.zeros_like(states).scatter(
            -1, order, torch.where(chosen == 1, kept, added).to(states.dtype)
        )

    def may_turn(self, states: Tensor) -> Tensor:
        """Return which single labels of admissible sets (N, L) can be flipped, bool (N, L)."""
        present = states.long()
        child, parent = self._columns(self.rules.array)
        held = torch.zeros_like(present).index_add(-1, parent, present[:, child])
        missing = torch.zeros_like(present).index_add(-1, child, 1 - present[:, parent])
        size = present.sum(-1, keepdim=True)
        fewer = (held == 0) & (size > self.fewest[:, None])
        more = (missing == 0) & (size < self.most[:, None])
        for limit in self.rules.hard_limits:
            group = list(limit.labels)
            count = present[:, group].sum(-1, keepdim=True)
            fewer[:, group] &= count > limit.least
            more[:, group] &= count < limit.most
        return (self.known < 0) & torch.where(present == 1, fewer, more)

    @cached_property
    def _parents_first(self) -> Tensor:
        """Labels, each before the labels that imply it, int64 (L,)."""
        heights = torch.from_numpy(self.rules.heights(self.known.shape[-1]))
        return heights.to(self.known.device).argsort(descending=True, stable=True)

    @cached_property
    def _closure(self) -> tuple[Tensor, Tensor]:
        return self._columns(np.array(self.rules.closure, dtype=np.int64).reshape(-1, 2))

    def _columns(self, pairs: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        children, parents = torch.from_numpy(pairs).to(self.known.device).unbind(1)
        return children, parents

    def _close(self, values: Tensor) -> Tensor:
        """Raise every parent to the largest value below it: (..., N, L) -> (..., N, L)."""
        label, above = self._closure
        if not len(label):
            return values
        below = values[..., label]
        return values.scatter_reduce(-1, above.expand(below.shape), below, "amax")

    def _within_known(self, limit: int) -> Tensor:
        present = (self.known == 1).sum(-1)
        possible = (self.known != 0).sum(-1)
        return torch.full_like(present, limit).maximum(present).minimum(possible)
