"""Order labels so that labels that attract each other are adjacent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from mlcrf.reports.names import readable

MOST_NAMED = 120  # labels that can all be named at a heatmap
_MOST_ORDERED = 300  # items with optimal leaf ordering, which is O(n^3)
_STRONGEST = 8  # attractions of each label used for clustering
_LEADERS = 3  # labels that name a cluster

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """Labels that attract each other.

    Attributes:
        start: position of its first label in the order.
        size: number of labels.
        leaders: up to three labels with most attraction to the others, strongest first; empty for
            the last cluster, of labels without attractions.
    """

    start: int
    size: int
    leaders: tuple[int, ...]


@dataclass(frozen=True)
class LabelOrder:
    """The order in which labels are shown.

    Attributes:
        order: labels (L,).
        clusters: successive clusters; empty if every label is named.
    """

    order: Ints
    clusters: tuple[Cluster, ...] = ()

    def place(self) -> Ints:
        """Return the position of each label (L,)."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place

    def largest_clusters(self) -> list[Cluster]:
        return sorted(self.clusters, key=lambda one: (-one.size, one.start))


def cluster_name(names: Sequence[str], cluster: Cluster, letters: int) -> str:
    """Return the names of a cluster's leaders, and its size."""
    if not cluster.leaders:
        return f"the rest ({cluster.size:,})"
    leaders = (readable(names[label], letters) for label in cluster.leaders)
    return f"{', '.join(leaders)} ({cluster.size:,})"


def given_order(num_labels: int) -> LabelOrder:
    """Return the order in which the labels are listed."""
    return LabelOrder(np.arange(num_labels))


def order_labels(edges: Ints, values: Floats, num_labels: int) -> LabelOrder:
    """Order labels by clusters of attraction.

    Up to 120 labels are ordered by `cluster_order`. With more, a graph of each label's eight
    strongest attractions is split into communities of greatest modularity (Blondel et al. 2008);
    communities, and the labels within each, are ordered by `cluster_order`.

    Args:
        edges: pairs i < j (E, 2); values: their couplings (E,).

    Cost: O(E log E). Deterministic.
    """
    if num_labels <= MOST_NAMED:
        matrix = np.zeros((num_labels, num_labels))
        matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = values
        return LabelOrder(cluster_order(matrix))
    pairs, weights = _strongest_attractions(edges, values, num_labels)
    groups = _communities(pairs, weights, num_labels)
    group_of = np.full(num_labels, -1)
    for number, group in enumerate(groups):
        group_of[group] = number
    between = _between(edges, values, group_of, groups)
    strength = np.zeros(num_labels)
    inside = group_of[pairs[:, 0]] == group_of[pairs[:, 1]]
    for end in (0, 1):
        np.add.at(strength, pairs[inside, end], weights[inside])
    ordered: list[Ints] = []
    clusters: list[Cluster] = []
    for number in cluster_order(between).tolist():
        group = _ordered_within(groups[number], pairs, weights, num_labels)
        leaders = groups[number][np.argsort(-strength[groups[number]], kind="stable")][:_LEADERS]
        clusters.append(Cluster(sum(map(len, ordered)), len(group), tuple(leaders.tolist())))
        ordered.append(group)
    rest = np.flatnonzero(group_of < 0)
    if len(rest):
        clusters.append(Cluster(num_labels - len(rest), len(rest), ()))
    return LabelOrder(np.concatenate([*ordered, rest]), tuple(clusters))


def cluster_order(matrix: Floats) -> Ints:
    """Return an order in which labels that attract each other are adjacent.

    Average linkage, up to 300 labels with optimal leaf order (Bar-Joseph et al. 2001), on the
    distance max(matrix) - matrix_ij. Fewer than three labels are not reordered.
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    distance = np.nanmax(matrix) - np.nan_to_num(matrix)
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    tree = linkage(condensed, "average")
    if len(matrix) <= _MOST_ORDERED:
        tree = optimal_leaf_ordering(tree, condensed)
    order: Ints = leaves_list(tree).astype(np.int64)
    return order


def _strongest_attractions(
    edges: Ints, values: Floats, num_labels: int
) -> tuple[Ints, NDArray[np.float64]]:
    """Return pairs among the strongest attractions of either label, and their couplings."""
    above = np.flatnonzero(values > 0)
    ends = edges[above].T.ravel()  # each coupling twice, once for each of its labels
    order = np.lexsort((-np.tile(values[above], 2), ends))
    counts = np.bincount(ends, minlength=num_labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    among = order[np.arange(len(order)) - first < _STRONGEST]
    kept = above[np.unique(among % max(1, len(above)))]
    return edges[kept], values[kept]


def _communities(pairs: Ints, weights: Floats, num_labels: int) -> list[Ints]:
    """Split labels into communities of two labels or more."""
    import networkx as nx  # loaded only here, because that takes a fifth of a second

    graph = nx.Graph()
    graph.add_nodes_from(range(num_labels))
    graph.add_weighted_edges_from(
        (first, second, weight)
        for (first, second), weight in zip(pairs.tolist(), weights.tolist(), strict=True)
    )
    found: Iterable[set[int]] = nx.community.louvain_communities(graph, seed=0)
    groups = [np.array(sorted(one), dtype=np.int64) for one in found if len(one) > 1]
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def _between(edges: Ints, values: Floats, group_of: Ints, groups: list[Ints]) -> Floats:
    """Return the mean coupling between each pair of communities."""
    total = np.zeros((len(groups), len(groups)))
    first, second = group_of[edges[:, 0]], group_of[edges[:, 1]]
    apart = (first >= 0) & (second >= 0) & (first != second)
    np.add.at(total, (first[apart], second[apart]), values[apart])
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    mean: Floats = (total + total.T) / np.outer(sizes, sizes)
    return mean


def _ordered_within(group: Ints, pairs: Ints, weights: Floats, num_labels: int) -> Ints:
    place = np.full(num_labels, -1)
    place[group] = np.arange(len(group))
    ends = place[pairs]
    inside = (ends >= 0).all(1)
    matrix = np.zeros((len(group), len(group)))
    matrix[ends[inside, 0], ends[inside, 1]] = weights[inside]
    ordered: Ints = group[cluster_order(matrix + matrix.T)]
    return ordered
