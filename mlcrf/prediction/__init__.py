"""Pictures in, label sets out."""

from mlcrf.prediction.known import KnownLabels, read_known
from mlcrf.prediction.listing import list_pictures
from mlcrf.prediction.tagger import Prediction, Tagger
from mlcrf.prediction.writing import OutputFormat, PredictionWriter

__all__ = [
    "KnownLabels",
    "OutputFormat",
    "Prediction",
    "PredictionWriter",
    "Tagger",
    "list_pictures",
    "read_known",
]
