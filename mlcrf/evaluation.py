"""Score a run on a data set: the CRF and the independent baseline side by side."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import Run
from mlcrf.choices import InferenceName
from mlcrf.crf import UNKNOWN, Potentials, ScenePotentials
from mlcrf.datasets.implications import with_implications
from mlcrf.datasets.manifest import Manifest
from mlcrf.decoding import Decoder
from mlcrf.errors import DataError
from mlcrf.inference import Independent, InferenceMethod, LogPartitionKind
from mlcrf.metrics import (
    Measures,
    Predictions,
    Statistics,
    bootstrap_differences,
    gather_statistics,
)
from mlcrf.model import LabelCrf
from mlcrf.version import __version__

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run on one data set.

    Attributes:
        signature: everything that the figures depend on, in one line.
        models: measures of `independent` and `crf`.
        difference: by measure, CRF minus independent, with a 95 % interval.
        per_label: by label its number of positives and average precisions.
        nll_kind: whether the CRF's nll is exact, an estimate or a bound.
        notes: what a reader of the figures should know.
    """

    signature: str
    models: dict[str, Measures]
    difference: dict[str, Interval]
    per_label: dict[str, dict[str, float]]
    nll_kind: str
    notes: tuple[str, ...]


def evaluate(
    run: Run,
    manifest: Manifest,
    extractor: FeatureExtractor,
    *,
    split: str,
    inference: InferenceName | None = None,
    max_exact_labels: int | None = None,
    decoder: Decoder = Decoder(),
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score both models of a run.

    Args:
        manifest: images and targets, labels in any order. Targets that break an implication of
            the run are repaired as they were in training, and the notes say so.
        split: what the images are called in the signature.
        inference: another one than the run was trained for; noted in the result.
        max_exact_labels: in place of that setting of the run.
        decoder: how both models choose label sets, each with thresholds of its own if the rule
            has some. Subset accuracy is always that of the most probable set.
        resamples, seed: of the bootstrap.

    Raises:
        LabelsError: the data have other labels than the run.
        DataError: pictures that cannot be read, all of them named.
    """
    manifest = with_implications(manifest.relabelled(run.labels), run.implications)
    if not (manifest.targets >= 0).any():
        raise DataError(f"{manifest.name}: no label of any image in split {split} is known")
    features = torch.from_numpy(extractor.matrix(manifest.images, progress=progress))
    trained_for = run.make_inference()
    method = run.make_inference(inference, max_exact_labels=max_exact_labels)
    notes = list(manifest.notes)
    if method.name != trained_for.name:
        notes.append(f"trained for {trained_for.name} inference, decoded with {method.name}")
    targets = manifest.targets
    crf, kind = _predict(run.crf, features, targets, method, run.make_decoder(decoder))
    independent, _ = _predict(
        run.independent,
        features,
        targets,
        Independent(),
        run.make_decoder(decoder, "independent"),
    )
    if kind is not LogPartitionKind.EXACT:
        notes.append(f"nll of the crf rests on a log Z that is {_article(kind)}")
    ours, theirs = gather_statistics(crf, targets), gather_statistics(independent, targets)
    parts = {
        "data": manifest.name,
        "split": split,
        "images": len(manifest),
        "labels": len(run.labels),
        "model": run.digest[:12],
        "trained": run.settings.objective.value,
        "inference": method.name,
        "decision": f"{decoder.signature},map",
        "bootstrap": resamples,
        "seed": seed,
        "mlcrf": __version__,
    }
    return Evaluation(
        signature="|".join(f"{key}:{value}" for key, value in parts.items()),
        models={"independent": theirs.measures(), "crf": ours.measures()},
        difference=bootstrap_differences(ours, theirs, resamples=resamples, seed=seed),
        per_label=_per_label(run, targets, ours, theirs),
        nll_kind=kind.value,
        notes=tuple(notes),
    )


@torch.no_grad()
def _predict(
    model: LabelCrf,
    features: torch.Tensor,
    targets: NDArray[np.int8],
    method: InferenceMethod,
    decoder: Decoder,
) -> tuple[Predictions, LogPartitionKind]:
    potentials: Potentials = model(features)
    known = torch.from_numpy(targets.astype(np.int64))
    posterior = method(potentials)
    if bool((known == UNKNOWN).any()) or isinstance(potentials, ScenePotentials):
        clamped = method(potentials, known=known).log_partition
    else:
        clamped = potentials.log_score(known)
    predictions = Predictions(
        marginals=posterior.marginals.double().numpy(),
        map_states=method.map_states(potentials).numpy(),
        nll=(posterior.log_partition - clamped).double().numpy(),
        chosen=decoder(posterior, potentials, method).numpy(),
    )
    return predictions, posterior.log_partition_kind


def _per_label(
    run: Run, targets: NDArray[np.int8], crf: Statistics, independent: Statistics
) -> dict[str, dict[str, float]]:
    ours, theirs = crf.average_precisions(), independent.average_precisions()
    return {
        name: {
            "positives": int((targets[:, column] == 1).sum()),
            "independent_average_precision": float(theirs[column]),
            "crf_average_precision": float(ours[column]),
        }
        for column, name in enumerate(run.labels)
    }


def _article(kind: LogPartitionKind) -> str:
    return f"{'an' if kind is LogPartitionKind.ESTIMATE else 'a'} {kind.value}"
