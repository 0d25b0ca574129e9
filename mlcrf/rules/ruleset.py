"""Rules between labels as one value: what follows from known labels, and what breaks the rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import LabelsError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules.limit import Limit, quoted

Known = TypeVar("Known", NDArray[np.int8], NDArray[np.int64])
Label = TypeVar("Label", int, str)
Names = tuple[str, str]  # child and parent
Pair = tuple[int, int]  # columns of child and parent
Rule = Pair | Limit
_MOST = 2**13  # states of linked labels that are held to settle labels
_AT_ONCE = 1024  # rows that are settled together


class Broken(NamedTuple):
    """A rule that known labels break, in the first image where they do."""

    image: int
    rule: Rule


@dataclass(frozen=True)
class Rules:
    """Rules between labels: implications, and limits on groups of labels.

    An implication (child, parent) says that no child is present without its parent. A limit says
    how many labels of a group are present; a soft one may be broken at a cost.

    Attributes:
        pairs: the implications, label columns (child, parent), each once, in the given order.
        limits: the limits, in the given order.

    Raises:
        LabelsError: a negative column, or labels that imply each other in a circle.
    """

    pairs: tuple[Pair, ...] = ()
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if any(column < 0 for pair in self.pairs for column in pair):
            raise LabelsError("rules: expected columns of labels, from 0")
        cycle = find_cycle(self.pairs)
        if cycle:
            raise LabelsError(f"rules: labels {cycle} imply each other in a circle")

    @classmethod
    def from_array(cls, pairs: NDArray[np.int64], limits: tuple[Limit, ...] = ()) -> "Rules":
        """Return rules with the implications in the rows (child, parent) of an int64 array (R, 2).

        Raises:
            LabelsError: see above; or wrong shape or type.
        """
        if pairs.shape != (len(pairs), 2) or pairs.dtype != np.int64:
            raise LabelsError(f"rules: expected int64 (R, 2), got {pairs.dtype} {pairs.shape}")
        return cls(tuple((child, parent) for child, parent in pairs.tolist()), limits)

    @classmethod
    def from_names(cls, names: Iterable[Names], labels: LabelSpace) -> "Rules":
        """Return the implications between labels given by name.

        Raises:
            LabelsError: an unknown label, or labels that imply each other in a circle.
        """
        given = list(names)
        column = {name: at for at, name in enumerate(labels)}
        for name in sorted({name for pair in given for name in pair} - set(column)):
            labels.index(name)  # raises, and suggests the closest
        cycle = find_cycle(given)
        if cycle:
            raise LabelsError(f"labels imply each other in a circle: {' => '.join(cycle)}")
        return cls(tuple((column[child], column[parent]) for child, parent in given))

    def __len__(self) -> int:
        return len(self.pairs) + len(self.limits)

    @property
    def all(self) -> tuple[Rule, ...]:
        """The implications, then the limits."""
        return (*self.pairs, *self.limits)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The labels that each rule names."""
        return (*self.pairs, *(limit.labels for limit in self.limits))

    @property
    def hard_limits(self) -> tuple[Limit, ...]:
        return tuple(limit for limit in self.limits if limit.is_hard)

    @property
    def at_most(self) -> "Rules":
        """The hard rules without what they ask to be present: for sets that are not complete."""
        limits = (
            Limit(limit.labels, 0, limit.most)
            for limit in self.hard_limits
            if limit.most < len(limit.labels)
        )
        return Rules(self.pairs, tuple(limits))

    def names(self, labels: LabelSpace) -> tuple[Names, ...]:
        """Return the implications as label names."""
        return tuple((labels.names[child], labels.names[parent]) for child, parent in self.pairs)

    def lines(self, names: Sequence[str]) -> list[str]:
        """Return the rules as lines that `read_rules` reads; `names` are those of all labels."""
        return [rule_text(rule, names) for rule in self.all]

    def renumbered(self, columns: list[int]) -> "Rules":
        """Return the rules after renumbering: label `columns[i]` becomes i."""
        place = {column: at for at, column in enumerate(columns)}
        return Rules(
            tuple((place[child], place[parent]) for child, parent in self.pairs),
            tuple(limit.renumbered(place) for limit in self.limits),
        )

    def among(self, columns: list[int]) -> "Rules":
        """Return the rules that name none but some of the labels, `columns[i]` becoming i."""
        kept = set(columns)
        inner = tuple(pair for pair in self.pairs if kept.issuperset(pair))
        limits = tuple(limit for limit in self.limits if kept.issuperset(limit.labels))
        return Rules(inner, limits).renumbered(columns)

    def without_others(self, columns: list[int]) -> "Rules":
        """Return what the rules say of some of the labels if nothing is known of the others.

        `columns[i]` becomes i. A label implies what it implied through others; of a group that
        loses labels, only how many may be present is left.
        """
        kept = set(columns)
        limits = []
        for limit in self.limits:
            labels = tuple(label for label in limit.labels if label in kept)
            if len(labels) == len(limit.labels):
                limits.append(limit)
            elif len(labels) > limit.most:
                limits.append(Limit(labels, 0, limit.most, limit.weight))
        return Rules(self.closure, tuple(limits)).among(columns)

    def disagreement(self, known: NDArray[np.int64]) -> frozenset[int]:
        """Return the known labels of one image (L,) that together break a hard rule; none if fine.

        Of an implication child and parent; of a limit the labels that are too many, or all that
        are absent; all known labels that rules name if rules contradict only together.
        """
        found = {
            label
            for child, parent in self.closure
            if known[child] == 1 and known[parent] == 0
            for label in (child, parent)
        }
        for limit in self.hard_limits:
            present = [label for label in limit.labels if known[label] == 1]
            absent = [label for label in limit.labels if known[label] == 0]
            if len(present) > limit.most:
                found.update(present)
            if len(limit.labels) - len(absent) < limit.least:
                found.update(absent)
        left = known.copy()
        left[sorted(found)] = UNKNOWN
        if self.limits and self.contradiction(left[None]) is not None:
            found.update(
                label for group in self.groups for label in group if known[label] != UNKNOWN
            )
        return frozenset(found)

    def given(self, known: Sequence[int], columns: list[int]) -> "Rules":
        """Return the rules for some of the labels, given the others: `columns[i]` becomes i.

        Args:
            known: 1, 0 and -1 for all labels, closed under the rules; not -1 for the others.
        """
        kept, place = set(columns), {column: at for at, column in enumerate(columns)}
        pairs = tuple((place[c], place[p]) for c, p in self.pairs if c in kept and p in kept)
        left = (
            limit.given(sum(known[one] == 1 for one in limit.labels if one not in kept), columns)
            for limit in self.limits
        )
        return Rules(pairs, tuple(limit.renumbered(place) for limit in left if limit is not None))

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """The pairs, int64 (R, 2)."""
        return np.array(self.pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def num_labels(self) -> int:
        """The smallest number of labels that contains all columns."""
        return 1 + max((column for group in self.groups for column in group), default=-1)

    @cached_property
    def parents(self) -> dict[int, list[int]]:
        """Label -> the labels that it implies directly."""
        found: dict[int, list[int]] = {}
        for child, parent in self.pairs:
            found.setdefault(child, []).append(parent)
        return found

    @cached_property
    def closure(self) -> tuple[Pair, ...]:
        """All pairs (label, label that it implies), directly or through others, in order."""
        return tuple(
            (child, parent)
            for child in sorted(self.parents)
            for parent in sorted(self.with_parents([child]) - {child})
        )

    @cached_property
    def children_first(self) -> tuple[tuple[int, int], ...]:
        """The pairs, ordered so that a label's pairs as parent precede its pairs as child."""
        rank = {label: at for at, label in enumerate(_sorter(self.pairs).static_order())}
        return tuple(sorted(self.pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]])))

    def with_parents(self, labels: Iterable[int]) -> frozenset[int]:
        """Return the labels and all labels that they imply."""
        return _reachable(labels, self.pairs)

    def with_children(self, labels: Iterable[int]) -> frozenset[int]:
        """Return the labels and all labels that imply one of them."""
        return _reachable(labels, ((parent, child) for child, parent in self.pairs))

    def heights(self, num_labels: int) -> NDArray[np.int64]:
        """Return the length of the longest chain of pairs that ends at each label, (L,)."""
        heights = np.zeros(num_labels, dtype=np.int64)
        for child, parent in self.children_first:
            heights[parent] = max(heights[parent], heights[child] + 1)
        return heights

    def linked(self, num_labels: int) -> list[list[int]]:
        """Return the groups of labels that hard rules link, each in order, by first labels."""
        return link(num_labels, (*self.pairs, *(limit.labels for limit in self.hard_limits)))

    def close(self, known: Known) -> Known:
        """Return known labels (N, L) with what follows from them.

        Parents of a present label are present, children of an absent label absent; in a group that
        holds as many labels as it may, the others are absent, and present in one that needs them.
        Of labels that several rules link, what all their states have that agree; up to 2^12 states,
        beyond which something may follow that is left unknown.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        known = self._propagate(known)
        for labels, states in self._entangled:
            _settle(known, labels, states)
        return known

    def _propagate(self, known: Known) -> Known:
        """Return known labels (N, L) with what follows by one rule after the other."""
        known = self._with_parents(known.copy())[0]
        while True:
            before = known.copy()
            for child, parent in reversed(self.children_first):
                known[(known[:, parent] == 0) & (known[:, child] == UNKNOWN), child] = 0
            for limit in self.hard_limits:
                _fill(known, limit)
            if not self.limits or np.array_equal(before, known):
                return known
            for child, parent in self.children_first:
                known[(known[:, child] == 1) & (known[:, parent] == UNKNOWN), parent] = 1

    @cached_property
    def _entangled(self) -> list[tuple[list[int], NDArray[np.uint8]]]:
        """Labels that a hard limit and other hard rules link, with their states, if few."""
        from mlcrf.rules.states import list_states  # which needs rules

        found = []
        for labels in self.linked(self.num_labels) if self.hard_limits else ():
            own = self.among(labels)
            if own.hard_limits and len(own.pairs) + len(own.hard_limits) > 1:
                states = list_states(labels, self, most=_MOST)
                if states is not None:
                    found.append((labels, states))
        return found

    def repair(self, known: Known) -> tuple[Known, dict[Rule, NDArray[np.int64]]]:
        """Return known labels that obey, and for each broken rule the images that broke it.

        The parents of a label that is present become present, even where they were absent. Where a
        limit is broken nobody knows which label is wrong: those that break it become unknown, or,
        if rules contradict only together, all labels that rules name. Then `close`.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        known, broken = self._with_parents(known.copy())
        for limit in self.hard_limits:
            known = self._forget(known, limit, broken)
        linked = sorted({label for group in self.groups for label in group})
        for image, rule in self._contradictions(known):
            known[image, linked] = UNKNOWN
            broken[rule] = np.union1d(broken.get(rule, np.array([], dtype=np.int64)), image)
        return self.close(known), broken

    def contradiction(self, known: Known) -> Broken | None:
        """Return the first image that no label set agrees with, and a rule that it breaks.

        Of an implication the child is present, or follows from present labels, and the parent is
        absent. None if all images obey.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        return min(self._contradictions(known), default=None, key=lambda one: one.image)

    def completion(self, known: Known) -> Known | None:
        """Return a label set of one image (L,) that agrees with what is known; None if none does.

        Labels that no rule asks for are absent.
        """
        closed = self._propagate(known[None])
        if ((known != UNKNOWN) & (closed[0] != known)).any() or self._is_broken(closed):
            return None
        row: Known = closed[0]
        for limit in self.hard_limits:
            group = list(limit.labels)
            if (row[group] == 1).sum() < limit.least:
                label = next(label for label in group if row[label] == UNKNOWN)
                for value in (1, 0):
                    tried = row.copy()
                    tried[label] = value
                    found = self.completion(tried)
                    if found is not None:
                        return found
                return None
        return np.where(row == UNKNOWN, 0, row).astype(row.dtype)

    def obeyed_by(self, states: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return for which label sets (..., L) no hard rule is broken."""
        fine = np.ones(states.shape[:-1], dtype=bool)
        for child, parent in self.pairs:
            fine &= states[..., child] <= states[..., parent]
        for limit in self.hard_limits:
            fine &= ~limit.is_broken(states[..., list(limit.labels)].sum(-1, dtype=np.int64))
        return fine

    def _with_parents(self, known: Known) -> tuple[Known, dict[Rule, NDArray[np.int64]]]:
        """Set the parents of present labels, in place; return the images that broke each pair."""
        broken: dict[Rule, NDArray[np.int64]] = {}
        for child, parent in self.children_first:
            present = known[:, child] == 1
            wrong = np.flatnonzero(present & (known[:, parent] == 0))
            if len(wrong):
                broken[child, parent] = wrong
            known[present, parent] = 1
        return known, broken

    def _forget(self, known: Known, limit: Limit, broken: dict[Rule, NDArray[np.int64]]) -> Known:
        """Make the labels unknown that break a limit, and record the images."""
        group = list(limit.labels)
        present, absent = (known[:, group] == 1).sum(1), (known[:, group] == 0).sum(1)
        many, few = present > limit.most, len(group) - absent < limit.least
        for rows, value, related in (
            (many, 1, self.with_children(group)),
            (few, 0, self.with_parents(group)),
        ):
            columns = np.array(sorted(related))
            cells = np.ix_(np.flatnonzero(rows), columns)
            known[cells] = np.where(known[cells] == value, UNKNOWN, known[cells])
        if (many | few).any():
            broken[limit] = np.flatnonzero(many | few)
        return known

    def _contradictions(self, known: Known) -> list[Broken]:
        """Return a broken rule of every image that no label set agrees with."""
        closed = self.close(known)
        found = []
        absent = known == 0
        for child, parent in self.children_first:
            wrong = (closed[:, child] == 1) & (absent[:, parent] | (closed[:, parent] == 0))
            found += [Broken(image, (child, parent)) for image in np.flatnonzero(wrong).tolist()]
        open_rows: dict[bytes, list[tuple[int, Limit]]] = {}
        for limit in self.hard_limits:
            group = closed[:, list(limit.labels)]
            present, possible = (group == 1).sum(1), (group != 0).sum(1)
            wrong = (present > limit.most) | (possible < limit.least)
            found += [Broken(image, limit) for image in np.flatnonzero(wrong).tolist()]
            for image in np.flatnonzero(present < limit.least).tolist():
                open_rows.setdefault(closed[image].tobytes(), []).append((image, limit))
        for rows in open_rows.values():
            if self.completion(closed[rows[0][0]]) is None:
                found += [Broken(image, limit) for image, limit in rows]
        return list({one.image: one for one in reversed(found)}.values())

    def _is_broken(self, closed: Known) -> bool:
        """Return whether a rule is broken for certain in labels that are closed (1, L)."""
        if any(((closed[:, c] == 1) & (closed[:, p] == 0)).any() for c, p in self.pairs):
            return True
        for limit in self.hard_limits:
            group = closed[:, list(limit.labels)]
            present, possible = (group == 1).sum(1), (group != 0).sum(1)
            if ((present > limit.most) | (possible < limit.least)).any():
                return True
        return False


def rule_text(rule: Rule, names: Sequence[str]) -> str:
    """Return a rule as a line of text; `names` are those of all labels."""
    if isinstance(rule, Limit):
        return rule.text(names)
    return " => ".join(quoted(names[label]) for label in rule)


def link(num_labels: int, groups: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Return labels by the group that they belong to if groups that share a label are one."""
    group = {label: [label] for label in range(num_labels)}
    for first, *others in groups:
        for other in others:
            smaller, larger = sorted((group[first], group[other]), key=len)
            if smaller is not larger:
                larger += smaller
                group |= dict.fromkeys(smaller, larger)
    return [sorted(one) for one in {id(one): one for one in group.values()}.values()]


def _settle(known: Known, labels: list[int], states: NDArray[np.uint8]) -> None:
    """Set the unknown labels that have one value in all states that agree, in place."""
    rows, which = np.unique(known[:, labels], axis=0, return_inverse=True)
    present = states.astype(np.float32)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        wrong = (some == 0) @ present.T + (some == 1) @ (1 - present).T
        agrees = (wrong == 0).astype(np.float32)
        count, having = agrees.sum(1, keepdims=True), agrees @ present
        unknown = (some == UNKNOWN) & (count > 0)
        some[unknown & (having == count)] = 1
        some[unknown & (having == 0)] = 0
    known[:, labels] = rows[which.reshape(-1)]


def _fill(known: Known, limit: Limit) -> None:
    """Set the unknown labels of a group that its limit settles, in place."""
    group = list(limit.labels)
    inner = known[:, group]
    unknown = inner == UNKNOWN
    full = (inner == 1).sum(1) >= limit.most
    needed = (inner != 0).sum(1) <= limit.least
    inner[full[:, None] & unknown] = 0
    inner[(needed & ~full)[:, None] & unknown] = 1
    known[:, group] = inner


def find_cycle(pairs: Iterable[tuple[Label, Label]]) -> list[Label]:
    """Return a cycle of labels, each implying the next, first equal to last; [] if none."""
    try:
        _sorter(pairs).prepare()
    except CycleError as error:
        found: list[Label] = error.args[1]
        return found
    return []


def _sorter(pairs: Iterable[tuple[Label, Label]]) -> "TopologicalSorter[Label]":
    """Return a sorter that gives children before parents."""
    sorter: TopologicalSorter[Label] = TopologicalSorter()
    for child, parent in pairs:
        sorter.add(parent, child)
    return sorter


def _reachable(labels: Iterable[int], pairs: Iterable[tuple[int, int]]) -> frozenset[int]:
    """Return the labels and all labels reachable by pairs (from, to)."""
    following: dict[int, list[int]] = {}
    for one, other in pairs:
        following.setdefault(one, []).append(other)
    found: set[int] = set()
    left = list(labels)
    while left:
        label = left.pop()
        if label not in found:
            found.add(label)
            left += following.get(label, ())
    return frozenset(found)
