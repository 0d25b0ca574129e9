"""Compare several runs on the same images."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import SPLITS, Run
from mlcrf.choices import InferenceName
from mlcrf.data.manifest import Manifest
from mlcrf.decoding import Coverage, Decoder
from mlcrf.decoding.family_measures import FamilyMeasures
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.evaluation import Answers, answer
from mlcrf.hints import counted
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.metrics import (
    SYMBOLS,
    Interval,
    Measures,
    Predictions,
    Unknown,
    bootstrap_from,
    gather_statistics,
)
from mlcrf.rules import Rules
from mlcrf.version import __version__

if TYPE_CHECKING:  # heavy
    import pandas as pd

COLUMNS = ("measure", "symbol", "run", "value", "difference", "low", "high")
_SHOWN = 5  # names of labels in a note


@dataclass(frozen=True)
class Comparison:
    """Scores of the CRFs of several runs on the same images; the first run is the reference.

    Attributes:
        signature: everything that the scores depend on, in one line.
        labels: the labels on which the runs are compared: those that all have.
        runs: measures by name of the run, in the given order.
        differences: by name of each run but the first: by measure, that run minus the first, with a
            95 % interval.
        in_training: by name of the run, the number of images that it was trained or tuned on.
        at_k: number of labels of each image for the measures at k; None for no such measures.
        notes: remarks for readers of the scores.
        unknown: numbers of targets that are unknown, of the labels that are compared.
        families: by name of the run, measures of its families of label sets of a promised coverage;
            empty if none is asked for.
    """

    signature: str
    labels: tuple[str, ...]
    runs: dict[str, Measures]
    differences: dict[str, dict[str, Interval]]
    in_training: dict[str, int]
    at_k: int | None
    notes: tuple[str, ...]
    unknown: Unknown
    families: dict[str, FamilyMeasures] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The name of the first run."""
        return next(iter(self.runs))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per measure and run.

        Columns: `measure`, `symbol` (see docs/measures.md), `run`, `value`, `difference` (this run
        minus the first), `low` and `high` (its 95 % interval; NaN for the first run).
        """
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(COLUMNS))

    def rows(
        self,
    ) -> Iterator[tuple[str, str, str, float, float | None, float | None, float | None]]:
        """Yield the rows of `to_frame`; None for the differences of the first run."""
        for measure in next(iter(self.differences.values())):
            for run, measures in self.runs.items():
                interval = self.differences.get(run, {}).get(measure, (None, None, None))
                yield measure, SYMBOLS.get(measure, ""), run, getattr(measures, measure), *interval


def compare(
    runs: Sequence[Run],
    manifest: Manifest,
    extractors: Sequence[FeatureSource] | None = None,
    *,
    split: str,
    inference: InferenceName | None = None,
    max_exact_labels: int | None = None,
    decoder: Decoder = Decoder(),
    at_k: int | None = None,
    evidence: Sequence[Tensor | None] | None = None,
    coverage: Coverage | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    scoring: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Score the CRFs of several runs on the same images and targets.

    The runs are compared on the labels that all of them and the data have. A run with more labels
    decides among all of its own; the others count as unknown in its nll, that is, summed out. The
    targets obey the rules of all runs. Of a table of numbers each run takes its own features.

    Args:
        runs: at least two; the first is the reference of all differences.
        manifest: images and targets, labels in any order; further labels are left out.
        extractors: feature extractor of each run; None creates them from the runs' networks.
        split: name of the images in the signature.
        inference, max_exact_labels, decoder, at_k: as of `evaluate`, for every run.
        evidence: of each run what hints add, as of `evaluate`.
        coverage: as of `evaluate`; each run has calibration images of its own.
        resamples, seed: number and random seed of the bootstrap resamples.
        progress, scoring: as of `evaluate`.

    Raises:
        SettingsError: fewer than two runs, or `at_k` or a coverage with runs of different labels.
        LabelsError: there is no label that all have.
        DataError: the data are no input of one of the runs; the rules of the runs contradict each
            other on an image; or see `evaluate`.
        RunError: see `evaluate`.
    """
    if len(runs) < 2:
        raise SettingsError("expected at least two runs to compare; for one, use mlcrf evaluate")
    for run in runs:
        run.take_input(manifest)
    labels, notes = _common_labels(runs, manifest)
    for option, value in (("--at-k", at_k), ("--coverage", coverage)):
        if value is not None and any(len(run.labels) > len(labels) for run in runs):
            raise SettingsError(
                f"{option} needs runs and data with the same labels, but these differ"
            )
    narrowed = _obeying(_narrowed(manifest, labels), runs)
    names = _names(runs)
    given = extractors or [make_source(run.defer_backbone()) for run in runs]
    answers = {
        name: answer(
            run,
            replace(run.take_input(narrowed), targets=_repaired(narrowed, run), labels=run.labels),
            extractor,
            inference=inference,
            max_exact_labels=max_exact_labels,
            decoder=decoder,
            at_k=at_k,
            evidence=added,
            coverage=coverage,
            progress=progress,
        )
        for name, run, extractor, added in zip(
            names, runs, given, evidence or [None] * len(runs), strict=True
        )
    }
    statistics = [
        gather_statistics(_restricted(one.crf, columns), narrowed.targets)
        for one in answers.values()
        for columns in [_columns(labels, one.manifest.labels)]
    ]
    reference, *others = statistics
    differences = bootstrap_from(
        reference, others, resamples=resamples, seed=seed, progress=scoring
    )
    unknown = Unknown.of(narrowed.targets)
    parts = {
        "data": narrowed.name,
        "split": split,
        "images": len(narrowed),
        **unknown.signature,
        "labels": len(labels),
        "models": ",".join(run.digest[:12] for run in runs),
        "inference": ",".join(one.inference for one in answers.values()),
        "decision": f"{_decision(decoder, answers)},map",
        **({} if at_k is None else {"at-k": at_k}),
        **({} if coverage is None else {"coverage": ";".join(dict.fromkeys(_coverages(answers)))}),
        "bootstrap": resamples,
        "seed": seed,
        "mlcrf": __version__,
    }
    return Comparison(
        signature="|".join(f"{key}:{value}" for key, value in parts.items()),
        labels=labels.names,
        runs={name: one.measures() for name, one in zip(names, statistics, strict=True)},
        differences=dict(zip(names[1:], differences, strict=True)),
        in_training={name: one.in_training for name, one in answers.items()},
        at_k=at_k,
        notes=(
            *notes,
            *narrowed.notes,
            *_unsure_notes(dict(zip(names, runs, strict=True))),
            *_notes(answers, narrowed),
        ),
        unknown=unknown,
        families={name: one.families["crf"] for name, one in answers.items() if one.families},
    )


def _decision(decoder: Decoder, answers: dict[str, Answers]) -> str:
    """Return the signature of the decisions; those of a promise by calibration images of a run."""
    if decoder.guarantee is None:
        return decoder.signature
    return ";".join(dict.fromkeys(one.decision for one in answers.values()))


def _coverages(answers: dict[str, Answers]) -> Iterator[str]:
    return (one.coverage for one in answers.values())


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the name of each run's folder, or its path where two have the same name."""
    counts = Counter(run.path.name for run in runs)
    names = [run.path.name if counts[run.path.name] == 1 else str(run.path) for run in runs]
    double = next((name for name, count in Counter(names).items() if count > 1), None)
    if double is not None:
        raise SettingsError(f"{double} is given twice; leave out one")
    return names


def _common_labels(runs: Sequence[Run], manifest: Manifest) -> tuple[LabelSpace, list[str]]:
    """Return the labels that all runs and the data have, with a note if some have more."""
    everyone = [run.labels.names for run in runs] + [manifest.labels.names]
    common = set.intersection(*map(set, everyone))
    if not common:
        places = ", ".join([*(str(run.path) for run in runs), manifest.name])
        raise LabelsError(f"there is no label that all of these have: {places}")
    left_out = [name for name in dict.fromkeys(sum(everyone, ())) if name not in common]
    notes = []
    if left_out:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        notes.append(
            f"compared on the {len(common)} labels that all runs and the data have; left out: "
            f"{', '.join(left_out[:_SHOWN])}{more}"
        )
    return LabelSpace(tuple(name for name in everyone[0] if name in common)), notes


def _columns(labels: LabelSpace, others: LabelSpace) -> list[int]:
    return [others.index(name) for name in labels]


def _narrowed(manifest: Manifest, labels: LabelSpace) -> Manifest:
    """Return the manifest with some of its labels, and without rules: those are the runs'."""
    columns = _columns(labels, manifest.labels)
    return replace(
        manifest, targets=manifest.targets[:, columns], labels=labels, rules=Rules(), mentions={}
    )


def _obeying(manifest: Manifest, runs: Sequence[Run]) -> Manifest:
    """Return the manifest with targets that obey the rules of all runs, with a note on changes."""
    targets = manifest.targets
    for _ in range(2):  # what one run's rules set may be what another's need
        for run in runs:
            repaired = _repaired(replace(manifest, targets=targets), run)
            targets = repaired[:, _columns(manifest.labels, run.labels)]
    for run in runs:
        repaired = _repaired(replace(manifest, targets=targets), run)
        changed = (repaired[:, _columns(manifest.labels, run.labels)] != targets).any(1)
        if changed.any():
            image = manifest.images[int(changed.argmax())]
            raise DataError(f"{image}: the rules of {run.path} contradict those of another run")
    count = int((targets != manifest.targets).sum())
    notes = (
        [
            f"{counted(count, 'label was', 'labels were')} "
            "changed or filled in by the rules of the runs"
        ]
        if count
        else []
    )
    return replace(manifest, targets=targets, notes=(*manifest.notes, *notes))


def _repaired(manifest: Manifest, run: Run) -> NDArray[np.int8]:
    """Return targets of all labels of a run that obey its rules; unknown where nothing follows."""
    targets = np.full((len(manifest), len(run.labels)), UNKNOWN, dtype=np.int8)
    targets[:, _columns(manifest.labels, run.labels)] = manifest.targets
    return run.rules.repair(targets)[0]


def _restricted(predictions: Predictions, columns: list[int]) -> Predictions:
    """Return the predictions of some labels; nll and sets are those of the known ones as it is."""
    chosen, best = (
        None if one is None else one[:, columns] for one in (predictions.chosen, predictions.best)
    )
    return Predictions(
        predictions.marginals[:, columns],
        predictions.map_states[:, columns],
        predictions.nll,
        chosen,
        best,
        None if predictions.costs is None else predictions.costs[:, columns],
        predictions.set_probability,
    )


def _unsure_notes(runs: dict[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        if not (run.path / SPLITS).exists():
            yield f"{name} has no {SPLITS}: whether it was trained on these images is not known"


def _notes(answers: dict[str, Answers], manifest: Manifest) -> Iterator[str]:
    for name, one in answers.items():
        for note in one.notes:
            if note not in manifest.notes:
                yield f"{name}: {note}"
