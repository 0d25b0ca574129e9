"""Many labels in clusters."""

import numpy as np
import pytest

from mlcrf.reports.label_order import (
    MOST_NAMED,
    Cluster,
    cluster_name,
    cluster_order,
    order_labels,
)
from tests.reports.making import make_clustered


def test_planted_clusters_are_found_and_stand_together() -> None:
    """Every cluster of the order is one that was planted, and its leaders are in it."""
    edges, values, planted = make_clustered(400, 8)
    found = order_labels(edges, values, 400)
    assert sorted(found.order.tolist()) == list(range(400))
    assert [one.size for one in found.clusters] == [
        (planted == planted[found.order[one.start]]).sum() for one in found.clusters
    ]
    for one in found.clusters:
        members = found.order[one.start : one.start + one.size]
        assert len(set(planted[members])) == 1
        assert set(one.leaders) <= set(members.tolist())
    assert (found.order[found.place()] == np.arange(400)).sum() == (
        found.place()[found.order] == np.arange(400)
    ).sum()


def test_dense_and_sparse_couplings_give_one_order() -> None:
    """Pairs without a coupling and pairs with one of zero are the same to it."""
    edges, values, _ = make_clustered(150, 4)
    first, second = np.triu_indices(150, 1)
    matrix = np.zeros((150, 150))
    matrix[edges[:, 0], edges[:, 1]] = values
    full = np.stack([first, second], 1)
    sparse = edges[:: len(edges) // 800]
    few = values[:: len(edges) // 800]
    padded = np.zeros((150, 150))
    padded[sparse[:, 0], sparse[:, 1]] = few
    assert len(sparse) <= 150**2 // 16 < len(full)
    one = order_labels(sparse, few, 150)
    other = order_labels(full, padded[first, second], 150)
    assert {frozenset(o.leaders) for o in one.clusters} == {
        frozenset(o.leaders) for o in other.clusters
    }
    assert (one.order == other.order).all()


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_without_attraction_all_labels_are_the_rest(sign: float) -> None:
    """Nothing to go by: the labels stay as they are."""
    edges, values, _ = make_clustered(200, 2)
    found = order_labels(edges, sign * np.abs(values), 200)
    assert found.order.tolist() == list(range(200))
    assert [(one.start, one.size, one.leaders) for one in found.clusters] == [(0, 200, ())]


def test_few_labels_have_no_clusters() -> None:
    """All of them are named."""
    edges, values, _ = make_clustered(MOST_NAMED, 3)
    assert order_labels(edges, values, MOST_NAMED).clusters == ()


def test_a_cluster_is_called_by_its_leaders() -> None:
    """Long names are cut; labels that nothing places are the rest."""
    names = ("sea", "x" * 40)
    assert cluster_name(names, Cluster(0, 1200, (1, 0)), 5) == "xxxx…, sea (1,200)"
    assert cluster_name((), Cluster(0, 7, ()), 5) == "the rest (7)"


def test_clustering_puts_attracting_labels_together() -> None:
    """Two blocks that are interleaved come out side by side."""
    matrix = np.array([[0, 0, 5, 0], [0, 0, 0, 5], [5, 0, 0, 0], [0, 5, 0, 0.0]])
    place = np.argsort(cluster_order(matrix))
    assert abs(place[0] - place[2]) == 1
    assert abs(place[1] - place[3]) == 1
