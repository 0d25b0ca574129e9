"""Which label pairs get a coupling."""

from pathlib import Path
from typing import assert_never

from torch import Tensor

from mlcrf.choices import Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges, load_edges, strongest_edges, tree_edges
from mlcrf.datasets.manifest import Manifest
from mlcrf.errors import SettingsError
from mlcrf.model import no_edges


def choose_edges(settings: TrainSettings, train: Manifest) -> Tensor:
    """The edge set that the settings ask for, int64 (E, 2).

    Args:
        train: the training images alone, from whose labels `tree` and `sparse` choose.

    Raises:
        SettingsError: `file` without `edges_file`, or the other way round.
        DataError, LabelsError: the file cannot be used; see `mlcrf.crf.load_edges`.
    """
    given = settings.edges_file is not None
    if given != (settings.structure is Structure.FILE):
        raise SettingsError("--structure file and --set edges_file=FILE go together; give both")
    match settings.structure:
        case Structure.INDEPENDENT:
            return no_edges()
        case Structure.FULL:
            return full_edges(len(train.labels))
        case Structure.TREE:
            return tree_edges(train.targets)
        case Structure.SPARSE:
            return strongest_edges(train.targets, settings.edges_per_label)
        case Structure.FILE:
            assert settings.edges_file is not None
            return load_edges(Path(settings.edges_file), train.labels)
        case _:
            assert_never(settings.structure)
