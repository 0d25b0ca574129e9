"""Spanning trees of the label graph: the share of trees that contain each edge, by direction."""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

_DENSE_LABELS = 512  # largest component for which effective resistances are computed
_LEAST_TREES = 16  # drawn for a larger component; more until each edge is in a tree
Array = NDArray[Any]


def tree_shares(edges: Tensor, num_labels: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the share of spanning trees, with a uniform root, with each edge, by direction.

    Returns:
        For each arc the share in which its source is the child of its target, (2 E,), arcs as in
        `Network`: both of an edge add up to its appearance probability. For each label the share
        in which it is the root of its component (L,). Both float64, all above 0.
    """
    child, root = _tree_shares(edges.cpu().numpy().tobytes(), num_labels, seed)
    return torch.tensor(child), torch.tensor(root)


@lru_cache(maxsize=8)
def _tree_shares(edge_bytes: bytes, num_labels: int, seed: int) -> tuple[Array, Array]:
    edges = np.frombuffer(edge_bytes, dtype=np.int64).reshape(-1, 2)
    component = scipy.sparse.csgraph.connected_components(
        _graph(edges, num_labels), directed=False
    )[1]
    size = np.bincount(component)[component]
    child = np.empty((2, len(edges)))
    large = size[edges[:, 0]] > _DENSE_LABELS
    if large.any():
        child[:, large] = _drawn_shares(edges[large], component, seed)
    small = np.flatnonzero(~large)
    small = small[np.argsort(component[edges[small, 0]], kind="stable")]
    starts = np.flatnonzero(np.diff(component[edges[small, 0]])) + 1
    for group in np.split(small, starts) if len(small) else []:
        labels, ends = np.unique(edges[group], return_inverse=True)
        child[:, group] = _uniform_shares(ends.reshape(-1, 2), len(labels))
    return child.reshape(-1), 1 / size


def _graph(edges: Array, num_labels: int, weight: Array | None = None) -> "scipy.sparse.csr_array":
    weight = np.ones(len(edges)) if weight is None else weight
    return scipy.sparse.csr_array((weight, edges.T), shape=(num_labels, num_labels))


def _uniform_shares(edges: Array, num_labels: int) -> Array:
    """Return the shares for uniform spanning trees of a connected graph (2, E).

    By the matrix-tree theorem i is the child of j in a share K_ii - K_ij of them, where K is the
    pseudo-inverse of the Laplacian; a constant added to it cancels.
    """
    first, second = edges.T
    laplacian = np.full((num_labels, num_labels), 1 / num_labels)
    np.add.at(laplacian, (edges, edges), 1.0)
    np.add.at(laplacian, (edges, edges[:, ::-1]), -1.0)
    inverse = np.linalg.inv(laplacian)
    across = inverse[first, second]
    return np.stack([inverse[first, first] - across, inverse[second, second] - across])


def _drawn_shares(edges: Array, component: Array, seed: int) -> Array:
    """Return the shares among trees that prefer rarely used edges, until all are used (2, E)."""
    num_labels = len(component)
    generator = np.random.default_rng(seed)
    used = np.zeros(len(edges))
    child = np.zeros((2, len(edges)))
    key = edges @ [num_labels, 1]
    by_key = np.argsort(key)
    trees = 0
    while trees < _LEAST_TREES or not used.all():
        weight = 1 + used + generator.random(len(edges))
        tree = scipy.sparse.csgraph.minimum_spanning_tree(_graph(edges, num_labels, weight)).tocoo()
        chosen = by_key[np.searchsorted(key, tree.row * num_labels + tree.col, sorter=by_key)]
        used[chosen] += 1
        child[:, chosen] += _rooted_shares(edges[chosen], component)
        trees += 1
    return child / trees


def _rooted_shares(tree: Array, component: Array) -> Array:
    """Return the shares of one spanning forest over all roots of each component (2, E).

    An end is the child if the root is on the other side: a share of the labels there.
    """
    top = len(component)  # one label above all joins one of each component: a tree
    joins = [[label, top] for label in np.unique(component, return_index=True)[1]]
    graph = _graph(np.concatenate([tree, joins]), top + 1)
    order, parent = scipy.sparse.csgraph.breadth_first_order(graph, top, directed=False)
    below, parents = [1] * (top + 1), parent.tolist()
    for label in order[:0:-1].tolist():  # leaves first
        below[parents[label]] += below[label]
    first, second = tree.T
    first_is_lower = parent[first] == second
    lower = np.where(first_is_lower, first, second)
    share = np.asarray(below)[lower] / np.bincount(component)[component[lower]]
    return np.where(first_is_lower, [1 - share, share], [share, 1 - share])
