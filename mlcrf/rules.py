"""Implications between labels, such as dog => animal: closure, cycles, and repair of labels."""

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
Names = tuple[str, str]  # child and parent


@dataclass(frozen=True)
class Rules:
    """Pairs of label columns (child, parent): no child is present without its parent.

    Attributes:
        pairs: each once, in the given order.

    Raises:
        LabelsError: a negative column, or labels that imply each other in a circle.
    """

    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if any(column < 0 for pair in self.pairs for column in pair):
            raise LabelsError("rules: expected columns of labels, from 0")
        cycle = find_cycle(self.pairs)
        if cycle:
            raise LabelsError(f"rules: labels {cycle} imply each other in a circle")

    @classmethod
    def from_array(cls, pairs: NDArray[np.int64]) -> "Rules":
        """Return the rules in the rows (child, parent) of an int64 array (R, 2).

        Raises:
            LabelsError: see above; or wrong shape or type.
        """
        if pairs.shape != (len(pairs), 2) or pairs.dtype != np.int64:
            raise LabelsError(f"rules: expected int64 (R, 2), got {pairs.dtype} {pairs.shape}")
        return cls(tuple((child, parent) for child, parent in pairs.tolist()))

    @classmethod
    def from_names(cls, names: Iterable[Names], labels: LabelSpace) -> "Rules":
        """Return the rules between labels given by name.

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
        return len(self.pairs)

    def names(self, labels: LabelSpace) -> tuple[Names, ...]:
        """Return the pairs as label names."""
        return tuple((labels.names[child], labels.names[parent]) for child, parent in self.pairs)

    def renumbered(self, columns: list[int]) -> "Rules":
        """Return the rules after renumbering: label `columns[i]` becomes i."""
        place = {column: at for at, column in enumerate(columns)}
        return Rules(tuple((place[child], place[parent]) for child, parent in self.pairs))

    def among(self, columns: list[int]) -> "Rules":
        """Return the rules between some of the labels, `columns[i]` becoming i."""
        kept = set(columns)
        inner = tuple(pair for pair in self.pairs if kept.issuperset(pair))
        return Rules(inner).renumbered(columns)

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """The pairs, int64 (R, 2)."""
        return np.array(self.pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def num_labels(self) -> int:
        """The smallest number of labels that contains all columns."""
        return 1 + max((column for pair in self.pairs for column in pair), default=-1)

    @cached_property
    def parents(self) -> dict[int, list[int]]:
        """Label -> the labels that it implies directly."""
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

    def close(self, known: Known) -> Known:
        """Return known labels (N, L) that obey the rules; see `repair`."""
        return self.repair(known)[0]

    def repair(self, known: Known) -> tuple[Known, dict[tuple[int, int], int]]:
        """Return known labels that obey, and for each broken pair the number of images.

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
        """Return (image, child, parent) of a broken implication; None if all images obey.

        The child is present, or follows from present labels; the parent is absent.

        Args:
            known: 1 present, 0 absent, -1 unknown (N, L).
        """
        closed, broken = self.repair(known)
        for child, parent in broken:
            image = np.flatnonzero((closed[:, child] == 1) & (known[:, parent] == 0))[0]
            return int(image), child, parent
        return None


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
