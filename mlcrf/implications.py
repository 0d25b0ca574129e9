"""Implications between labels, such as dog => animal: closure, cycles, and labels made to obey."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import LabelsError
from mlcrf.labels import UNKNOWN, LabelSpace

Known = TypeVar("Known", NDArray[np.int8], NDArray[np.int64])
Label = TypeVar("Label", int, str)
Names = tuple[str, str]  # of child and parent


@dataclass(frozen=True)
class Implications:
    """Pairs of label columns (child, parent): no child is present without its parent.

    Attributes:
        pairs: in the order in which they were given, each once.

    Raises:
        LabelsError: a negative column, or labels that imply each other in a circle.
    """

    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if any(column < 0 for pair in self.pairs for column in pair):
            raise LabelsError("implications: expected columns of labels, from 0")
        cycle = find_cycle(self.pairs)
        if cycle:
            raise LabelsError(f"implications: labels {cycle} imply each other in a circle")

    @classmethod
    def from_array(cls, pairs: NDArray[np.int64]) -> "Implications":
        """Return the implications that the rows (child, parent) of an int64 array (R, 2) give.

        Raises:
            LabelsError: see above; or another shape or type.
        """
        if pairs.shape != (len(pairs), 2) or pairs.dtype != np.int64:
            raise LabelsError(
                f"implications: expected int64 (R, 2), got {pairs.dtype} {pairs.shape}"
            )
        return cls(tuple((child, parent) for child, parent in pairs.tolist()))

    @classmethod
    def from_names(cls, names: Iterable[Names], labels: LabelSpace) -> "Implications":
        """Return the implications between labels that are given by their names.

        Raises:
            LabelsError: a label that there is not, or labels that imply each other in a circle.
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
        return len(self.pairs)

    def names(self, labels: LabelSpace) -> tuple[Names, ...]:
        """Return each pair by the names of its labels."""
        return tuple((labels.names[child], labels.names[parent]) for child, parent in self.pairs)

    def renumbered(self, columns: list[int]) -> "Implications":
        """Return the same implications where our label `columns[i]` is number i."""
        place = {column: at for at, column in enumerate(columns)}
        return Implications(tuple((place[child], place[parent]) for child, parent in self.pairs))

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """The pairs, int64 (R, 2)."""
        return np.array(self.pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def num_labels(self) -> int:
        """The smallest number of labels with all these columns."""
        return 1 + max((column for pair in self.pairs for column in pair), default=-1)

    @cached_property
    def parents(self) -> dict[int, list[int]]:
        """The labels that each label implies directly, for those that imply any."""
        found: dict[int, list[int]] = {}
        for child, parent in self.pairs:
            found.setdefault(child, []).append(parent)
        return found

    @cached_property
    def closure(self) -> tuple[tuple[int, int], ...]:
        """All pairs (label, label that it implies), directly or through others, in order."""
        return tuple(
            (child, parent)
            for child in sorted(self.parents)
            for parent in sorted(self.with_parents([child]) - {child})
        )

    @cached_property
    def children_first(self) -> tuple[tuple[int, int], ...]:
        """The pairs in such an order that those into a label come before those out of it."""
        rank = {label: at for at, label in enumerate(_sorter(self.pairs).static_order())}
        return tuple(sorted(self.pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]])))

    def with_parents(self, labels: Iterable[int]) -> frozenset[int]:
        """Return the labels and all that they imply."""
        return _reachable(labels, self.pairs)

    def with_children(self, labels: Iterable[int]) -> frozenset[int]:
        """Return the labels and all that imply one of them."""
        return _reachable(labels, ((parent, child) for child, parent in self.pairs))

    def heights(self, num_labels: int) -> NDArray[np.int64]:
        """Return the length of the longest chain of pairs that ends at each label, (L,)."""
        heights = np.zeros(num_labels, dtype=np.int64)
        for child, parent in self.children_first:
            heights[parent] = max(heights[parent], heights[child] + 1)
        return heights

    def close(self, known: Known) -> Known:
        """Return what is known (N, L), made to obey; see `repair`."""
        return self.repair(known)[0]

    def repair(self, known: Known) -> tuple[Known, dict[tuple[int, int], int]]:
        """Return what is known, made to obey, and how many images broke each pair, if any did.

        The parents of a label that is present become present, even where they were absent; then
        the unknown children of a label that is absent become absent.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        known = known.copy()
        broken = {}
        for child, parent in self.children_first:
            present = known[:, child] == 1
            count = int((present & (known[:, parent] == 0)).sum())
            if count:
                broken[child, parent] = count
            known[present, parent] = 1
        for child, parent in reversed(self.children_first):
            known[(known[:, parent] == 0) & (known[:, child] == UNKNOWN), child] = 0
        return known, broken

    def contradiction(self, known: Known) -> tuple[int, int, int] | None:
        """Return an image and a pair (child, parent) of it that is broken; None if all obey.

        The child is present, or follows from others that are; the parent is absent.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        closed, broken = self.repair(known)
        for child, parent in broken:
            image = np.flatnonzero((closed[:, child] == 1) & (known[:, parent] == 0))[0]
            return int(image), child, parent
        return None


def find_cycle(pairs: Iterable[tuple[Label, Label]]) -> list[Label]:
    """Return labels each of which implies the next, ending where they began; [] if none do."""
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
    """Return the labels and all that can be reached from them by pairs (from, to)."""
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
