"""Settings and fixtures of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

import tests.quiet  # noqa: F401

# before torch is loaded: tests run two at a time, and one thread for each is faster
os.environ.setdefault("OMP_NUM_THREADS", "1")

# whatever the machine does beside, and whenever it is run
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One empty cache for all tests, so that a network is made ready for its engine only once."""
    base = tmp_path_factory.getbasetemp()
    of_all = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCRF_CACHE", str(of_all / "mlcrf-cache"))
        yield
