"""One thread or two: the same answers to rounding, and the same bits where that is promised."""

from collections.abc import Iterator

import numba
import pytest
import torch

from mlcrf.inference import Gibbs
from tests.inference.methods import NO_EDGE, Row, rows
from tests.making import close, make_potentials

RESULTS = ("marginals", "log_partition", "pairwise_marginals")


@pytest.fixture
def threads_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The number of threads of torch is set back; that of numba is set by this patch."""
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@rows()
def test_threads_change_nothing_but_rounding(
    row: Row, dtype: torch.dtype, threads_restored: pytest.MonkeyPatch
) -> None:
    """Of enough images to be cut; a draw that rounding flips may move the mean of chains."""
    coupling = 0.0 if row.takes is NO_EDGE else 1.0
    size = 60 if row.random else 600
    potentials = make_potentials(size, 12, unary=2.0, pairwise=coupling, dtype=dtype)
    method = row.cut(max_sweeps=15)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        threads_restored.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(method(potentials))
    one, two = found
    rounding = 1e-5 if dtype == torch.float32 else 1e-11
    for name in RESULTS:
        first, second = getattr(one, name), getattr(two, name)
        if first is not None:
            close(first, second, 0.05 if row.random else rounding)
    if isinstance(method, Gibbs):
        assert one.samples is not None and two.samples is not None
        assert torch.equal(one.samples, two.samples)
        assert dtype == torch.float64 or torch.equal(one.marginals, two.marginals)
