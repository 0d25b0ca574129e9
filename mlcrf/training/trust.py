"""Trust in the hints of other sources, label by label.

    log-odds of a label = log-odds by the image + sum over sources of (named or not_named)

Both weights are learned by logistic regression beside log-odds of a baseline that has not seen the
image, so that what a source sees in the image as the baseline does counts once. They are drawn
towards those that all labels have in common, with a standard deviation of 1.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.config import TrainSettings
from mlcrf.data.hint_tables import Hints
from mlcrf.images import Image
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.processes import Processes
from mlcrf.training.examples import Examples
from mlcrf.training.laplace import fit_laplace
from mlcrf.training.stacking import score_by_baselines

Trust = dict[str, dict[str, tuple[float, float]]]  # source -> label -> log-odds named, not named


def learn_trust(
    examples: Examples,
    images: tuple[Image, ...],
    hints: Hints,
    labels: LabelSpace,
    settings: TrainSettings,
    processes: Processes,
    run: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]],
) -> Trust:
    """Learn both weights of each source and label.

    Args:
        examples: training and validation images; targets 1, 0, others unknown.
        run: computes a stage of the run, or finds it finished.

    Cost: five fits of the baseline, and Newton steps in two numbers per source and label.
    """
    scores = run(
        "log-odds beside hints",
        lambda: {"scores": torch.from_numpy(score_by_baselines(examples, settings, processes))},
    )["scores"]
    nothing = np.full(len(labels), UNKNOWN, dtype=np.int8)
    said = {
        name: np.stack([rows.get(image.key, nothing) for image in images])
        for name, rows in hints.items()
    }
    weights = _weights(scores.double(), torch.from_numpy(examples.targets).long(), said)
    return {
        name: {
            label: (
                round(float(weights[column, 2 * at]), 4),
                round(float(weights[column, 2 * at + 1]), 4),
            )
            for column, label in enumerate(labels)
            if (said[name][:, column] != UNKNOWN).any()
        }
        for at, name in enumerate(hints)
    }


def _weights(scores: Tensor, targets: Tensor, said: Mapping[str, NDArray[np.int8]]) -> Tensor:
    """Return the log-odds of named and not named, of each source in turn (L, 2 S)."""
    inputs = torch.stack(
        [torch.from_numpy(one == value) for one in said.values() for value in (1, 0)], dim=-1
    ).double()
    known = targets >= 0
    common = fit_laplace(inputs[known], targets[known].double(), offset=scores[known]).weights
    result = []
    for label in range(targets.shape[1]):
        rows = known[:, label]
        own = inputs[rows, label]
        offset = scores[rows, label] + own @ common
        apart = fit_laplace(own, targets[rows, label].double(), offset=offset).weights
        result.append(common + apart)
    return torch.stack(result)
