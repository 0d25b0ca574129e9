"""A folder of images that all tests of a module share."""

from pathlib import Path

import pytest

from tests.data.plausibility.making import NAMES, make_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six files with the names of images."""
    return make_files(tmp_path_factory.mktemp("images"), *NAMES)
