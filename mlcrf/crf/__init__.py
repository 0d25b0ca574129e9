"""Potentials: the whole CRF as a value, without inference."""

from mlcrf.crf.edges import load_edges, strongest_edges, tree_edges
from mlcrf.crf.known import check_known
from mlcrf.crf.potentials import (
    IMPOSSIBLE,
    Fields,
    Potentials,
    full_edges,
    neighbours,
)
from mlcrf.labels import UNKNOWN

__all__ = [
    "IMPOSSIBLE",
    "UNKNOWN",
    "Fields",
    "Potentials",
    "check_known",
    "full_edges",
    "load_edges",
    "neighbours",
    "strongest_edges",
    "tree_edges",
]
