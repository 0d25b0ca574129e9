"""Spanning trees: shares against enumeration, components, drawn trees and their bound."""

import pytest
import torch

from mlcrf.crf import full_edges
from mlcrf.inference import TreeReweighted
from mlcrf.inference.messages import spanning_trees
from mlcrf.inference.messages.spanning_trees import tree_shares
from tests.inference import equations
from tests.inference.methods import enumerated, make
from tests.making import close

FINE = {"max_sweeps": 1500, "tolerance": 1e-12}


def directed_counts(edges: list[list[int]], num_labels: int) -> list[float]:
    """Share of rooted spanning trees in which each arc runs from child to parent."""
    arcs = [tuple(pair) for pair in edges] + [(second, first) for first, second in edges]
    counts = dict.fromkeys(arcs, 0.0)
    trees = list(equations.spanning_trees(edges, num_labels))
    for tree in trees:
        for root in range(num_labels):
            reached, waiting = {root}, [root]
            while waiting:
                parent = waiting.pop()
                for edge in tree:
                    if parent in edges[edge]:
                        child = sum(edges[edge]) - parent
                        if child not in reached:
                            reached.add(child)
                            waiting.append(child)
                            counts[child, parent] += 1 / (num_labels * len(trees))
    return [counts[arc] for arc in arcs]


@pytest.mark.parametrize(("num_labels", "num_edges"), [(2, 1), (4, 6), (5, 4), (5, 7), (6, 9)])
def test_tree_shares_count_all_spanning_trees(num_labels: int, num_edges: int) -> None:
    """Up to 512 labels they are the shares of all trees with all roots, as enumerated."""
    chain = {(i, i + 1) for i in range(num_labels - 1)}
    others = [tuple(e) for e in full_edges(num_labels).tolist() if tuple(e) not in chain]
    edges = [list(pair) for pair in [*chain, *others[::-1]][:num_edges]]
    child, root = tree_shares(torch.tensor(edges), num_labels)
    close(child, child.new_tensor(directed_counts(edges, num_labels)), 1e-12)
    close(root, torch.full_like(root, 1 / num_labels), 1e-15)


def test_tree_shares_of_a_full_graph_are_uniform() -> None:
    """Every edge of a full graph is in 2 / L of the trees, either way round alike."""
    child, _ = tree_shares(full_edges(24), 24)
    close(child, torch.full_like(child, 1 / 24), 1e-14)


@pytest.mark.parametrize("dense_labels", [512, 0])
def test_tree_shares_are_those_of_trees(monkeypatch: pytest.MonkeyPatch, dense_labels: int) -> None:
    """Computed or drawn: every edge is covered, each label has one parent or is the root.

    Two components and a label alone; an edge that is the only way is in every tree.
    """
    monkeypatch.setattr(spanning_trees, "_DENSE_LABELS", dense_labels)
    spanning_trees._tree_shares.cache_clear()
    full = full_edges(6)
    edges = torch.cat([full, torch.tensor([[5, 7]]), torch.tensor([[8, 9], [9, 10], [8, 10]])])
    child, root = tree_shares(edges, 11, seed=1)
    spanning_trees._tree_shares.cache_clear()
    assert bool((child > 0).all())
    close(root, torch.tensor([1 / 7] * 6 + [1, 1 / 7] + [1 / 3] * 3).double(), 1e-7)
    close(root.index_add(0, edges.T.reshape(-1), child), torch.ones(11).double(), 1e-12)
    appearance = child.reshape(2, -1).sum(0)
    assert bool((appearance <= 1 + 1e-12).all())
    assert float(appearance[15]) == pytest.approx(1)
    assert float(appearance[:15].sum()) == pytest.approx(5)
    assert float(appearance[16:].sum()) == pytest.approx(2)
    assert float(child[15]) == pytest.approx(1 / 7)  # only the root 7 makes 5 its child


def test_trees_are_drawn_until_each_edge_is_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full graph of 40 labels needs at least 20 trees; edges end up in about as many each."""
    monkeypatch.setattr(spanning_trees, "_DENSE_LABELS", 0)
    spanning_trees._tree_shares.cache_clear()
    child, _ = tree_shares(full_edges(40), 40)
    spanning_trees._tree_shares.cache_clear()
    appearance = child.reshape(2, -1).sum(0)
    assert float(appearance.sum()) == pytest.approx(39)
    assert bool((appearance > 0.5 * 2 / 40).all())
    assert bool((appearance < 2 * 2 / 40).all())


def test_drawn_trees_bound_log_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With trees drawn by seed the bound holds and forests stay exact; another seed differs."""
    monkeypatch.setattr(spanning_trees, "_DENSE_LABELS", 0)
    spanning_trees._tree_shares.cache_clear()
    potentials, forest = make("sparse", pairwise=2.0), make("forest", pairwise=5.0)
    bounds = [TreeReweighted(seed=seed, **FINE)(potentials).log_partition for seed in (0, 0, 1)]
    exact_forest = TreeReweighted(**FINE)(forest).log_partition
    spanning_trees._tree_shares.cache_clear()
    assert torch.equal(bounds[0], bounds[1])
    assert not torch.equal(bounds[0], bounds[2])
    assert bool((bounds[0] > enumerated(potentials).log_partition).all())
    close(exact_forest, enumerated(forest).log_partition, 1e-9)
