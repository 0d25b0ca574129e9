"""Potentials: the whole CRF as a value, without inference.

`mlcrf.crf.edges`, which chooses edges, is imported on its own, because it needs scipy.
"""

from mlcrf.crf.known import check_known
from mlcrf.crf.limit_fields import IMPOSSIBLE
from mlcrf.crf.potentials import (
    Fields,
    Potentials,
    full_edges,
    neighbours,
)
from mlcrf.crf.rules_in_state import keep_rules_in_state
from mlcrf.labels import UNKNOWN

__all__ = [
    "IMPOSSIBLE",
    "UNKNOWN",
    "Fields",
    "Potentials",
    "check_known",
    "full_edges",
    "keep_rules_in_state",
    "neighbours",
]
