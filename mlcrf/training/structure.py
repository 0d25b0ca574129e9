"""Choose the label pairs that have a coupling."""

from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from mlcrf.choices import Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges, load_edges, strongest_edges, tree_edges
from mlcrf.data.manifest import Manifest
from mlcrf.errors import SettingsError
from mlcrf.model import no_edges


def choose_edges(settings: TrainSettings, train: Manifest) -> Tensor:
    """Return the edge set of the settings, int64 (E, 2).

    A label and a label that it implies get no edge unless a file names it. The child is never
    present without the parent, so only the penalty could separate the coupling from the child's
    unary; and the parent would always be among the child's strongest partners.

    Args:
        train: the training images; `tree` and `sparse` choose from their labels.

    Raises:
        SettingsError: `file` without `edges_file`, or `edges_file` without `file`.
        DataError, LabelsError: the file cannot be used; see `mlcrf.crf.load_edges`.
    """
    given = settings.edges_file is not None
    if given != (settings.structure is Structure.FILE):
        raise SettingsError("--structure file and --set edges_file=FILE go together; give both")
    num_labels = len(train.labels)
    tied = torch.tensor(train.implications.closure, dtype=torch.int64).reshape(-1, 2)
    match settings.structure:
        case Structure.INDEPENDENT | Structure.LATENT:
            return no_edges()
        case Structure.FULL:
            return _without(full_edges(num_labels), tied, num_labels)
        case Structure.TREE:
            return _without(tree_edges(train.targets), tied, num_labels)
        case Structure.SPARSE:
            return strongest_edges(train.targets, settings.edges_per_label, without=tied)
        case Structure.FILE:
            assert settings.edges_file is not None
            return load_edges(Path(settings.edges_file), train.labels)
        case _:
            assert_never(settings.structure)


def _without(edges: Tensor, pairs: Tensor, num_labels: int) -> Tensor:
    ends, row = pairs.sort(1).values, torch.tensor([num_labels, 1])
    return edges[~torch.isin((edges * row).sum(1), (ends * row).sum(1))]
