"""Score a run on a data set: the CRF and the independent baseline side by side."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import Run
from mlcrf.choices import InferenceName
from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.data.implications import with_implications
from mlcrf.data.manifest import Manifest
from mlcrf.decoding import Decoder
from mlcrf.errors import DataError, PotentialsError, RunError
from mlcrf.inference import Independent, InferenceMethod, LogPartitionKind, log_mass
from mlcrf.metrics import (
    Measures,
    Predictions,
    Statistics,
    bootstrap_differences,
    gather_statistics,
)
from mlcrf.version import __version__

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Answers:
    """What both models of a run say of every image of a data set.

    Attributes:
        manifest: N images; labels as in the run, targets that obey its implications.
        crf, independent: the predictions of each.
        inference, decision: names of what inferred and of what decided.
        nll_kind: whether the CRF's nll is exact, an estimate or a bound.
        notes: what a reader of the figures should know.
        surprise: by how many nats the CRF holds the label set that it thinks likeliest for
            likelier than the likeliest one that agrees with the targets; at least 0 if its MAP
            is exact (N,). None if it was not asked for.
    """

    manifest: Manifest
    crf: Predictions
    independent: Predictions
    inference: str
    decision: str
    nll_kind: LogPartitionKind
    notes: tuple[str, ...]
    surprise: NDArray[np.float64] | None = None


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
    """Score both models of a run: `answer`, then `score`, which say what the arguments are."""
    answers = answer(
        run,
        manifest,
        extractor,
        inference=inference,
        max_exact_labels=max_exact_labels,
        decoder=decoder,
        progress=progress,
    )
    return score(run, answers, split=split, resamples=resamples, seed=seed)


@torch.no_grad()
def answer(
    run: Run,
    manifest: Manifest,
    extractor: FeatureExtractor,
    *,
    inference: InferenceName | None = None,
    max_exact_labels: int | None = None,
    decoder: Decoder = Decoder(),
    with_surprise: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Ask both models of a run about every image.

    Args:
        manifest: images and targets, labels in any order. Targets that break an implication of
            the run are repaired as they were in training, and the notes say so.
        inference: another one than the run was trained for; noted in the result.
        max_exact_labels: in place of that setting of the run.
        decoder: how both models choose label sets, each with thresholds of its own if the rule
            has some. Subset accuracy is always that of the most probable set.
        with_surprise: see `Answers`; where labels are unknown it takes one more MAP.

    Raises:
        LabelsError: the data have other labels than the run.
        DataError: pictures that cannot be read, all of them named.
        RunError: beliefs in labels are not finite.
    """
    manifest = with_implications(manifest.relabelled(run.labels), run.implications)
    if not (manifest.targets >= 0).any():
        raise DataError(
            f"{manifest.name}: no label of any of its {len(manifest)} images is known; choose "
            "another --split, or data that say 0 or 1"
        )
    features = torch.from_numpy(extractor.matrix(manifest.images, progress=progress))
    trained_for = run.make_inference()
    method = run.make_inference(inference, max_exact_labels=max_exact_labels)
    notes = list(manifest.notes)
    if method.name != trained_for.name:
        notes.append(f"trained for {trained_for.name} inference, decoded with {method.name}")
    targets = manifest.targets
    known = torch.from_numpy(targets.astype(np.int64))
    try:
        potentials, uncoupled = run.crf(features), run.independent(features)
    except PotentialsError as error:
        raise RunError(f"{run.path}: of these pictures {error}; try --engine torch") from error
    crf, kind = _predict(potentials, known, method, run.make_decoder(decoder))
    independent, _ = _predict(
        uncoupled, known, Independent(), run.make_decoder(decoder, "independent")
    )
    if kind is not LogPartitionKind.EXACT:
        notes.append(f"nll of the crf rests on a log Z that is {article(kind)}")
    return Answers(
        manifest,
        crf,
        independent,
        inference=method.name,
        decision=decoder.signature,
        nll_kind=kind,
        notes=tuple(notes),
        surprise=_surprise(potentials, known, crf, method) if with_surprise else None,
    )


def score(
    run: Run, answers: Answers, *, split: str, resamples: int = 1000, seed: int = 0
) -> Evaluation:
    """Measure the answers of both models, and how sure the difference is.

    Args:
        split: what the images are called in the signature.
        resamples, seed: of the bootstrap.
    """
    targets = answers.manifest.targets
    ours = gather_statistics(answers.crf, targets)
    theirs = gather_statistics(answers.independent, targets)
    parts = {
        "data": answers.manifest.name,
        "split": split,
        "images": len(answers.manifest),
        "labels": len(run.labels),
        "model": run.digest[:12],
        "trained": run.settings.objective.value,
        "inference": answers.inference,
        "decision": f"{answers.decision},map",
        "bootstrap": resamples,
        "seed": seed,
        "mlcrf": __version__,
    }
    return Evaluation(
        signature="|".join(f"{key}:{value}" for key, value in parts.items()),
        models={"independent": theirs.measures(), "crf": ours.measures()},
        difference=bootstrap_differences(ours, theirs, resamples=resamples, seed=seed),
        per_label=_per_label(run, targets, ours, theirs),
        nll_kind=answers.nll_kind.value,
        notes=answers.notes,
    )


def _predict(
    potentials: Potentials, known: torch.Tensor, method: InferenceMethod, decoder: Decoder
) -> tuple[Predictions, LogPartitionKind]:
    posterior = method(potentials)
    nll = posterior.log_partition - log_mass(method, potentials, known)
    if not bool(torch.isfinite(posterior.marginals).all() and torch.isfinite(nll).all()):
        raise RunError(f"{method.name} inference gives NaN or infinity; choose another --inference")
    predictions = Predictions(
        marginals=posterior.marginals.double().numpy(),
        map_states=method.map_states(potentials).numpy(),
        nll=nll.double().numpy(),
        chosen=decoder(posterior, potentials, method).numpy(),
    )
    return predictions, posterior.log_partition_kind


def _surprise(
    potentials: Potentials, known: torch.Tensor, crf: Predictions, method: InferenceMethod
) -> NDArray[np.float64]:
    """See `Answers`."""
    states = [torch.from_numpy(crf.map_states), known]
    if bool((known == UNKNOWN).any()):
        states[1] = method.map_states(potentials, known=known)
    # log Z stands on both sides
    likeliest, agreeing = (log_mass(method, potentials, one) for one in states)
    return (likeliest - agreeing).double().numpy()


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


def article(kind: LogPartitionKind) -> str:
    """As a sentence has it: exact, an estimate, a lower bound."""
    if kind is LogPartitionKind.EXACT:
        return kind.value
    return f"{'an' if kind is LogPartitionKind.ESTIMATE else 'a'} {kind.value}"
