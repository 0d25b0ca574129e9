"""Matrices of thousands of labels, made small enough to be drawn."""

import numpy as np
from numpy.typing import NDArray

from mlcrf.reports.ordering import LabelOrder

_OUTLIERS = 2.0  # % of couplings that share the strongest colour

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def reduce_couplings(edges: Ints, values: Floats, shown: LabelOrder, cells: int) -> Floats:
    """Couplings in cells of several labels each: of all in a cell the one of greatest size.

    A mean would let a few strong couplings vanish among many pairs that have none.

    Args:
        edges: pairs i < j (E, 2); values: their couplings (E,).
        cells: along either side, at most L.

    Returns:
        Symmetric (cells, cells), 0 where no pair is coupled.

    Cost: O(E); a matrix of all labels is not made.
    """
    cell = shown.place() * cells // len(shown.order)
    rows, columns = cell[edges[:, 0]], cell[edges[:, 1]]
    above, below = np.zeros((cells, cells)), np.zeros((cells, cells))
    np.maximum.at(above, (rows, columns), values)
    np.minimum.at(below, (rows, columns), values)
    above, below = np.maximum(above, above.T), np.minimum(below, below.T)
    return np.where(above >= -below, above, below)


def reduce_matrix(matrix: Floats, shown: LabelOrder, cells: int) -> Floats:
    """The same of a matrix (L, L) in which NaN is unknown; NaN where all of a cell is.

    The diagonal counts for nothing. Cost: O(L^2), in memory a cell's rows at a time.
    """
    num_labels = len(shown.order)
    edge = -(-np.arange(cells) * num_labels // cells)  # the first label of each cell
    result = np.full((cells, cells), np.nan)
    for row, labels in enumerate(np.split(shown.order, edge[1:])):
        part = matrix[np.ix_(labels, shown.order)]
        part[np.arange(len(labels)), edge[row] + np.arange(len(labels))] = np.nan
        above = np.fmax.reduceat(np.fmax.reduce(part), edge)
        below = np.fmin.reduceat(np.fmin.reduce(part), edge)
        result[row] = np.where(above >= -below, above, below)
    return result


def strongest_colour(sizes: Floats) -> float:
    """The size from which a coupling has the strongest colour: few are above it; 1 of nothing."""
    if not len(sizes):
        return 1.0
    return float(np.percentile(sizes, 100 - _OUTLIERS)) or float(sizes.max()) or 1.0
