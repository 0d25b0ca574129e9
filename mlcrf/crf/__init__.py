"""The model as a value: unaries and couplings, no inference."""

from mlcrf.crf.potentials import UNKNOWN, Potentials, check_known, full_edges

__all__ = ["UNKNOWN", "Potentials", "check_known", "full_edges"]
