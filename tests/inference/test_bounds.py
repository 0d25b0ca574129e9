"""Bounds on log Z are on the right side after any number of sweeps, and as tight as they can be.

That they are tight where a method is exact, `test_equals_brute_force` shows.
"""

import pytest
import torch

from mlcrf.inference import Posterior
from tests.inference.methods import (
    ANY,
    EXACT,
    LOWER,
    ROWS,
    UPPER,
    Row,
    enumerated,
    make,
    rows,
    solved,
)
from tests.making import close, draw_known

NAMED = {row.method.name: row for row in ROWS}
SWEEPS = (0, 1, 2, 3, 5, 10, 100)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("num_unknown", [7, 3])
@rows(lambda row: row.log_z in (LOWER, UPPER))
def test_bounds_hold_after_any_sweep(row: Row, num_unknown: int, size: float) -> None:
    """Cut off anywhere, a bound is on its side of log Z, the last no worse than the first.

    One label at a time, mean field never falls in between either.
    """
    sign = 1 if row.log_z is LOWER else -1
    for graph in ("sparse", "eight labels"):
        potentials = make(graph, 6, unary=3.0, pairwise=size)
        known = draw_known(potentials, num_unknown=num_unknown)
        log_z = enumerated(potentials, known).log_partition
        bounds = []
        for sweeps in SWEEPS:
            posterior = row.cut(sweeps)(potentials, known=known)
            assert posterior.log_partition_kind is row.log_z
            assert bool((sign * posterior.log_partition <= sign * log_z + 1e-9).all())
            bounds.append(sign * posterior.log_partition)
            if row.method.name == "mean-field" and sweeps:
                assert bool((bounds[-1] >= bounds[-2] - 1e-9).all())
        if row.method.name != "parallel-mean-field" or size < 1:  # may swing at strong couplings
            assert bool((bounds[-1] >= bounds[0] - 1e-9).all())
        assert float((bounds[-1] - bounds[0]).max()) > 1e-3  # sweeps gain something


@rows(lambda row: row.log_z in (LOWER, UPPER) and row.takes is ANY)
def test_bounds_are_not_tight_where_labels_are_all_coupled(row: Row) -> None:
    """A bound that met log Z there would be another method, or a lucky mistake."""
    potentials, truth = solved("six labels", 2.0, 0.5, torch.float64)
    gap = (row.method(potentials).log_partition - truth.log_partition).abs()
    assert bool((gap > 1e-4).all())


def test_tree_reweighted_is_tighter_than_convex() -> None:
    """Its entropy is smaller, so at convergence its bound is lower, by far, and off by little."""
    potentials, truth = solved("six labels", 2.0, 0.5, torch.float64)
    trees, convex = (
        NAMED[name].method(potentials).log_partition for name in ("tree-reweighted", "convex-bp")
    )
    assert bool((trees < convex - 1).all())
    assert bool((trees < truth.log_partition + 0.5).all())


@rows(lambda row: row.log_z is EXACT)
def test_both_values_of_a_label_make_up_log_partition(row: Row) -> None:
    """Log Z is the log-sum of those with a label clamped to present and to absent."""
    potentials = make("sparse" if row.takes is ANY else "no edge", 3, pairwise=3.0)
    free = torch.full(potentials.unary.shape, -1)
    parts: list[Posterior] = []
    for value in (0, 1):
        known = free.clone()
        known[:, 2] = value
        parts.append(row.method(potentials, known=known))
    whole = row.method(potentials)
    absent, present = (part.log_partition for part in parts)
    close(torch.logaddexp(absent, present), whole.log_partition, 1e-12)
    close((present - whole.log_partition).exp(), whole.marginals[:, 2], 1e-12)
