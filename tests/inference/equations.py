"""The equations of converged beliefs, from the definitions of the iterative methods.

Each function returns what is 0 at a fixed point, an image a row.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import Posterior


def mean_field(potentials: Potentials, posterior: Posterior) -> Tensor:
    """q_i = sigmoid(unary_i + sum_j pairwise_ij q_j)."""
    q = posterior.marginals
    return q - (potentials.unary + _times(q, potentials.pairwise_matrix())).sigmoid()


def tap(potentials: Potentials, posterior: Posterior) -> Tensor:
    """logit q_i = unary_i + sum_j J_ij q_j + (1/2 - q_i) sum_j J_ij^2 q_j (1 - q_j)."""
    q, matrix = posterior.marginals, potentials.pairwise_matrix()
    reaction = (0.5 - q) * _times(q * (1 - q), matrix.square())
    return q.logit() - potentials.unary - _times(q, matrix) - reaction


def bethe(potentials: Potentials, posterior: Posterior) -> Tensor:
    """`stationary` with the counting numbers of a tree."""
    return stationary(potentials, posterior, *bethe_counts(potentials))


def tree_reweighted(potentials: Potentials, posterior: Posterior) -> Tensor:
    """`stationary` with each edge counted by its share of the spanning trees."""
    return stationary(potentials, posterior, *tree_counts(potentials))


def convex(potentials: Potentials, posterior: Posterior) -> Tensor:
    """`stationary` with all counting numbers 1."""
    return stationary(potentials, posterior, *convex_counts(potentials))


Counts = tuple[list[float], list[float]]  # of edges and of labels


def bethe_counts(potentials: Potentials) -> Counts:
    return _consistent([1.0] * len(potentials.edges), potentials)


def convex_counts(potentials: Potentials) -> Counts:
    return [1.0] * len(potentials.edges), [1.0] * potentials.num_labels


def tree_counts(potentials: Potentials) -> Counts:
    edges = potentials.edges.tolist()
    trees = list(spanning_trees(edges, potentials.num_labels))
    shares = [sum(edge in tree for tree in trees) / len(trees) for edge in range(len(edges))]
    return _consistent(shares, potentials)


def _consistent(of_edge: list[float], potentials: Potentials) -> Counts:
    """With c_i = 1 - sum_j c_ij."""
    touching = [0.0] * potentials.num_labels
    for count, ends in zip(of_edge, potentials.edges.tolist(), strict=True):
        for end in ends:
            touching[end] += count
    return of_edge, [1 - count for count in touching]


def spanning_trees(edges: list[list[int]], num_labels: int) -> Iterator[tuple[int, ...]]:
    """Every spanning tree of a connected graph, as edge numbers."""
    for chosen in combinations(range(len(edges)), num_labels - 1):
        group = list(range(num_labels))
        for edge in chosen:
            first, second = (group[end] for end in edges[edge])
            group = [first if one == second else one for one in group]
        if len(set(group)) == 1:
            yield chosen


def stationary(
    potentials: Potentials,
    posterior: Posterior,
    edge_counts: list[float],
    label_counts: list[float],
) -> Tensor:
    """Log odds ratios of the pairs, and one equation a label (N, E + L).

    b_ij has log odds ratio pairwise_ij / c_ij; and (c_i + sum_j c_ij) logit b_i is unary_i plus
    sum_j c_ij [logit b_i - logit b(y_i | y_j = 0)].
    """
    b, both = posterior.marginals, posterior.pairwise_marginals
    assert both is not None
    of_edge, of_label = b.new_tensor(edge_counts), b.new_tensor(label_counts)
    first, second = potentials.edges.T
    only_first, only_second = b[:, first] - both, b[:, second] - both
    neither = 1 - b[:, first] - b[:, second] + both
    ratio = (both * neither / (only_first * only_second)).log()
    rest = of_label * b.logit() - potentials.unary
    for ends, only in ((first, only_first), (second, only_second)):
        rest = rest.index_add(1, ends, of_edge * (only / neither).log())
    return torch.cat([ratio - potentials.pairwise / of_edge, rest], 1)


def entropy(*probabilities: float) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def free_energies(
    potentials: Potentials,
    posterior: Posterior,
    edge_counts: list[float],
    label_counts: list[float],
) -> Iterator[float]:
    """Expected score and counted entropies of each image's beliefs, in plain Python."""
    both = posterior.pairwise_marginals
    assert both is not None
    pairwise = potentials.pairwise.expand(potentials.num_images, -1).tolist()
    for unary, coupling, b, together in zip(
        potentials.unary.tolist(),
        pairwise,
        posterior.marginals.tolist(),
        both.tolist(),
        strict=True,
    ):
        total = sum(u * q for u, q in zip(unary, b, strict=True))
        total += sum(c * entropy(q, 1 - q) for c, q in zip(label_counts, b, strict=True))
        for edge, (i, j) in enumerate(potentials.edges.tolist()):
            pair = together[edge]
            total += coupling[edge] * pair
            total += edge_counts[edge] * entropy(
                pair, b[i] - pair, b[j] - pair, 1 - b[i] - b[j] + pair
            )
        yield total


def _times(q: Tensor, matrix: Tensor) -> Tensor:
    """Each image's row times its own matrix or the shared one."""
    return (q[:, None] @ matrix).squeeze(1)
