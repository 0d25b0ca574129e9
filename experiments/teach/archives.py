"""Archives of drawn photos for a simulated person to answer about."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import frame
from experiments.teach.learners import World
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import Run
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules

STARTS = ("nothing", "half known")
_ARCHIVE, _TEST, _OTHERS = 3000, 5000, 2000  # most photos
_FIT: dict[str, Any] = {"penalties": (0.3,), "pairwise_penalties": (0.01,)}


def answerable(data: Manifest) -> Manifest:
    """Return the photos of which every label is known, with labels as if there were no rules."""
    known = np.flatnonzero((data.targets >= 0).all(1))
    return replace(data.rows(known), rules=Rules())


def draw_world(
    data: Manifest, arguments: argparse.Namespace, seed: int, start: str, *, of_test: bool = False
) -> World:
    """Return an archive of drawn photos, test photos, and the model that is there first.

    Args:
        of_test: draw the archive, and the photos that the model was fitted on, from test photos.
    """
    rng = np.random.default_rng(seed)
    splits = np.array(data.splits)
    pool = rng.permutation(np.flatnonzero((splits == Split.TEST) == of_test))
    archive, others = np.split(pool, [min(_ARCHIVE, len(pool) // 2)])
    test = np.random.default_rng(0).permutation(np.flatnonzero(splits == Split.TEST))[:_TEST]
    order = rng.permutation(len(data.labels))
    run, count = None, len(order) // 2
    if start != "nothing":
        known = data.rows(others[:_OTHERS])
        run = _fit_first(_as_training(known) if of_test else known, order[:count], seed, arguments)
    archived, tested = data.rows(archive), data.rows(test)
    backbone = make_backbone(find_spec(TrainSettings().backbone))
    extractor = FeatureExtractor(backbone, cache_dir=cache_dir(None))
    return World(
        [list(data.labels)[column] for column in order],
        np.asarray(extractor.matrix(archived.images)),
        torch.from_numpy(archived.targets[:, order]).long(),
        np.asarray(extractor.matrix(tested.images)),
        tested.targets[:, order],
        run,
    )


def _as_training(data: Manifest) -> Manifest:
    """Return test photos as training photos, a tenth of them for validation."""
    splits = [Split.TRAIN if row % 10 else Split.VALIDATION for row in range(len(data))]
    return replace(data, splits=tuple(splits))


def _fit_first(
    data: Manifest, columns: NDArray[np.int64], seed: int, arguments: argparse.Namespace
) -> Run:
    """Return a run that knows some of the labels."""
    part = replace(
        data,
        targets=data.targets[:, columns],
        labels=LabelSpace(tuple(list(data.labels)[column] for column in columns)),
    )
    settings = TrainSettings(seed=seed, **(frame.QUICK if arguments.quick else _FIT))
    with tempfile.TemporaryDirectory() as folder:
        return frame.trained(part, Path(folder) / "run", settings)
