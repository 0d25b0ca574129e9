"""Fit the transitions between scenes on the albums of the training images."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor

from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.images.albums import find_albums
from mlcrf.inference import InferenceMethod
from mlcrf.latent import AlbumScores, choose_transitions, fit_transitions
from mlcrf.model import LabelCrf
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.finite import diverging
from mlcrf.training.progress import Log

Albums = list[list[int]]


def training_albums(
    train: Manifest, held_out: Manifest, gap_minutes: float
) -> tuple[Albums, Albums]:
    """Return the albums of both splits, as row numbers of their images.

    Args:
        gap_minutes: longest time between two photos of an album.

    Raises:
        DataError: no training album has two photos.
    """
    gap = timedelta(minutes=gap_minutes)
    albums = find_albums(train.images, gap=gap), find_albums(held_out.images, gap=gap)
    if all(len(album) < 2 for album in albums[0]):
        raise DataError(
            f"{train.name}: no two training photos are in one folder and taken close in time; "
            "leave out --album, or put the photos of an album into a folder of their own"
        )
    return albums


def learn_transitions(
    fitted: Fitted,
    method: InferenceMethod,
    examples: tuple[Examples, Examples],
    albums: tuple[Albums, Albums],
    *,
    log: Log,
) -> Fitted:
    """Return the models with transitions between the scenes of an album.

    The penalty is chosen on the albums of held-out images; their gain over separate images goes
    into the report. The final model learns from all albums.

    Args:
        method: a sum over scenes.
        examples, albums: for training and for held-out images.
    """
    train, held_out = (
        _scores(fitted.on_train, method, [part], [group])
        for part, group in zip(examples, albums, strict=True)
    )
    chosen = choose_transitions(train, held_out, log=log)
    everything = _scores(fitted.model, method, examples, albums)
    _assign(fitted.on_train, chosen.transitions)
    _assign(fitted.model, fit_transitions(everything, penalty=chosen.penalty))
    report = {"transition_penalty": chosen.penalty, "album_gain": chosen.gain}
    return replace(fitted, report=fitted.report | report)


@diverging("transitions")
@torch.no_grad()
def _scores(
    model: LabelCrf, method: InferenceMethod, examples: Sequence[Examples], albums: Sequence[Albums]
) -> AlbumScores:
    parts = [
        (model(torch.from_numpy(np.asarray(part.features))), torch.from_numpy(part.targets), group)
        for part, group in zip(examples, albums, strict=True)
    ]
    return AlbumScores.from_parts(parts, method)


@torch.no_grad()
def _assign(model: LabelCrf, transitions: Tensor) -> None:
    assert model.transitions is not None
    model.transitions.copy_(transitions)
