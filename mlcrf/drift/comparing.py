"""Compare images with the calibration images of a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.backbones.sources import make_source
from mlcrf.calibration import Calibration, measure_surprises
from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Manifest
from mlcrf.data.rules import with_rules
from mlcrf.drift.permutation import compare_means
from mlcrf.drift.scores import Quantity, Sample, Score, statistics_of
from mlcrf.errors import DataError, PotentialsError, RunError, SettingsError
from mlcrf.evaluation import in_training
from mlcrf.hints import are, counted
from mlcrf.labels import UNKNOWN, LabelSpace

LEAST_IMAGES = 10  # of each sample
MOST_IMAGES = 20_000  # that are compared, drawn at random
_AT_ONCE = 2048
_MOST_FINDINGS = 50  # of a score that a report lists, beside all that changed


@dataclass(frozen=True)
class Finding:
    """Difference of one quantity.

    Attributes:
        labels: its labels: one, two, or none for a whole label set.
        reference, here: mean over the calibration images, and over the compared ones.
        standardised: difference in standard errors.
        p_value: probability, without a drift, that the largest difference of its score is as large
            as this one.
    """

    quantity: Quantity
    labels: tuple[str, ...]
    reference: float
    here: float
    standardised: float
    p_value: float


@dataclass(frozen=True)
class Verdict:
    """Answer of one score.

    Attributes:
        p_value: probability, without a drift, of a difference as large as the largest: the rate of
            false alarms at which the score would report it.
        found: whether it reports a drift, so that all scores together report a false one with at
            most the rate that was asked for (Holm).
        findings: the largest differences, the most significant first.
    """

    score: Score
    p_value: float
    found: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class DriftReport:
    """Comparison of images with the calibration images of a run.

    Attributes:
        data, reference: names of the images and of the calibration images.
        images, reference_images: numbers of these.
        with_targets: whether the labels of the images were compared, too.
        rate: probability of a false alarm of any score.
        permutations, seed: of the test.
        verdicts: one for each score.
        in_training: number of images that were left out because the run was trained on them.
        notes: remarks for readers.
    """

    data: str
    reference: str
    images: int
    reference_images: int
    with_targets: bool
    rate: float
    permutations: int
    seed: int
    verdicts: tuple[Verdict, ...]
    in_training: int = 0
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Return whether any score reports a drift."""
        return any(one.found for one in self.verdicts)


def find_drift(
    run: Run,
    manifest: Manifest,
    extractor: FeatureSource | None = None,
    *,
    use_targets: bool = True,
    rate: float = 0.05,
    permutations: int = 999,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DriftReport:
    """Compare images with those that a run was calibrated on; see `compare_samples`.

    Args:
        manifest: images, and targets if known; without targets only what the run says of the
            images is compared. Images that cannot be read, and those that the run was trained or
            tuned on, are left out.
        extractor: feature extractor; None creates it from the run's network.
        use_targets: whether targets are compared, where the manifest has some.
        rate, permutations, seed: see `compare_samples`.

    Raises:
        RunError: the run has no calibration images.
        LabelsError: the data have targets of other labels than the run.
        DataError: too few images, or none that can be read.
        SettingsError: see `compare_samples`.
    """
    _check_settings(rate, permutations)
    calibration = run.load_calibration()
    run.require_input(manifest)
    notes = []
    if use_targets:
        manifest = with_rules(manifest.relabelled(run.labels), run.rules)
    learned = in_training(run, manifest)
    manifest = manifest.rows(_drawn(np.flatnonzero(~learned), seed))
    _require_images(len(manifest), manifest.name, int(learned.sum()))
    if len(manifest) < len(learned) - int(learned.sum()):
        notes.append(
            f"{len(manifest)} of {counted(int((~learned).sum()), 'image')} were drawn at random"
        )
    extractor = extractor or make_source(run.defer_backbone())
    rows, features, errors = extractor.readable(manifest.images, progress=progress)
    if errors:
        notes.append(
            f"{counted(len(errors), 'image')} that cannot be read {are(len(errors))} "
            f"left out: {errors[0]}"
        )
    manifest = manifest.rows(np.array(rows))
    _require_images(len(manifest), manifest.name, int(learned.sum()))
    targets = manifest.targets
    if not use_targets:
        targets = np.full((len(manifest), len(run.labels)), UNKNOWN, dtype=np.int8)
    with_targets = bool((targets != UNKNOWN).any())
    reference, new = _sample_of(calibration), describe(run, features, targets)
    verdicts = compare_samples(
        reference,
        new,
        run.labels,
        with_targets=with_targets,
        rate=rate,
        permutations=permutations,
        seed=seed,
    )
    return DriftReport(
        manifest.name,
        calibration.name,
        len(new),
        len(reference),
        with_targets,
        rate,
        permutations,
        seed,
        verdicts,
        int(learned.sum()),
        (*manifest.notes, *notes, *_notes(run, calibration, new, with_targets=with_targets)),
    )


@torch.no_grad()
def describe(run: Run, features: NDArray[np.float32], targets: NDArray[np.int8]) -> Sample:
    """Return what a run says of images.

    Args:
        features: (N, D).
        targets: 1, 0 or -1 for unknown (N, L).

    Raises:
        RunError: potentials or marginals are not finite.
    """
    method, known = run.make_inference(), torch.from_numpy(targets.astype(np.int64))
    parts = []
    for start in range(0, len(features), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        try:
            potentials = run.crf(torch.from_numpy(features[part]))
        except PotentialsError as error:
            raise RunError(f"{run.path}: of these images {error}; try --engine torch") from error
        posterior = method(potentials)
        surprises = measure_surprises(method, potentials, posterior, known[part])
        parts.append((posterior.marginals.double(), *surprises))
    marginals, surprise, likeliest = (torch.cat(one).numpy() for one in zip(*parts, strict=True))
    if not np.isfinite(marginals).all():
        raise RunError(f"{run.path}: {method.name} inference gives NaN; train with another")
    return Sample(marginals, targets, surprise, likeliest)


def compare_samples(
    reference: Sample,
    new: Sample,
    labels: LabelSpace,
    *,
    with_targets: bool,
    rate: float = 0.05,
    permutations: int = 999,
    seed: int = 0,
) -> tuple[Verdict, ...]:
    """Compare two samples of images by three scores: of labels, of pairs, of whole label sets.

    Each score is the largest difference of the means of its quantities (`Quantity`), in standard
    errors, and is tested by permutation (`compare_means`): exact if the images of both samples
    are drawn independently from one distribution. Holm's procedure over the scores keeps the
    probability that any of them reports a drift, if there is none, at `rate`.

    Args:
        with_targets: whether targets are compared.

    Raises:
        SettingsError: a rate that is not between 0 and 1, or too few permutations for it.

    Cost: O(permutations (M + N) K) with K quantities, at most 4 of each label and 3 of each of 500
    pairs.
    """
    _check_settings(rate, permutations)
    found: dict[Score, tuple[float, list[Finding]]] = {}
    for score, groups in statistics_of(reference, new, with_targets=with_targets).items():
        values = np.concatenate([one.values for one in groups], 1)
        change = compare_means(
            values[: len(reference)], values[len(reference) :], permutations=permutations, seed=seed
        )
        names = [(one.quantity, columns) for one in groups for columns in one.labels]
        order = np.argsort(-np.abs(change.standardised), kind="stable").tolist()
        findings = [
            Finding(
                names[at][0],
                tuple(labels.names[column] for column in names[at][1]),
                float(change.reference[at]),
                float(change.new[at]),
                float(change.standardised[at]),
                float(change.p_values[at]),
            )
            for at in order
        ]
        found[score] = change.p_value, findings
    reported = holm({score: p for score, (p, _) in found.items()}, rate)
    return tuple(
        Verdict(
            score,
            p,
            score in reported,
            tuple(
                one for at, one in enumerate(findings) if at < _MOST_FINDINGS or one.p_value <= rate
            ),
        )
        for score, (p, findings) in found.items()
    )


def holm(p_values: Mapping[Score, float], rate: float) -> frozenset[Score]:
    """Return the scores that report a drift, any falsely with a probability of at most `rate`.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    reported = set()
    for at, (score, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > rate / (len(p_values) - at):
            break
        reported.add(score)
    return frozenset(reported)


def _check_settings(rate: float, permutations: int) -> None:
    if not 0 < rate < 1:
        raise SettingsError(f"rate: expected a number between 0 and 1, such as 0.05, got {rate:g}")
    least = int(np.ceil(len(Score) / rate)) - 1
    if permutations < least:
        raise SettingsError(
            f"permutations: a rate of {rate:g} needs at least {least}, got {permutations}"
        )


def _sample_of(calibration: Calibration) -> Sample:
    surprises = calibration.surprises
    surprise, likeliest = (
        (None, None) if surprises is None else (one.double().numpy() for one in surprises)
    )
    marginals = calibration.marginals["crf"].double().numpy()
    return Sample(marginals, calibration.targets.numpy(), surprise, likeliest)


def _drawn(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    if len(rows) <= MOST_IMAGES:
        return rows
    drawn: NDArray[np.int64] = np.random.default_rng(seed).choice(rows, MOST_IMAGES, replace=False)
    return np.sort(drawn)


def _require_images(count: int, name: str, in_training: int) -> None:
    if count >= LEAST_IMAGES:
        return
    used = f" ({in_training} more were used in training)" if in_training else ""
    raise DataError(
        f"{counted(count, 'image')} "
        f"to compare{used}; expected at least {LEAST_IMAGES}, better hundreds",
        name,
    )


def _notes(run: Run, calibration: Calibration, new: Sample, *, with_targets: bool) -> Iterator[str]:
    if not calibration.of_final:
        yield (
            "the calibration images were judged by the model before its last fit, which included "
            "them: a small difference may be that of the two; `mlcrf calibrate` on other images "
            "removes it"
        )
    if calibration.surprises is None:
        yield (
            f"{run.path} has no surprise of its calibration images, so whole label sets are not "
            "compared; make them again with `mlcrf calibrate`"
        )
    elif with_targets and new.surprise is not None and np.isnan(new.surprise).any():
        whole = int((~np.isnan(new.surprise)).sum())
        yield (
            f"all labels are known of {whole} of "
            f"{counted(len(new), 'image')}: only theirs are label sets"
        )
