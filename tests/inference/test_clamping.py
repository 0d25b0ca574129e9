"""Known labels: beliefs about the others are those given what is known, whatever the method."""

import pytest
import torch

from mlcrf.crf import Potentials, full_edges
from tests.inference.methods import (
    ANY,
    GRAPHS,
    ROWS,
    TREES,
    Row,
    enumerated,
    make,
    rows,
    usual_graph,
)
from tests.making import close, draw_known

WHERE = ("no edge", "uncoupled", "forest", "cycle", "six labels")
CASES = [
    pytest.param(row, graph, id=f"{row.method.name}-{graph}")
    for row in ROWS
    for graph in WHERE
    if GRAPHS[graph][0] <= min(row.right_on, row.takes)
]


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [4, 2, 0])
@pytest.mark.parametrize(("row", "graph"), CASES)
def test_clamping_equals_conditioning(row: Row, graph: str, num_unknown: int, varies: bool) -> None:
    """Beliefs and log Z are those of the states that agree, their own score included."""
    size = 1.0 if row.random else 4.0
    potentials = make(graph, 3, pairwise=size, varies=varies)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = enumerated(potentials, known), row.method(potentials, known=known)
    sampled = row.random and GRAPHS[graph][0] >= TREES and num_unknown > 1
    assert bool(posterior.converged.all())
    close(posterior.marginals, truth.marginals, row.spread(posterior) if sampled else 1e-9)
    given = known >= 0
    close(posterior.marginals[given], known[given].double(), 1e-15)
    close(posterior.log_partition, truth.log_partition, 0.15 if sampled else 1e-9)
    if posterior.pairwise_marginals is not None:
        off = 0.06 if row.random and num_unknown > 1 else 1e-9
        close(posterior.pairwise_marginals, truth.pairs, off)
    if posterior.samples is not None:
        assert bool(((posterior.samples == known) | ~given).all())


@pytest.mark.parametrize("varies", [False, True])
@rows(lambda row: row.takes is ANY and row.method.name != "tree-reweighted")
def test_beliefs_are_those_of_the_unknown_labels_alone(row: Row, varies: bool) -> None:
    """Known labels become part of the unaries; tree-reweighted keeps the trees of all labels."""
    potentials = make("six labels", 3, pairwise=0.8, varies=varies)
    known = torch.tensor([[-1, 1, -1, -1, 0, -1]]).repeat(3, 1)
    kept, edges = torch.tensor([0, 2, 3, 5]), full_edges(4)
    matrix = potentials.pairwise_matrix()
    pairwise = matrix[..., kept[edges[:, 0]], kept[edges[:, 1]]]
    rest = Potentials(potentials.unary[:, kept] + matrix[..., 1, kept], edges, pairwise)
    whole, alone = row.method(potentials, known=known), row.method(rest)
    off = 2 * row.spread(alone) if row.random else 1e-8
    close(whole.marginals[:, kept], alone.marginals, off)
    with_known = alone.log_partition + potentials.unary[:, 1]
    close(whole.log_partition, with_known, 0.15 if row.random else 1e-8)
    if whole.pairwise_marginals is None:
        return
    where = [potentials.edges.tolist().index([int(kept[a]), int(kept[b])]) for a, b in edges]
    pairs, q = whole.pairwise_marginals, whole.marginals
    close(pairs[:, where], alone.pairwise_marginals, 0.06 if row.random else 1e-8)
    for edge, (first, second) in enumerate(potentials.edges.tolist()):
        if {first, second} & {1, 4}:  # an end is known
            close(pairs[:, edge], q[:, first] * q[:, second], 0.06 if row.random else 1e-12)


@pytest.mark.parametrize("num_unknown", [1, 0])
@rows()
def test_all_but_one_clamped_is_exact(row: Row, num_unknown: int) -> None:
    """With at most one label unknown every method is exact, at any coupling."""
    potentials = make(usual_graph(row), 6, pairwise=5.0)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = enumerated(potentials, known), row.method(potentials, known=known)
    close(posterior.marginals, truth.marginals, 1e-12)
    close(posterior.log_partition, truth.log_partition, 1e-11)
    if posterior.pairwise_marginals is not None:
        off = 0.06 if row.random and num_unknown else 1e-12
        close(posterior.pairwise_marginals, truth.pairs, off)
    assert bool(posterior.converged.all())
    best = row.method.map_states(potentials, known=known)
    assert bool(((best == known) | (known == -1)).all())
    close(potentials.log_score(best), truth.best_score, 1e-11)
