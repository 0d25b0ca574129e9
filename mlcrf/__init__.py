"""Multi-label image tagging with a CNN and an exactly inferred CRF over label sets.

Everything that is exported here is the public Python interface; docs/library.md describes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mlcrf.version import __version__

if TYPE_CHECKING:
    from mlcrf.calibrating import CalibrationReport, calibrate
    from mlcrf.checkpoint import Run, load_run
    from mlcrf.comparison import Comparison, compare
    from mlcrf.config import TrainSettings
    from mlcrf.crf import Potentials
    from mlcrf.data.joining import read_datasets
    from mlcrf.data.manifest import Manifest
    from mlcrf.data.readers import read_dataset
    from mlcrf.decoding import Decoder
    from mlcrf.drift import DriftReport, find_drift
    from mlcrf.errors import MlcrfError, MlcrfWarning
    from mlcrf.estimator import MultiLabelCRFClassifier
    from mlcrf.evaluation import Evaluation, evaluate
    from mlcrf.inference import Posterior
    from mlcrf.labels import LabelSpace
    from mlcrf.layer import MultiLabelCRF
    from mlcrf.prediction import Prediction, Reasons, Tagger
    from mlcrf.rules import Rules
    from mlcrf.training.additions import extend
    from mlcrf.training.extending import TaughtReport
    from mlcrf.training.run import TrainReport, train

_HOME = {
    "CalibrationReport": "mlcrf.calibrating",
    "Comparison": "mlcrf.comparison",
    "Decoder": "mlcrf.decoding",
    "DriftReport": "mlcrf.drift",
    "Evaluation": "mlcrf.evaluation",
    "LabelSpace": "mlcrf.labels",
    "Manifest": "mlcrf.data.manifest",
    "MlcrfError": "mlcrf.errors",
    "MlcrfWarning": "mlcrf.errors",
    "MultiLabelCRF": "mlcrf.layer",
    "MultiLabelCRFClassifier": "mlcrf.estimator",
    "Posterior": "mlcrf.inference",
    "Potentials": "mlcrf.crf",
    "Prediction": "mlcrf.prediction",
    "Reasons": "mlcrf.prediction",
    "Rules": "mlcrf.rules",
    "Run": "mlcrf.checkpoint",
    "Tagger": "mlcrf.prediction",
    "TaughtReport": "mlcrf.training.extending",
    "TrainReport": "mlcrf.training.run",
    "TrainSettings": "mlcrf.config",
    "calibrate": "mlcrf.calibrating",
    "compare": "mlcrf.comparison",
    "evaluate": "mlcrf.evaluation",
    "extend": "mlcrf.training.additions",
    "find_drift": "mlcrf.drift",
    "load_run": "mlcrf.checkpoint",
    "read_dataset": "mlcrf.data.readers",
    "read_datasets": "mlcrf.data.joining",
    "train": "mlcrf.training.run",
}

__all__ = [
    "CalibrationReport",
    "Comparison",
    "Decoder",
    "DriftReport",
    "Evaluation",
    "LabelSpace",
    "Manifest",
    "MlcrfError",
    "MlcrfWarning",
    "MultiLabelCRF",
    "MultiLabelCRFClassifier",
    "Posterior",
    "Potentials",
    "Prediction",
    "Reasons",
    "Rules",
    "Run",
    "Tagger",
    "TaughtReport",
    "TrainReport",
    "TrainSettings",
    "__version__",
    "calibrate",
    "compare",
    "evaluate",
    "extend",
    "find_drift",
    "load_run",
    "read_dataset",
    "read_datasets",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for, so that `import mlcrf` is instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'mlcrf' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
