"""Loaded before OpenVINO, which then reports nothing, as with `mlcrf.backbones.openvino_engine`."""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
