"""Pictures in, label sets out."""

from mlcrf.prediction.known import KnownLabels, read_known
from mlcrf.prediction.listing import list_pictures
from mlcrf.prediction.programs import FiftyOne, LabelStudio, choose_form
from mlcrf.prediction.tagger import Prediction, Tagger
from mlcrf.prediction.writing import OutputForm, OutputFormat, PredictionWriter, Table

__all__ = [
    "FiftyOne",
    "KnownLabels",
    "LabelStudio",
    "OutputForm",
    "OutputFormat",
    "Prediction",
    "PredictionWriter",
    "Table",
    "Tagger",
    "choose_form",
    "list_pictures",
    "read_known",
]
