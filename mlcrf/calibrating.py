"""Calibrate a run on images of one's own: `mlcrf calibrate`."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlcrf import atomic
from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.calibration import (
    Adjustment,
    Calibration,
    Model,
    Surprises,
    measure_surprises,
    save_calibration,
)
from mlcrf.checkpoint import SPLITS, STATE, Run, load_run, load_splits
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Manifest
from mlcrf.data.readers.table import save_manifest
from mlcrf.decoding import Coverage, Decoder, Guarantee, make_ranker, rank_targets
from mlcrf.decoding.guarantees import scores_within_rules
from mlcrf.errors import DataError, RunError
from mlcrf.evaluation import answer, in_training
from mlcrf.inference import Independent, InferenceMethod
from mlcrf.inference.ranking import Standing
from mlcrf.metrics import Reliability
from mlcrf.reliability import Kind, measure_reliability
from mlcrf.shipped_models import is_shipped
from mlcrf.tempering import Tempering, choose_factors

LEVELS = (0.9, 0.95, 0.99)
COVERAGES = (0.8, 0.9, 0.95)
Reliabilities = dict[Kind, Reliability]


@dataclass(frozen=True)
class Support:
    """Support of calibration images for a precision of each label.

    Attributes:
        left_out: labels for which the precision cannot be had.
        share: share of the tags that calibration images have which is written.
        written: number of tags written per image.
    """

    precision: float
    confidence: float
    left_out: tuple[str, ...]
    share: float
    written: float


@dataclass(frozen=True)
class CalibrationReport:
    """A calibrated run.

    Attributes:
        skipped: number of images that were left out because the run was trained on them.
        support: what the CRF's marginals support, at some precisions.
        notes: remarks on the data.
        tempering: of `crf` and `independent`: the choice of factors of their potentials.
        reliability: of both models their reliability as they were learned, and with the factors
            that are kept; see `mlcrf.reliability`. Measured on the images that chose the factors.
        reaches: by coverage, the total probability that families of label sets of the CRF reach; 1
            if these are all label sets, because there are too few images. Empty if all labels are
            known of no image.
    """

    run: Run
    calibration: Calibration
    skipped: int
    support: tuple[Support, ...]
    notes: tuple[str, ...]
    tempering: dict[Model, Tempering]
    reliability: dict[Model, tuple[Reliabilities, Reliabilities]]
    reaches: dict[float, float]


def calibrate(
    run: Run,
    manifest: Manifest,
    extractor: FeatureSource | None = None,
    *,
    out: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationReport:
    """Keep what a run says of labelled images that it was not trained on.

    From these, thresholds of a promised precision or recall, and how far families of label sets go,
    are found when they are asked for. They choose factors of the potentials too, kept only where
    they help (`mlcrf.tempering`). They replace the calibration images that the run had, and the
    factors. Images that the run was trained on are left out.

    Args:
        manifest: images and targets; labels in any order.
        extractor: feature extractor; None creates it from the run's network.
        out: a copy of the run to make; None adds the images to the run itself.

    Raises:
        DataError: all images were used in training, or cannot be read; or no label is known.
        LabelsError: the data have other labels than the run.
        RunError: `out` exists, or is None and the run came with mlcrf.
    """
    require_place(run, out)
    learned = in_training(run, manifest)
    if learned.all():
        raise DataError(
            f"all {len(manifest)} images were used in training; calibrate on other images",
            manifest.name,
        )
    if run.factors:
        run = load_run(run.path, tempered=False)
    answers = answer(run, manifest.rows(np.flatnonzero(~learned)), extractor, progress=progress)
    targets = torch.from_numpy(answers.manifest.targets)
    methods: dict[Model, InferenceMethod] = {
        "crf": run.make_inference(),
        "independent": Independent(),
    }
    tempering = {
        model: choose_factors(answers.potentials[model], targets, method, seed=run.settings.seed)
        for model, method in methods.items()
    }
    marginals = {
        "crf": torch.from_numpy(answers.crf.marginals).float(),
        "independent": torch.from_numpy(answers.independent.marginals).float(),
    }
    adjustments: dict[Model, Adjustment] = {}
    reliability = {}
    standings: dict[str, Standing] = {}
    final = answers.potentials["crf"]
    for model, one in tempering.items():
        scaled = answers.potentials[model]
        before = after = measure_reliability(scaled, targets, methods[model])
        if one.is_kept:
            found = one.found
            scaled = scaled.scaled(found.unary, found.pairwise)
            with torch.no_grad():
                marginals[model] = methods[model](scaled).marginals.float()
            decoders = (
                decoder.tuned_again(marginals[model], targets)
                for decoder in run.decoders.get(model, ())
            )
            adjustments[model] = Adjustment(found, tuple(decoders))
            final = scaled if model == "crf" else final
            after = measure_reliability(scaled, targets, methods[model])
        reliability[model] = before, after
        ranker = make_ranker(methods[model], scaled)
        standings[model] = rank_targets(ranker, scaled, targets)
    whole = Calibration(
        marginals,
        targets,
        manifest.name,
        of_final=True,
        run=run.weights_digest,
        adjustments=adjustments,
        standings=standings,
        surprises=_surprises(methods["crf"], final, targets.long()),
    )
    calibration = whole.thinned(run.settings.seed)
    if out is None:
        calibration = save_calibration(run.path, calibration)
    else:
        calibration = _save_copy(run, out, calibration)
    run = load_run(out or run.path)
    support = tuple(measure_support(run, calibration, precision) for precision in LEVELS)
    standing = calibration.standings["crf"]
    reaches = {}
    for level in COVERAGES if bool(standing.ahead.isfinite().any()) else ():
        reach = Coverage(level).calibrated(standing, calibration.name).reach
        assert reach is not None
        reaches[level] = reach
    return CalibrationReport(
        run,
        calibration,
        int(learned.sum()),
        support,
        answers.notes,
        tempering,
        reliability,
        reaches,
    )


@torch.no_grad()
def _surprises(method: InferenceMethod, potentials: Potentials, targets: torch.Tensor) -> Surprises:
    return measure_surprises(method, potentials, method(potentials), targets)


def require_place(run: Run, out: Path | None) -> None:
    """Check the place of the calibration images before the work starts; see `calibrate`."""
    if out is None and is_shipped(run.path):
        raise RunError(f"{run.path.name} came with mlcrf and is not changed; give --out DIR")
    if out is not None and out.exists():
        raise RunError(f"{out}: exists already; choose another --out")


def measure_support(
    run: Run, calibration: Calibration, precision: float, confidence: float = 0.9
) -> Support:
    """Return what calibration images support at a precision of each label."""
    marginals, targets = calibration.marginals["crf"], calibration.targets
    decoder = Decoder.promising(Guarantee(precision, confidence=confidence)).calibrated(
        marginals, targets, run.rules, calibration.name
    )
    scores = scores_within_rules(marginals, run.rules)
    written = scores > torch.tensor(decoder.threshold, dtype=torch.float64)
    present = targets == 1
    return Support(
        precision,
        confidence,
        decoder.left_out(run.labels.names),
        float((written & present).sum() / present.sum().clamp(min=1)),
        float(written.sum() / len(targets)),
    )


def _save_copy(run: Run, out: Path, calibration: Calibration) -> Calibration:
    """Write the run with calibration images to a new directory, as a whole or not at all."""
    with atomic.folder_beside(out) as place:
        copy = place / "new"
        shutil.copytree(
            run.path, copy, ignore=shutil.ignore_patterns(STATE, SPLITS, "__pycache__", "*.py")
        )
        if (run.path / SPLITS).exists():
            save_manifest(copy / SPLITS, load_splits(run))
        calibration = save_calibration(copy, calibration)
        copy.rename(out)
    return calibration
