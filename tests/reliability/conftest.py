"""What takes long is left to `make test-reliability`."""

import pytest

from tests.reliability.scale import SCALE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `at_length` where the scale is small."""
    long = [item for item in items if SCALE < 0.1 and item.get_closest_marker("at_length")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
