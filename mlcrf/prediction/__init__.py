"""Prediction: from images to label sets, tables and files beside photos.

`tagger.Tagger` predicts. `formats/` has one output format per file; their interface is
`formats.output.OutputFormat`, and `formats.choose_format` makes them. `photo_files/` writes
sidecars and tag files; their interface is `photo_file_set.PhotoFileWriter`.
"""

from mlcrf.prediction.formats import OutputFormat, Table, choose_format
from mlcrf.prediction.formats.parts import Part, PartFormat, Parts
from mlcrf.prediction.formats.reading import PredictionTable, read_predictions
from mlcrf.prediction.job import PredictJob
from mlcrf.prediction.known import KnownAnswers, KnownKeywords, KnownLabels, read_known
from mlcrf.prediction.photo_files.photo_file_options import PhotoFileOptions
from mlcrf.prediction.photo_files.photo_file_set import Action, Change, PhotoFileSet
from mlcrf.prediction.reasons import Reasons
from mlcrf.prediction.record import Origin, Prediction
from mlcrf.prediction.selection import LabelSelection, load_names
from mlcrf.prediction.tagger import LARGEST_ALBUM, TOGETHER, Tagger
from mlcrf.prediction.writing import PredictionWriter

__all__ = [
    "LARGEST_ALBUM",
    "TOGETHER",
    "Action",
    "Change",
    "KnownAnswers",
    "KnownKeywords",
    "KnownLabels",
    "LabelSelection",
    "Origin",
    "OutputFormat",
    "Part",
    "PartFormat",
    "Parts",
    "PhotoFileOptions",
    "PhotoFileSet",
    "PredictJob",
    "Prediction",
    "PredictionTable",
    "PredictionWriter",
    "Reasons",
    "Table",
    "Tagger",
    "choose_format",
    "load_names",
    "read_known",
    "read_predictions",
]
