"""Matrices made small."""

import numpy as np
import pytest

from mlcrf.reports.ordering import LabelOrder
from mlcrf.reports.reduction import reduce_couplings, reduce_matrix
from tests.reports.making import make_clustered


@pytest.mark.parametrize("cells", [1, 7, 20, 53])
def test_a_cell_shows_its_strongest_coupling(cells: int) -> None:
    """By a loop over pairs; of the sparse couplings and of the same as a matrix."""
    edges, values, _ = make_clustered(53, 3)
    shown = LabelOrder(np.random.default_rng(1).permutation(53))
    place = shown.place()
    expected = np.zeros((cells, cells))
    matrix = np.zeros((53, 53))
    for (i, j), value in zip(edges.tolist(), values.tolist(), strict=True):
        matrix[i, j] = matrix[j, i] = value
        for row, column in ((i, j), (j, i)):
            at = int(place[row]) * cells // 53, int(place[column]) * cells // 53
            if abs(value) > abs(expected[at]):
                expected[at] = value
    assert reduce_couplings(edges, values, shown, cells) == pytest.approx(expected)
    dense = reduce_matrix(matrix, shown, cells)
    if cells == 53:
        assert np.isnan(np.diagonal(dense)).all()
    assert np.nan_to_num(dense) == pytest.approx(expected)


def test_a_cell_is_unknown_only_if_all_of_it_is() -> None:
    """One known value is enough."""
    matrix = np.full((4, 4), np.nan)
    matrix[0, 2] = matrix[2, 0] = -0.5
    small = reduce_matrix(matrix, LabelOrder(np.arange(4)), 2)
    assert small[0, 1] == small[1, 0] == -0.5
    assert np.isnan(np.diagonal(small)).all()
