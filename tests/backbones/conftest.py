"""The small network, and what it is converted to: that takes seconds, so it is done once."""

from pathlib import Path

import pytest

from mlcrf.backbones.onnx_engine import OnnxEngine
from mlcrf.backbones.openvino_engine import OpenVinoEngine
from mlcrf.backbones.registry import Backbone, find_spec, make_backbone


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    return make_backbone(find_spec("tiny"))


@pytest.fixture(scope="session")
def kept(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny` in the forms of OpenVINO and ONNX, not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    OpenVinoEngine(tiny, folder)
    OnnxEngine(tiny, folder)
    return folder
