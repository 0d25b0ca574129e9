"""How often a promise is tried: the full count times `MLCRF_RELIABILITY`, a hundredth if unset."""

import os

import pytest

SCALE = float(os.environ.get("MLCRF_RELIABILITY", "0.01"))
at_length = pytest.mark.at_length  # takes long; only `make test-reliability` tries it


def times(full: int) -> int:
    """How often to try what is tried so often in full; at least once."""
    return max(1, round(full * SCALE))
