"""Pictures in, label sets out."""

from mlcrf.images import ListedImages, list_images
from mlcrf.prediction.beside.files import Action, Beside, Change
from mlcrf.prediction.beside.options import BesideOptions
from mlcrf.prediction.formats.label_studio import FiftyOne, LabelStudio, choose_form
from mlcrf.prediction.formats.parts import Shard, ShardForm, Shards
from mlcrf.prediction.formats.table import OutputFormat, Table
from mlcrf.prediction.known import KnownLabels, read_known
from mlcrf.prediction.known_keywords import KnownKeywords
from mlcrf.prediction.record import Prediction
from mlcrf.prediction.selection import LabelSelection, load_names
from mlcrf.prediction.tagger import LARGEST_ALBUM, TOGETHER, Tagger
from mlcrf.prediction.writing import OutputForm, PredictionWriter

__all__ = [
    "LARGEST_ALBUM",
    "TOGETHER",
    "Action",
    "Beside",
    "BesideOptions",
    "Change",
    "FiftyOne",
    "KnownKeywords",
    "KnownLabels",
    "LabelSelection",
    "LabelStudio",
    "ListedImages",
    "OutputForm",
    "OutputFormat",
    "Prediction",
    "PredictionWriter",
    "Shard",
    "ShardForm",
    "Shards",
    "Table",
    "Tagger",
    "choose_form",
    "list_images",
    "load_names",
    "read_known",
]
