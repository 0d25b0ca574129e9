"""Elimination orders: the treewidths of graphs that are known, and plans that lose nothing."""

from itertools import combinations

import networkx as nx
import pytest
import torch
from networkx.algorithms.approximation import treewidth_min_fill_in
from torch import Tensor

from mlcrf.inference.exact.elimination import Rule, eliminate, make_plan, treewidth


def edges_of(graph: nx.Graph) -> Tensor:
    """Its edges, nodes numbered in their order."""
    graph = nx.convert_node_labels_to_integers(graph)
    return torch.tensor(sorted(sorted(e) for e in graph.edges), dtype=torch.int64).reshape(-1, 2)


KNOWN = [
    (nx.empty_graph(1), 0),
    (nx.empty_graph(6), 0),
    (nx.path_graph(2), 1),
    (nx.path_graph(50), 1),
    (nx.star_graph(30), 1),
    (nx.random_labeled_tree(60, seed=1), 1),
    (nx.disjoint_union(nx.path_graph(5), nx.empty_graph(3)), 1),
    (nx.cycle_graph(3), 2),
    (nx.cycle_graph(40), 2),
    (nx.disjoint_union(nx.cycle_graph(5), nx.complete_graph(5)), 4),
    (nx.grid_2d_graph(2, 12), 2),
    (nx.grid_2d_graph(3, 12), 3),
    (nx.grid_2d_graph(4, 9), 4),
    (nx.complete_bipartite_graph(3, 9), 3),
    (nx.grid_2d_graph(20, 20), 20),  # by rows; 29 by min-fill
    (nx.petersen_graph(), 4),
    (nx.complete_graph(2), 1),
    (nx.complete_graph(9), 8),
]


@pytest.mark.parametrize(("graph", "width"), KNOWN, ids=str)
def test_treewidths_that_are_known(graph: nx.Graph, width: int) -> None:
    """The treewidth of forests, cycles, grids and full graphs is found."""
    edges, size = edges_of(graph), len(graph)
    assert treewidth(edges, size) == width
    assert treewidth(edges, size, bound=width) == width
    assert make_plan(edges, size, width) is not None
    if width:
        assert width <= treewidth(edges, size, bound=width - 1) < size
        assert make_plan(edges, size, width - 1) is None


@pytest.mark.parametrize("num_edges", [70, 110, 150, 400])
def test_about_as_good_as_networkx(num_edges: int) -> None:
    """On random sparse graphs the width is at most one above that of networkx's min-fill."""
    for seed in range(5):
        graph = nx.gnm_random_graph(60, num_edges, seed=seed)
        assert treewidth(edges_of(graph), 60, bound=60) <= treewidth_min_fill_in(graph)[0] + 1


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("seed", range(4))
def test_order_is_an_elimination(seed: int, rule: Rule) -> None:
    """Each label comes once, with the neighbours that networkx's graph has left, joined after."""
    graph = nx.gnm_random_graph(25, 50, seed=seed)
    seen = []
    for label, around in eliminate(edges_of(graph), 25, 25, rule):
        if rule is Rule.MIN_DEGREE:
            assert len(around) == min(dict(graph.degree).values())
        if rule is Rule.GIVEN:
            assert label == min(graph)
        assert around == set(graph[label])
        graph.add_edges_from(combinations(around, 2))
        graph.remove_node(label)
        seen.append(label)
    assert sorted(seen) == list(range(25))


def test_each_step_adds_the_fewest_edges() -> None:
    """No other label left would have joined fewer pairs of its neighbours."""
    graph = nx.gnm_random_graph(30, 70, seed=3)

    def fill(label: int) -> int:
        return sum(not graph.has_edge(*pair) for pair in combinations(graph[label], 2))

    for label, around in eliminate(edges_of(graph), 30, 30):
        assert fill(label) == min(map(fill, graph))
        graph.add_edges_from(combinations(around, 2))
        graph.remove_node(label)


@pytest.mark.parametrize("graph", [one for one, _ in KNOWN], ids=str)
def test_plan_holds_every_label_and_edge_once(graph: nx.Graph) -> None:
    """Labels are parted among groups, and each edge is at the end that is eliminated first."""
    edges, size = edges_of(graph), len(graph)
    plan = make_plan(edges, size, size)
    assert plan is not None
    assert torch.cat([group.labels for group in plan.groups]).sort().values.tolist() == [
        *range(size)
    ]
    found = torch.cat([group.edges.reshape(-1) for group in plan.groups])
    assert found[found < len(edges)].sort().values.tolist() == [*range(len(edges))]
    for group in plan.groups:
        for column in range(group.width):
            real = group.edges[:, column] < len(edges)
            pairs = torch.stack([group.labels, group.separators[:, column]], 1)[real]
            assert torch.equal(edges[group.edges[real, column]], pairs.sort(1).values)
    assert plan.entries == sum(len(group.labels) * 2**group.width for group in plan.groups)


def test_trees_are_rooted_at_their_centre() -> None:
    """So that a path is walked in half as many steps as it has labels, and a star in two."""
    path, star = (
        make_plan(edges_of(nx.path_graph(101)), 101, 1),
        make_plan(edges_of(nx.star_graph(100)), 101, 1),
    )
    assert path is not None
    assert star is not None
    assert len(path.groups) == 51
    assert len(star.groups) == 2


def test_plans_are_kept() -> None:
    """The same edges give the same plan without another search; others do not."""
    edges = edges_of(nx.cycle_graph(9))
    plan = make_plan(edges, 9, 4)
    assert make_plan(edges.clone(), 9, 4) is plan
    assert make_plan(edges, 10, 4) is not plan
    assert make_plan(edges[1:], 9, 4) is not plan


@pytest.mark.parametrize("num_edges", [6_000, 80_000])
def test_large_graphs_are_given_up(num_edges: int) -> None:
    """5,000 labels with up to 16 edges each are seen to be wider than 16; the search ends early."""
    edges = edges_of(nx.gnm_random_graph(5000, num_edges, seed=0))
    assert treewidth(edges, 5000, bound=16) > 16
    assert make_plan(edges, 5000, 16) is None
