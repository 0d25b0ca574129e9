"""Tree-reweighted belief propagation: an upper bound on log Z from a mixture of trees."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    minimum_spanning_tree,
)
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference.messages.passing import (
    FixedPointMethod,
    Network,
    Propagation,
    both,
    condition,
    reverse,
    softplus,
)
from mlcrf.inference.posterior import LogPartitionKind, Posterior

_DENSE_LABELS = 512  # components up to this size have their resistances computed
_LEAST_TREES = 16  # drawn of a larger component, and on until each edge is in one
Array = NDArray[Any]


@dataclass(frozen=True)
class TreeReweighted(FixedPointMethod):
    """Approximate marginals by a mixture of trees, which bounds log Z.

    Spanning trees T are weighted so that edge (i, j) is in a share rho_ij of them. The entropy
    of p is at most that of its projection on each tree, so

        log Z <= max over b of  sum_i unary_i b_i + sum_ij pairwise_ij b_ij(1, 1)
                                + sum_i H(b_i) - sum_ij rho_ij I(b_ij)

    by `Propagation` with c_ij = rho_ij and c_i = 1 - sum_j rho_ij. Trees are uniform over all
    spanning trees of each connected component: rho_ij is the effective resistance, 2 / L on a full
    graph, 1 on a tree, where all of this is exact. In components of more than 512 labels they are
    drawn instead, each preferring the edges that were in the fewest so far.

    With a uniform root every tree is directed: rho_i|j is the share in which j is i's parent,
    r_i that in which i is the root, and r_i + sum_j rho_i|j = 1. Any fields h give the dual

        D(h) = sum_i r_i softplus(theta_i / r_i) + sum over both ways of rho_i|j softplus(h_ij)
        theta_i = unary_i - sum_j rho_i|j h_ij + sum_j rho_j|i m_ji

    which is an upper bound on log Z at every iterate, converged or not: the entropy above is
    sum_i r_i H(b_i) + sum rho_i|j H(b_ij given b_j), and each conditional entropy is at most the
    cross-entropy to sigmoid(h_ij + pairwise_ij y_j / rho_ij). The couplings then cancel, and what
    is left is theta_i b_i + r_i H(b_i), at most r_i softplus(theta_i / r_i). At a fixed point
    theta_i = r_i B_i and D is the maximum itself.

    Fails where couplings are strong: the bound is then loose, the marginals are too near 1/2, and
    messages converge slowly (the bound long before them). rho is not optimised. Known labels are
    conditioned on, and the trees stay those of the whole graph.

    Attributes:
        max_sweeps, tolerance, damping: as in `FixedPointMethod`; looser and less damped than
            the others, because it is slow.
        seed: of the trees that are drawn for large components.

    Cost: O(N E) a sweep; once for an edge set O(L^3) up to 512 labels, else O(E log E) a tree.
    Deterministic. Differentiable in both potentials through every sweep.

    Sources: Wainwright, Jaakkola and Willsky (2005); Globerson and Jaakkola (2007) for the dual
    over directed trees.
    """

    tolerance: float = 1e-3
    damping: float = 0.2
    seed: int = 0

    @property
    def name(self) -> str:
        """`tree-reweighted`."""
        return "tree-reweighted"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Beliefs of labels and pairs, and an upper bound on log Z."""
        network = condition(potentials, known)
        unary = network.unary
        child, root = (
            part.to(unary) for part in tree_shares(network.edges, unary.shape[1], seed=self.seed)
        )
        flow = Propagation(
            network,
            edge_count=child.reshape(2, len(network.edges)).sum(0),
            label_count=unary.new_ones(unary.shape[1]),
        )
        settled = self.settle(flow, flow.start())
        fields, messages = settled.state, flow.messages(settled.state)
        marginals = network.marginals(flow.log_odds(messages))
        pairs = flow.pairwise_marginals(fields, messages, marginals)
        return Posterior(
            marginals=marginals,
            log_partition=_dual(network, fields, messages, child, root),
            log_partition_kind=LogPartitionKind.UPPER,
            converged=settled.converged,
            advice=self.advice(settled.converged, settled.sweeps),
            pairwise_marginals=pairs[:, : len(potentials.edges)],
        )


def _dual(
    network: Network, fields: Tensor, messages: Tensor, child: Tensor, root: Tensor
) -> Tensor:
    """D(h) (N,); a label whose parent is known counts as a root, for its entropy is all its own."""
    is_open = both(network.open)
    inner = child * is_open
    root = root + network.leaving(child * (1 - is_open))
    theta = network.unary + network.leaving(reverse(inner * messages) - inner * fields)
    return network.total(root * softplus(theta / root)) + (inner * softplus(fields)).sum(-1)


def tree_shares(edges: Tensor, num_labels: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """In which share of spanning trees, with a uniform root, each edge stands each way.

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
    component = connected_components(_graph(edges, num_labels), directed=False)[1]
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


def _graph(edges: Array, num_labels: int, weight: Array | None = None) -> csr_array:
    weight = np.ones(len(edges)) if weight is None else weight
    return csr_array((weight, edges.T), shape=(num_labels, num_labels))


def _uniform_shares(edges: Array, num_labels: int) -> Array:
    """All spanning trees of a connected graph alike (2, E).

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
    """Trees that prefer edges used least so far, ties by chance, until each is in one (2, E)."""
    num_labels = len(component)
    generator = np.random.default_rng(seed)
    used = np.zeros(len(edges))
    child = np.zeros((2, len(edges)))
    key = edges @ [num_labels, 1]
    by_key = np.argsort(key)
    trees = 0
    while trees < _LEAST_TREES or not used.all():
        weight = 1 + used + generator.random(len(edges))
        tree = minimum_spanning_tree(_graph(edges, num_labels, weight)).tocoo()
        chosen = by_key[np.searchsorted(key, tree.row * num_labels + tree.col, sorter=by_key)]
        used[chosen] += 1
        child[:, chosen] += _rooted_shares(edges[chosen], component)
        trees += 1
    return child / trees


def _rooted_shares(tree: Array, component: Array) -> Array:
    """Each edge of one spanning forest, each way, over all roots of its component (2, E).

    An end is the child if the root is on the other side: a share of the labels there.
    """
    top = len(component)  # one label above all joins one of each component: a tree
    joins = [[label, top] for label in np.unique(component, return_index=True)[1]]
    graph = _graph(np.concatenate([tree, joins]), top + 1)
    order, parent = breadth_first_order(graph, top, directed=False)
    below, parents = [1] * (top + 1), parent.tolist()
    for label in order[:0:-1].tolist():  # leaves first
        below[parents[label]] += below[label]
    first, second = tree.T
    first_is_lower = parent[first] == second
    lower = np.where(first_is_lower, first, second)
    share = np.asarray(below)[lower] / np.bincount(component)[component[lower]]
    return np.where(first_is_lower, [1 - share, share], [share, 1 - share])
