"""Potentials: the whole CRF as a value. No inference here."""

from mlcrf.crf.known import UNKNOWN, check_known
from mlcrf.crf.potentials import Fields, Potentials, full_edges, neighbours, no_implications

__all__ = [
    "UNKNOWN",
    "Fields",
    "Potentials",
    "check_known",
    "full_edges",
    "neighbours",
    "no_implications",
]
