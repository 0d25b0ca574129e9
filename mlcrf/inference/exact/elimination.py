"""Elimination order of a sparse label graph, grouped so that many labels are eliminated at once.

Eliminating a label connects all its remaining neighbours, which form its separator. The largest
separator size is the width of the order. The smallest width over all orders is the treewidth, which
is expensive to compute, so labels are eliminated greedily by min-fill: always the label that would
add the fewest new edges. This is optimal for forests, cycles and other chordal graphs, and close to
optimal for nearly chordal graphs.

networkx's `treewidth_min_fill_in` scans all labels at each step and cannot stop early: it took 22 s
for 1,000 labels with 4,000 edges; this code needs 0.1 s to report that such a graph is too wide.

Source: Koller and Friedman (2009), section 9.4.3 for min-fill, 10.1 for the tree of separators.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import combinations

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Link:
    """The messages of labels of one group to their parents in another, nearer to the root.

    Attributes:
        group: position of the children's group.
        children: their positions in that group (C,), or all of them.
        parents: positions of the distinct parents in the parents' group (P,), or all of them.
        slots: the parent of each child, as a position among them (C,), below P.
        num_parents: P.
        axes: of the parent and its separator, 2 for a label in the child's separator, else 1.
    """

    group: int
    children: Tensor | slice
    parents: Tensor | slice
    slots: Tensor
    num_parents: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Labels of one depth and separator size k, eliminated together.

    Attributes:
        labels: (G,).
        separators: remaining neighbours of each label, in order of elimination (G, k).
        edges: the edge to each separator label, or E if there is no such edge (G, k).
        links: messages from the groups one level deeper.
    """

    labels: Tensor
    separators: Tensor
    edges: Tensor
    links: tuple[Link, ...]

    @property
    def width(self) -> int:
        return self.separators.shape[1]


@dataclass(frozen=True)
class Elimination:
    """The groups by rising depth: roots come first, and links come from later groups.

    Attributes:
        groups: all labels, each once.
        num_labels: L.
        num_edges: E.
        entries: total table size of all separators, per image.
    """

    groups: tuple[Group, ...]
    num_labels: int
    num_edges: int
    entries: int


def treewidth(edges: Tensor, num_labels: int, *, bound: int = 32) -> int:
    """Return the width of the min-fill order, an upper bound on the treewidth.

    Args:
        edges: label pairs i < j, int64 (E, 2).
        bound: stop when every remaining label has more neighbours than this, and count the
            remaining labels as one clique. The result is then above `bound`, a loose upper bound.

    Returns:
        0 without edges, 1 for a forest, 2 for a cycle, num_labels - 1 for the full graph.

    Cost: none where edges are too many for `bound`; else O(E + L bound^3), which for 5,000 labels
    is 30 ms for a tree, and for 50,000 edges 0.2 s at a bound of 16 and 2 s at 32.
    """
    reach = min(bound, max(num_labels - 2, 0))  # only the full graph is wider
    if len(edges) > reach * num_labels - reach * (reach + 1) // 2:  # too many for this width
        return num_labels - 1
    width, left = 0, num_labels
    for _, around in eliminate(edges, num_labels, reach):
        width, left = max(width, len(around)), left - 1
        if left - 1 <= width:  # the remaining labels cannot be wider
            break
    return max(width, left - 1)


def eliminate(edges: Tensor, num_labels: int, bound: int) -> Iterator[tuple[int, set[int]]]:
    """Yield labels by min-fill, each with its remaining neighbours.

    Ties are broken by the height of the eliminated labels below, which roots a tree at its centre,
    then by number. Stops early if all remaining labels have more than `bound` neighbours.
    """
    near: list[set[int]] = [set() for _ in range(num_labels)]
    for first, second in edges.tolist():
        near[first].add(second)
        near[second].add(first)
    height = [0] * num_labels

    def rank(label: int) -> tuple[int, int, int] | None:
        around = near[label]
        if len(around) > bound:  # not now; eliminating neighbours may change that
            return None
        joined = sum(len(near[other] & around) for other in around)
        return (len(around) * (len(around) - 1) - joined) // 2, height[label], label

    ranks = [rank(label) for label in range(num_labels)]
    heap = [entry for entry in ranks if entry is not None]
    heapify(heap)
    while heap:
        entry = heappop(heap)
        label = entry[2]
        if entry != ranks[label]:
            continue  # its rank has changed since
        around = near[label]
        yield label, around
        ranks[label] = None
        changed = set(around)
        for other in around:
            near[other].discard(label)
            height[other] = max(height[other], height[label] + 1)
        for one, other in combinations(sorted(around), 2):
            if other not in near[one]:
                changed |= near[one] & near[other]
                near[one].add(other)
                near[other].add(one)
        for other in changed:
            ranks[other] = new = rank(other)
            if new is not None:
                heappush(heap, new)


def make_plan(edges: Tensor, num_labels: int, max_width: int) -> Elimination | None:
    """Plan the elimination of all labels, on the device of the edges; None if it is too wide.

    Plans of recent edge sets are cached.
    """
    key = edges.cpu().contiguous().numpy().tobytes()
    return _cached_plan(key, num_labels, max_width, str(edges.device))


@lru_cache(maxsize=16)
def _cached_plan(key: bytes, num_labels: int, max_width: int, device: str) -> Elimination | None:
    edges = torch.from_numpy(np.frombuffer(key, dtype=np.int64).reshape(-1, 2).copy())
    if len(edges) > max_width * num_labels:  # more than any graph of this width has
        return None
    order = [(label, sorted(around)) for label, around in eliminate(edges, num_labels, max_width)]
    if len(order) < num_labels:
        return None
    return _Grouping(edges, order).plan(torch.device(device))


class _Grouping:
    """The labels of an elimination order, by depth below their root and separator size."""

    def __init__(self, edges: Tensor, order: list[tuple[int, list[int]]]) -> None:
        turn = {label: at for at, (label, _) in enumerate(order)}
        self.separators = {label: sorted(around, key=turn.__getitem__) for label, around in order}
        self.edges = {(i, j): at for at, (i, j) in enumerate(edges.tolist())}
        depth: dict[int, int] = {}
        keys = []
        for label, _ in reversed(order):
            separator = self.separators[label]
            depth[label] = depth[separator[0]] + 1 if separator else 0
            keys.append((depth[label], len(separator), label))
        self.members: list[list[int]] = []
        self.place: dict[int, tuple[int, int]] = {}  # label -> its group and its position there
        last = None
        for *group, label in sorted(keys):
            if group != last:
                self.members.append([])
                last = group
            self.place[label] = (len(self.members) - 1, len(self.members[-1]))
            self.members[-1].append(label)

    def plan(self, device: torch.device) -> Elimination:
        links = self._links(device)

        def tensor(rows: list[list[int]]) -> Tensor:
            return torch.tensor(rows, dtype=torch.int64, device=device)

        groups = tuple(
            Group(
                labels=torch.tensor(labels, device=device),
                separators=tensor([self.separators[label] for label in labels]),
                edges=tensor([self._edges_of(label) for label in labels]),
                links=tuple(links[at]),
            )
            for at, labels in enumerate(self.members)
        )
        entries = sum(2 ** len(separator) for separator in self.separators.values())
        return Elimination(groups, len(self.place), len(self.edges), entries)

    def _edges_of(self, label: int) -> list[int]:
        pairs = [(min(label, other), max(label, other)) for other in self.separators[label]]
        return [self.edges.get(pair, len(self.edges)) for pair in pairs]

    def _links(self, device: torch.device) -> dict[int, list[Link]]:
        """Return links by the parents' group; children of equal axes share a link."""
        alike: dict[tuple[int, int, tuple[int, ...]], list[tuple[int, int]]] = defaultdict(list)
        for label, (group, position) in self.place.items():
            separator = self.separators[label]
            if separator:
                parent = separator[0]
                scope = [parent, *self.separators[parent]]
                axes = tuple(2 if other in separator else 1 for other in scope)
                parent_group, parent_position = self.place[parent]
                alike[parent_group, group, axes].append((position, parent_position))
        links: dict[int, list[Link]] = defaultdict(list)
        for (parent_group, group, axes), pairs in alike.items():
            children, parents = np.array(sorted(pairs)).T
            distinct, slots = np.unique(parents, return_inverse=True)
            links[parent_group].append(
                Link(
                    group=group,
                    children=_positions(children, len(self.members[group]), device),
                    parents=_positions(distinct, len(self.members[parent_group]), device),
                    slots=torch.from_numpy(slots).to(device),
                    num_parents=len(distinct),
                    axes=axes,
                )
            )
        return links


def _positions(wanted: np.ndarray, size: int, device: torch.device) -> Tensor | slice:
    """Return rising positions below `size`, or a slice, which copies nothing, if they are all."""
    return slice(None) if len(wanted) == size else torch.from_numpy(wanted).to(device)
