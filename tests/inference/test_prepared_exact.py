"""Exact inference with the kernel kept: equals `Exact`, call after call."""

import torch

from mlcrf.inference import Exact, MeanField, PreparedExact, prepare
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials


def test_equals_exact_with_other_images_and_other_known_labels() -> None:
    """The kernel that was made for one image serves all, in both precisions."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        potentials = make_potentials(300, 9, pairwise=1.5, dtype=dtype)
        prepared = PreparedExact(Exact(), potentials.rows(slice(0, 1)))
        for known in (None, draw_known(potentials, num_unknown=4)):
            ours = prepared(potentials, known=known)
            theirs = Exact(leave_out=0)(potentials, known=known)
            close(ours.marginals, theirs.marginals, tolerance)
            close(ours.log_partition, theirs.log_partition, 20 * tolerance)
            assert ours.log_partition_kind == theirs.log_partition_kind
            assert torch.equal(
                prepared.map_states(potentials, known=known),
                Exact().map_states(potentials, known=known),
            )
        assert len(prepared(potentials.rows(slice(0, 0))).marginals) == 0


def test_only_what_gains_by_it_is_prepared() -> None:
    """And unless told nothing is left out."""
    potentials = make_potentials(70, 22, unary=4.0, pairwise=2.0, dtype=torch.float32)
    prepared = prepare(Exact(), potentials)
    assert isinstance(prepared, PreparedExact)
    close(prepared(potentials).marginals, Exact(leave_out=0)(potentials).marginals, 1e-6)
    assert float(prepared(potentials).error_bound.max()) == 0
    approximate = MeanField()
    assert prepare(approximate, potentials) is approximate
    apart, exact = make_potentials(3, 9, varies=True), Exact()
    assert prepare(exact, apart) is exact


def test_pairs_are_those_of_exact_up_to_what_is_left_out() -> None:
    """Nothing left out gives all pairs; a share left out moves none by more than twice that."""
    potentials = make_potentials(40, 10, unary=4.0, pairwise=2.0)
    prepared = PreparedExact(Exact(), potentials)
    known = draw_known(potentials, num_unknown=7)
    wanted = Exact(pairwise_marginals=True)(potentials, known=known)
    assert wanted.pairwise_marginals is not None
    first, second = potentials.edges.T
    for leave_out in (0.0, 1e-3, 0.1):
        pairs = prepared.pair_marginals(potentials, known=known, leave_out=leave_out)
        limit = 2 * leave_out + 1e-12
        close(pairs[:, first, second], wanted.pairwise_marginals, limit)
        close(pairs[:, second, first], wanted.pairwise_marginals, limit)
        close(pairs.diagonal(dim1=1, dim2=2), wanted.marginals, limit)


def test_pairs_in_log_space_and_with_rules() -> None:
    """They agree where float64 does not reach, and where halves leave states out."""
    potentials = make_potentials(2, 8, unary=400.0, pairwise=900.0)
    first, second = potentials.edges.T
    wanted = Exact(pairwise_marginals=True)(potentials).pairwise_marginals
    assert wanted is not None
    close(
        PreparedExact(Exact(), potentials).pair_marginals(potentials)[:, first, second],
        wanted,
        2e-3,
    )
    ruled = make_potentials(2, 6, pairwise=1.0)
    ruled = type(ruled)(ruled.unary, ruled.edges, ruled.pairwise, Rules(((4, 0), (5, 0))))
    pairs = PreparedExact(Exact(), ruled).pair_marginals(ruled, leave_out=0.0)
    p = pairs.diagonal(dim1=1, dim2=2)
    close(pairs[:, 4, 0], p[:, 4].clone(), 1e-12)
