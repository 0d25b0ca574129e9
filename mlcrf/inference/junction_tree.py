"""Junction tree: exact inference on sparse label graphs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError, TooManyLabelsError
from mlcrf.inference.exact.conditioning import Rest, join_posteriors, split_by_known
from mlcrf.inference.exact.differentiation import Beliefs, LogPartition, Moments
from mlcrf.inference.exact.elimination import Elimination, Group, make_plan, treewidth
from mlcrf.inference.posterior import LogPartitionKind, Posterior
from mlcrf.rules import Limit
from mlcrf.rules.states import log_weights

_CHUNK_ENTRIES = 2**23  # largest separator states x images per chunk
_IMPOSSIBLE = -1e8  # the log-weight of states that a limit forbids; infinite has no gradient
_PLANNING = 2**14  # the cost of an order of elimination, for each label, in separator states


@dataclass(frozen=True)
class JunctionTree:
    """Sum exactly by eliminating the labels of a sparse graph in turn.

    The remaining neighbours S of label v when it is eliminated are its separator; its children are
    the eliminated labels whose separators name v first. Messages go up, from the children c to v:

        t_v(y_v, y_S) = unary_v y_v + sum_{s in S} pairwise_vs y_v y_s + sum_c m_c(y_v, y_S)
        m_v(y_S)      = log sum_{y_v} exp t_v(y_v, y_S),        log Z = sum over roots of m

    and beliefs come down, from the roots to v:

        P(y_v = 1, y_S) = P(y_S) sigmoid(t_v(1, y_S) - t_v(0, y_S))

    With max in place of the sum, the same odds give the best state from the roots down; sampling
    from them gives exact samples.

    Labels at the same depth with separators of the same size are one batch. `log_partition` is
    differentiable twice in both potentials, with the marginals as its gradient; these once.
    Everything is computed in float64 and returned in the type of the potentials.

    Known labels widen no clique: where the graph of all labels is too wide, or an order of its own
    is worth its cost, they are left out, for all images together that know the same labels.

    Attributes:
        max_treewidth: refuse graphs of unknown labels for which no order of this width is found.
        pairwise_marginals: whether to return pairwise marginals too.
        order: all labels, in the order of their elimination; None for the best of min-fill,
            min-degree and the labels' own order.

    Cost: O(N sum_v 2^|S_v|), so linear in L for trees, in as many steps as the tree is deep. The
    order is found in Python once per edge set, about 0.1 ms per label. Memory: 32 bytes x
    sum_v 2^|S_v| for each image of a chunk. Deterministic.

    Sources: Lauritzen and Spiegelhalter (1988); Koller and Friedman (2009), chapters 9, 10, 13.
    """

    max_treewidth: int = 16
    pairwise_marginals: bool = False
    order: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return "junction-tree"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer exact marginals and log Z.

        Raises:
            TooManyLabelsError: the label graph is wider than `max_treewidth`.
        """
        clamped = check_known(potentials, known)
        parts = [
            (rest, self._infer(rest, coupled, plan))
            for rest, coupled, plan in self._split_by_known(potentials, clamped)
        ]
        return join_posteriors(potentials, clamped, parts)

    def _infer(self, rest: Rest, coupled: Potentials, plan: Elimination) -> Posterior:
        sums = _TreeSums(plan, rest.known, coupled.rules.limits)
        inputs = coupled.unary, coupled.pairwise
        log_partition, marginals, pairs = LogPartition.apply(*inputs, sums, self.pairwise_marginals)
        marginals, pairs = Moments.apply(*inputs, sums, marginals, pairs)
        dtype = rest.potentials.unary.dtype
        return Posterior(
            marginals=marginals.to(dtype),
            log_partition=log_partition.to(dtype),
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            pairwise_marginals=pairs[:, : len(rest.edges)].to(dtype)
            if self.pairwise_marginals
            else None,
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors, exact up to ties within rounding, int64 (N, L).

        Raises:
            TooManyLabelsError: the label graph is wider than `max_treewidth`.
        """
        clamped = check_known(potentials, known)
        best = clamped.clone()
        for rest, coupled, plan in self._split_by_known(potentials, clamped):
            sums = _TreeSums(plan, rest.known, coupled.rules.limits)
            for rows in sums.parts:
                terms = sums.terms(rows, coupled.unary, coupled.pairwise)
                _, log_odds = _collect(plan, terms, torch.maximum)
                states = _descend(plan, log_odds, 1, lambda odds: odds > 0)[:, 0].T.long()
                best[rest.images[rows, None], rest.labels] = states
        return best

    @torch.no_grad()
    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw independent exact samples, uint8 (num_samples, N, L).

        Raises:
            TooManyLabelsError: the label graph is wider than `max_treewidth`.
        """

        def draw(odds: Tensor) -> Tensor:
            uniforms = torch.rand(
                odds.shape, generator=generator, dtype=odds.dtype, device=odds.device
            )
            return uniforms < odds.sigmoid()

        clamped = check_known(potentials, known)
        drawn = (clamped == 1).byte().repeat(num_samples, 1, 1)
        for rest, coupled, plan in self._split_by_known(potentials, clamped):
            sums = _TreeSums(plan, rest.known, coupled.rules.limits)
            for rows in sums.parts:
                terms = sums.terms(rows, coupled.unary, coupled.pairwise)
                _, log_odds = _collect(plan, terms, torch.logaddexp)
                size = max(1, _CHUNK_ENTRIES // terms.unary.numel())
                for part in torch.split(drawn, size):
                    states = _descend(plan, log_odds, len(part), draw)
                    part[:, rest.images[rows, None], rest.labels] = states.permute(1, 2, 0)
        return drawn

    def _split_by_known(
        self, potentials: Potentials, known: Tensor
    ) -> list[tuple[Rest, Potentials, Elimination]]:
        """Return the labels to eliminate, their potentials as couplings in float64, and the order.

        Raises:
            TooManyLabelsError: the graph of an image's unknown labels is too wide.
            PotentialsError: `order` does not name each label once.
        """
        if self.order is not None and sorted(self.order) != list(range(potentials.num_labels)):
            raise PotentialsError(
                f"order of elimination: expected each of {potentials.num_labels} labels once, "
                f"got {self.order}"
            )
        whole = self._plan(potentials, self.order)
        entries = torch.inf if whole[1] is None else whole[1].entries
        planning = _PLANNING * potentials.num_labels

        def is_worth_it(num_images: int, num_left: int) -> bool:
            return entries * num_images > planning

        parts = [Rest.whole(potentials, known)]
        if bool((known != UNKNOWN).any()) and entries * len(known) > planning:
            parts = split_by_known(potentials, known, is_worth_it)
        planned = []
        for rest in parts:
            is_whole = rest.potentials is potentials
            coupled, plan = whole if is_whole else self._plan(rest.potentials, self._order_of(rest))
            planned.append((rest, coupled, self._check(coupled, plan)))
        return planned

    def _order_of(self, rest: Rest) -> tuple[int, ...] | None:
        place = {label: at for at, label in enumerate(rest.labels.tolist())}
        return self.order and tuple(place[label] for label in self.order if label in place)

    def _plan(
        self, potentials: Potentials, order: tuple[int, ...] | None
    ) -> tuple[Potentials, Elimination | None]:
        """Return float64 potentials, rules as couplings where they can be, and the order.

        Labels of a limit that is left have edges with each other, 0 if they had none, so that a
        table holds them all. The order is None if it is too wide.
        """
        coupled = Potentials(
            potentials.unary.double(),
            potentials.edges,
            potentials.pairwise.double(),
            potentials.rules,
        ).as_couplings()
        coupled = _with_cliques(coupled)
        return coupled, make_plan(coupled.edges, coupled.num_labels, self.max_treewidth, order)

    def _check(self, coupled: Potentials, plan: Elimination | None) -> Elimination:
        if plan is None and self.order is not None:
            raise TooManyLabelsError(
                f"junction tree: the given order of {coupled.num_labels} labels is wider than "
                f"{self.max_treewidth}. Leave it out, or raise max_treewidth."
            )
        if plan is None:
            width = treewidth(coupled.edges, coupled.num_labels, bound=2 * self.max_treewidth)
            raise TooManyLabelsError(
                f"junction tree: {len(coupled.edges)} edges over {coupled.num_labels} labels have "
                f"treewidth {width} as far as is found; the limit is {self.max_treewidth}, "
                f"for tables of 2**{self.max_treewidth} states. Use --inference gibbs or "
                "mean-field, choose fewer edges (a tree has treewidth 1), or in Python raise "
                "max_treewidth."
            )
        return plan


@dataclass(frozen=True)
class _Terms:
    """The potentials of some of the images, which are the last axis.

    Attributes:
        unary: (L, n).
        pairwise: (E + 1, n), or (E + 1, 1) if shared; the last row is 0, for pairs without edge.
        known: 1, 0 or -1 (L, n).
        limits: rules that couplings do not express.
    """

    unary: Tensor
    pairwise: Tensor
    known: Tensor
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class _TreeSums:
    """Sums by elimination, for `differentiation`.

    Attributes:
        plan: the order.
        known: 1, 0 or -1 (N, L).
        limits: rules that couplings do not express.
    """

    plan: Elimination
    known: Tensor
    limits: tuple[Limit, ...]

    @property
    def parts(self) -> list[slice]:
        """The images whose tables fit in memory together."""
        size, num_images = max(1, _CHUNK_ENTRIES // self.plan.entries), len(self.known)
        return [slice(at, min(at + size, num_images)) for at in range(0, num_images, size)]

    def __call__(
        self, rows: slice, unary: Tensor, pairwise: Tensor, *, pairs_wanted: bool
    ) -> Beliefs:
        """Return the beliefs of some of the images, given the potentials of all."""
        terms = self.terms(rows, unary, pairwise)
        log_partition, log_odds = _collect(self.plan, terms, torch.logaddexp)
        of_labels, of_edges = _distribute(self.plan, log_odds, pairs_wanted=pairs_wanted)
        free = terms.known == UNKNOWN
        marginals = torch.where(free, of_labels.clamp(max=1), terms.known).T
        return log_partition, marginals, of_edges.T.clamp(max=1)

    def terms(self, rows: slice, unary: Tensor, pairwise: Tensor) -> _Terms:
        """Return the potentials of some of the images."""
        couplings = pairwise[:, None] if pairwise.ndim == 1 else pairwise[rows].T
        none = couplings.new_zeros(1, couplings.shape[1])
        pairwise = torch.cat([couplings, none])
        return _Terms(unary[rows].T, pairwise, self.known[rows].T, self.limits)


def _with_cliques(coupled: Potentials) -> Potentials:
    """Return the same CRFs with an edge between all labels of each limit, after the others."""
    have = {tuple(edge) for edge in coupled.edges.tolist()}
    wanted = {
        pair
        for limit in coupled.rules.limits
        for pair in combinations(sorted(limit.labels), 2)
        if pair not in have
    }
    if not wanted:
        return coupled
    edges = torch.cat([coupled.edges, coupled.edges.new_tensor(sorted(wanted))])
    zeros = coupled.pairwise.new_zeros((*coupled.pairwise.shape[:-1], len(wanted)))
    return replace(coupled, edges=edges, pairwise=torch.cat([coupled.pairwise, zeros], -1))


def _add_limits(table: Tensor, group: Group, limits: tuple[Limit, ...]) -> None:
    """Add each limit to the table of the first of its labels to go: tables (G, 2, 2^k, n)."""
    for row, label in enumerate(group.labels.tolist()) if limits else ():
        scope = [label, *group.separators[row].tolist()]
        for limit in limits:
            if label in limit.labels and set(limit.labels).issubset(scope):
                places = [len(scope) - 1 - scope.index(one) for one in limit.labels]
                numbers = torch.arange(2 ** len(scope), device=table.device)
                bits = (numbers[:, None] >> numbers.new_tensor(places)) & 1
                added = log_weights((limit,), [bits.sum(1)])
                table[row] += added.clamp(min=_IMPOSSIBLE).view(2, -1, 1)


def _collect(
    plan: Elimination, terms: _Terms, combine: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Pass messages from the leaves to the roots.

    Args:
        combine: of the log-scores without and with a label: their log-sum, or their maximum.

    Returns:
        The log-sum or maximum over all label vectors (n,), and for each group the log-odds of its
        labels given their separators (G, 2^k, n), infinite for known labels.
    """
    absent, present = torch.zeros_like(terms.unary), terms.unary
    evidence = torch.stack(
        [
            absent.masked_fill(terms.known == 1, -torch.inf),
            present.masked_fill(terms.known == 0, -torch.inf),
        ],
        1,
    )
    messages: list[Tensor] = [absent] * len(plan.groups)
    log_odds = list(messages)
    for at, group in reversed(list(enumerate(plan.groups))):
        table = evidence[group.labels][:, :, None].repeat(1, 1, 2**group.width, 1)
        table[:, 1] += _sums_by_state(terms.pairwise[group.edges])
        for link in group.links:
            message = messages[link.group][link.children]
            total = message.new_zeros(link.num_parents, *message.shape[1:])
            total.index_add_(0, link.slots, message)
            _by_label(table, group)[link.parents] += total.view(-1, *link.axes, total.shape[-1])
        _add_limits(table, group, terms.limits)
        log_odds[at] = table[:, 1] - table[:, 0]
        messages[at] = combine(table[:, 0], table[:, 1])
    return messages[0].sum((0, 1)), log_odds


def _distribute(
    plan: Elimination, log_odds: list[Tensor], *, pairs_wanted: bool
) -> tuple[Tensor, Tensor]:
    """Return marginals of labels (L, n), and of edges (E, n) or (0, n), from the roots down."""
    num_images = log_odds[0].shape[-1]
    marginals = log_odds[0].new_empty(plan.num_labels, num_images)
    pairs = marginals.new_empty(plan.num_edges + 1, num_images)
    outside = [torch.ones_like(odds) for odds in log_odds[:1]]
    outside += [torch.empty_like(odds) for odds in log_odds[1:]]
    for group, odds, around in zip(plan.groups, log_odds, outside, strict=True):
        present = around * odds.sigmoid()
        marginals[group.labels] = present.sum(1)
        if pairs_wanted:
            pairs[group.edges] = _sums_by_label(present)
        beliefs = torch.stack([around - present, present], 1)
        for link in group.links:
            part = _by_label(beliefs, group)[link.parents]
            absent_axes = [axis for axis, size in enumerate(link.axes, 1) if size == 1]
            part = part.sum(absent_axes) if absent_axes else part
            outside[link.group][link.children] = part.flatten(1, -2)[link.slots]
    return marginals, pairs[:-1] if pairs_wanted else pairs[:0]


def _descend(
    plan: Elimination,
    log_odds: list[Tensor],
    num_samples: int,
    decide: Callable[[Tensor], Tensor],
) -> Tensor:
    """Decide each label by its log-odds given those decided before, uint8 (L, num_samples, n)."""
    num_images = log_odds[0].shape[-1]
    states = torch.zeros(
        (plan.num_labels, num_samples, num_images), dtype=torch.uint8, device=log_odds[0].device
    )
    for group, odds in zip(plan.groups, log_odds, strict=True):
        at = torch.zeros_like(states[: len(group.labels)], dtype=torch.int64)
        for separator in group.separators.T:
            at = 2 * at + states[separator]
        states[group.labels] = decide(odds.gather(1, at)).byte()
    return states


def _by_label(table: Tensor, group: Group) -> Tensor:
    """View a table (G, 2, 2^k, n) with an axis for each label: (G, 2, ..., 2, n)."""
    return table.view(len(table), *[2] * (group.width + 1), -1)


def _sums_by_state(couplings: Tensor) -> Tensor:
    """Add up couplings to a separator (G, k, n) in all its states: (G, 2^k, n).

    The first label changes slowest. The table doubles with each label, which takes 2^(k+1) sums.
    """
    total = couplings.new_zeros(len(couplings), 1, couplings.shape[-1])
    for one in reversed(couplings.unbind(1)):
        total = torch.cat([total, total + one[:, None]], 1)
    return total


def _sums_by_label(table: Tensor) -> Tensor:
    """Sum a table of separator states (G, 2^k, n) where each label is present: (G, k, n)."""
    sums = []
    while table.shape[1] > 1:
        absent, present = table.chunk(2, 1)
        sums.append(present.sum(1))
        table = absent + present
    return torch.stack(sums, 1) if sums else table[:, :0]
