"""The small network, and its conversion, which takes seconds and is made once."""

from pathlib import Path

import pytest

from mlcrf.backbones.openvino_engine import OpenVinoEngine
from mlcrf.backbones.registry import Backbone, find_spec, make_backbone


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    return make_backbone(find_spec("tiny"))


@pytest.fixture(scope="session")
def kept(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny` in the form of OpenVINO, not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    OpenVinoEngine(tiny, folder)
    return folder
