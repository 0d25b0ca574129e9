"""Potentials: the whole CRF as a value. No inference here."""

from mlcrf.crf.edges import load_edges, strongest_edges, tree_edges
from mlcrf.crf.known import UNKNOWN, check_known
from mlcrf.crf.potentials import (
    IMPOSSIBLE,
    Fields,
    Potentials,
    full_edges,
    neighbours,
    no_implications,
)
from mlcrf.crf.scenes import ScenePotentials

__all__ = [
    "IMPOSSIBLE",
    "UNKNOWN",
    "Fields",
    "Potentials",
    "ScenePotentials",
    "check_known",
    "full_edges",
    "load_edges",
    "neighbours",
    "no_implications",
    "strongest_edges",
    "tree_edges",
]
