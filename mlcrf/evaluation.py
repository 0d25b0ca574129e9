"""Score a run on a data set: the CRF next to the independent baseline."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import SPLITS, Run, coverage_notes, guarantee_notes, load_splits
from mlcrf.choices import InferenceName
from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.rules import with_rules
from mlcrf.decoding import Coverage, Decoder
from mlcrf.decoding.family_measures import FamilyMeasures, measure_families
from mlcrf.errors import DataError, MlcrfWarning, PotentialsError, RunError, SettingsError
from mlcrf.hints import counted
from mlcrf.inference import (
    Gibbs,
    Independent,
    InferenceMethod,
    LogPartitionKind,
    Posterior,
    log_mass,
)
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.metrics import (
    SYMBOLS,
    Interval,
    Measures,
    Predictions,
    Statistics,
    Unknown,
    bootstrap_differences,
    gather_statistics,
)
from mlcrf.version import __version__

if TYPE_CHECKING:  # heavy
    import pandas as pd

COLUMNS = ("measure", "label", "independent", "crf", "difference", "low", "high", "symbol")


@dataclass(frozen=True)
class Answers:
    """Predictions of both models of a run for every image of a data set.

    Attributes:
        manifest: N images; labels as in the run, targets that obey its rules.
        at_k: number of labels of each image for the measures at k; None for no such measures.
        inference, decision: names of the inference method and the decision rule.
        nll_kind: whether the CRF's nll is exact, an estimate or a bound.
        unconverged: share of images whose inference did not converge.
        in_training: number of images that the run was trained or tuned on.
        notes: remarks for readers of the scores.
        hinted: number of images of which hints say something; None if none were read.
        surprise: log-probability under the CRF of its most probable label set, minus that of the
            most probable set that agrees with the targets; at least 0 if MAP is exact (N,). None
            if not requested.
        potentials, methods: those of `crf` and `independent`, of all images.
        coverage: the promise of families in the signature; empty if none is asked for.
        families: measures of the families of `crf` and `independent`; likewise.
    """

    manifest: Manifest
    crf: Predictions
    independent: Predictions
    inference: str
    decision: str
    nll_kind: LogPartitionKind
    unconverged: float
    in_training: int
    notes: tuple[str, ...]
    at_k: int | None = None
    hinted: int | None = None
    surprise: NDArray[np.float64] | None = None
    potentials: dict[str, Potentials] = field(default_factory=dict)
    methods: dict[str, InferenceMethod] = field(default_factory=dict)
    coverage: str = ""
    families: dict[str, FamilyMeasures] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run on one data set.

    Attributes:
        signature: everything that the scores depend on, in one line.
        models: measures of `independent` and `crf`.
        difference: by measure, CRF minus independent, with a 95 % interval.
        per_label: by label its number of positives and average precisions.
        at_k: number of labels of each image for the measures at k; None for no such measures.
        nll_kind: whether the CRF's nll is exact, an estimate or a bound.
        unconverged: share of images for which the CRF's inference did not converge.
        in_training: number of images that the run was trained or tuned on.
        notes: remarks for readers of the scores.
        unknown: numbers of targets that are unknown.
        families: of `independent` and `crf`, measures of the families of label sets of a promised
            coverage; empty if none is asked for.
    """

    signature: str
    models: dict[str, Measures]
    difference: dict[str, Interval]
    per_label: dict[str, dict[str, float]]
    at_k: int | None
    nll_kind: str
    unconverged: float
    in_training: int
    notes: tuple[str, ...]
    unknown: Unknown
    families: dict[str, FamilyMeasures] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per measure, then one row per label with its average precision.

        Columns: `measure`, `label` (empty if a measure is over all labels), `independent`, `crf`,
        `difference` (CRF minus independent), `low` and `high` (its 95 % interval; NaN for single
        labels), `symbol` (the measure's symbol in papers, such as CP; empty if it has none).
        """
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(COLUMNS))

    def rows(
        self,
    ) -> Iterator[tuple[str, str, float, float, float, float | None, float | None, str]]:
        """Yield the rows of `to_frame`; low and high are None for single labels."""
        for name, interval in self.difference.items():
            theirs, ours = (getattr(self.models[model], name) for model in ("independent", "crf"))
            yield name, "", theirs, ours, *interval, SYMBOLS.get(name, "")
        for label, scores in self.per_label.items():
            theirs, ours = scores["independent_average_precision"], scores["crf_average_precision"]
            yield "average_precision", label, theirs, ours, ours - theirs, None, None, "AP"


def evaluate(
    run: Run,
    manifest: Manifest,
    extractor: FeatureSource | None = None,
    *,
    split: str,
    inference: InferenceName | None = None,
    max_exact_labels: int | None = None,
    decoder: Decoder = Decoder(),
    at_k: int | None = None,
    evidence: Tensor | None = None,
    coverage: Coverage | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    scoring: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score both models of a run: `answer`, then `score`, which describe the arguments.

    Args:
        scoring: the `progress` of `score`.
    """
    answers = answer(
        run,
        manifest,
        extractor,
        inference=inference,
        max_exact_labels=max_exact_labels,
        decoder=decoder,
        at_k=at_k,
        evidence=evidence,
        coverage=coverage,
        progress=progress,
    )
    return score(run, answers, split=split, resamples=resamples, seed=seed, progress=scoring)


@torch.no_grad()
def answer(
    run: Run,
    manifest: Manifest,
    extractor: FeatureSource | None = None,
    *,
    inference: InferenceName | None = None,
    max_exact_labels: int | None = None,
    decoder: Decoder = Decoder(),
    at_k: int | None = None,
    evidence: Tensor | None = None,
    with_surprise: bool = False,
    coverage: Coverage | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Predict every image with both models of a run.

    Args:
        manifest: images and targets, labels in any order. Targets that break an implication of
            the run are repaired as in training, and the notes say so.
        extractor: feature extractor; None creates it from the run's network.
        inference: overrides the run's inference; noted in the result.
        max_exact_labels: overrides the run's limit.
        decoder: decision rule of both models, each with its own tuned thresholds. Subset accuracy
            always uses the most probable set. With costs there are measures of them, and a label
            that is left open counts in all others as one that is not chosen.
        at_k: number of labels that each image has for the measures at k: those of highest marginal,
            or by the score of the decoder if its rule is TOP_K. None for no such measures.
        evidence: log-odds that hints add to the unaries of both models (N, L), in the run's order
            of labels; see `mlcrf.prediction.hinting`.
        with_surprise: see `Answers`; costs one more MAP where labels are unknown.
        coverage: probability with which families of label sets hold the right one; of both models,
            each as the scores of the calibration images under it ask for.

    Warns:
        MlcrfWarning: inference did not converge for some images; the text names options to try.

    Raises:
        LabelsError: the data have other labels than the run.
        DataError: images that cannot be read; the text names all of them.
        RunError: marginals are not finite.
        SettingsError: `at_k` is below 1 or above the number of labels.
    """
    if at_k is not None and not 1 <= at_k <= len(run.labels):
        raise SettingsError(
            f"{run.path}: --at-k {at_k}: expected a number of labels from 1 to {len(run.labels)}"
        )
    run.require_input(manifest)
    promised = {}
    if coverage is not None:
        promised = {one: run.make_coverage(coverage, one) for one in ("crf", "independent")}
    manifest = with_rules(manifest.relabelled(run.labels), run.rules)
    if not (manifest.targets >= 0).any():
        raise DataError(
            f"{manifest.name}: no label of any of its {len(manifest)} images is known; choose "
            "another --split, or data with known labels"
        )
    extractor = extractor or make_source(run.defer_backbone())
    features = torch.from_numpy(extractor.matrix(manifest.images, progress=progress))
    method = run.make_inference(inference, max_exact_labels=max_exact_labels)
    known = torch.from_numpy(manifest.targets.astype(np.int64))
    try:
        potentials, uncoupled = run.crf(features), run.independent(features)
    except PotentialsError as error:
        raise RunError(f"{run.path}: of these images {error}; try --engine torch") from error
    if evidence is not None:
        potentials, uncoupled = (
            replace(one, unary=one.unary + evidence) for one in (potentials, uncoupled)
        )
    decoders = (decoder,) if at_k is None else (decoder, decoder.best(at_k))
    ours, theirs = (
        [run.make_decoder(one, model) for one in decoders] for model in ("crf", "independent")
    )
    crf, posterior = _predict(potentials, known, method, *ours)
    independent, _ = _predict(uncoupled, known, Independent(), *theirs)
    if posterior.advice:
        warnings.warn(posterior.advice, MlcrfWarning, stacklevel=2)
    both = {"crf": potentials, "independent": uncoupled}
    methods: dict[str, InferenceMethod] = {"crf": method, "independent": Independent()}
    families = {
        model: measure_families(
            one, methods[model], both[model], known, one.shares(features.numpy())
        )
        for model, one in promised.items()
    }
    learned = count_in_training(run, manifest)
    return Answers(
        manifest,
        crf,
        independent,
        inference=method.name,
        decision=(decoder if decoder.guarantee is None else ours[0]).signature,
        nll_kind=posterior.log_partition_kind,
        unconverged=int((~posterior.converged).sum()) / len(manifest),
        in_training=learned,
        notes=(
            *_training_notes(run, learned, len(manifest)),
            *manifest.notes,
            *_notes(run, method, posterior),
            *_rarity_notes(decoder, theirs[0], ours[0]),
            *_split_notes(method, potentials, known),
            *_hint_notes(evidence),
            *guarantee_notes(run, ours[0]),
            *coverage_notes(run, promised.get("crf")),
            *_family_notes(families),
        ),
        at_k=at_k,
        hinted=None if evidence is None else int((evidence != 0).any(1).sum()),
        surprise=_surprise(potentials, known, crf, method) if with_surprise else None,
        potentials=both,
        methods=methods,
        coverage=str(promised["crf"]) if promised else "",
        families=families,
    )


def score(
    run: Run,
    answers: Answers,
    *,
    split: str,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score the predictions of both models, with an interval of their difference.

    Args:
        split: name of the images in the signature.
        resamples, seed: number and random seed of the bootstrap resamples.
        progress: told of the resamples, as of `bootstrap_from`.
    """
    targets = answers.manifest.targets
    ours = gather_statistics(answers.crf, targets)
    theirs = gather_statistics(answers.independent, targets)
    unknown = Unknown.of(targets)
    parts = {
        "data": answers.manifest.name,
        "split": split,
        "images": len(answers.manifest),
        **unknown.signature,
        **({"in-training": answers.in_training} if answers.in_training else {}),
        "labels": len(run.labels),
        "model": run.digest[:12],
        **({"factors": _factors_signature(run)} if run.factors else {}),
        "trained": run.settings.objective.value,
        "inference": answers.inference,
        "decision": f"{answers.decision},map",
        **({} if answers.at_k is None else {"at-k": answers.at_k}),
        **({"coverage": answers.coverage} if answers.coverage else {}),
        **({} if answers.hinted is None else {"hinted": answers.hinted}),
        "bootstrap": resamples,
        "seed": seed,
        "mlcrf": __version__,
    }
    return Evaluation(
        signature="|".join(f"{key}:{value}" for key, value in parts.items()),
        models={"independent": theirs.measures(), "crf": ours.measures()},
        difference=bootstrap_differences(
            ours, theirs, resamples=resamples, seed=seed, progress=progress
        ),
        per_label=_per_label(run, targets, ours, theirs),
        at_k=answers.at_k,
        nll_kind=answers.nll_kind.value,
        unconverged=answers.unconverged,
        in_training=answers.in_training,
        notes=answers.notes,
        families=answers.families,
        unknown=unknown,
    )


def _factors_signature(run: Run) -> str:
    return ",".join(
        f"{model} {one.unary:.4g} {one.pairwise:.4g}" for model, one in run.factors.items()
    )


def in_training(run: Run, manifest: Manifest) -> NDArray[np.bool_]:
    """Return which images the run was trained or tuned on, by its splits.csv (N,).

    Images are matched by their absolute paths. A run without that table has none.
    """
    if not (run.path / SPLITS).exists():
        return np.zeros(len(manifest), dtype=bool)
    table = load_splits(run)
    splits = table.splits or (Split.TRAIN,) * len(table)
    pairs = zip(table.images, splits, strict=True)
    learned = {image.key for image, split in pairs if split is not Split.TEST}
    return np.array([image.key in learned for image in manifest.images], dtype=bool)


def count_in_training(run: Run, manifest: Manifest) -> int:
    """Return the number of images that the run was trained or tuned on; see `in_training`."""
    return int(in_training(run, manifest).sum())


def _training_notes(run: Run, in_training: int, images: int) -> list[str]:
    if not in_training:
        return []
    return [
        f"{in_training} of "
        f"{counted(images, 'image was', 'images were')} "
        f"used in training (see {run.path / SPLITS}): "
        "these scores are not those of a test"
    ]


def _notes(run: Run, method: InferenceMethod, posterior: Posterior) -> list[str]:
    """Return notes on how the CRF's predictions were inferred."""
    notes = []
    trained_for = run.make_inference()
    if method.name != trained_for.name:
        notes.append(f"trained for {trained_for.name} inference, decoded with {method.name}")
    kind = posterior.log_partition_kind
    if kind is not LogPartitionKind.EXACT:
        notes.append(f"nll of the crf rests on a log Z that is {article(kind)}")
    converged = posterior.converged
    if failed := int((~converged).sum()):
        notes.append(
            f"inference did not converge for {failed} of {counted(len(converged), 'image')}"
        )
    error = posterior.log_partition_error
    if error is not None and (unknown := int(error.isinf().sum())):
        notes.append(
            f"log Z is not known for {unknown} of "
            f"{counted(len(error), 'image')}: do not use the nll"
        )
    return notes


def _rarity_notes(asked: Decoder, independent: Decoder, crf: Decoder) -> Iterator[str]:
    if asked.rarity is None:
        yield f"rarity tuned on validation: {independent.rarity:g} independent, {crf.rarity:g} crf"


def _family_notes(families: dict[str, FamilyMeasures]) -> Iterator[str]:
    sampled = [model for model, one in families.items() if not one.is_exact]
    if sampled:
        yield (
            f"families of label sets of {' and '.join(sampled)} are found by samples, and their "
            "sizes are estimates"
        )


def _hint_notes(evidence: Tensor | None) -> Iterator[str]:
    if evidence is not None and not bool((evidence != 0).any()):
        yield "--hints names none of these images; check its image paths"


def _split_notes(
    method: InferenceMethod, potentials: Potentials, known: torch.Tensor
) -> Iterator[str]:
    """Note what was exact, for a method that depends on what is known: targets, if anything."""
    if isinstance(method, ExactOrGibbs):
        note = f"{method.name}: all images were predicted by gibbs, with nothing known"
        if bool((known == UNKNOWN).any()):
            parts = method.split(potentials, known)
            exact = sum(len(images) for one, images in parts if not isinstance(one, Gibbs))
            note += f"; unknown targets were summed out exactly for {exact} of {len(known)} images"
        yield note


def _predict(
    potentials: Potentials,
    known: torch.Tensor,
    method: InferenceMethod,
    decoder: Decoder,
    best: Decoder | None = None,
) -> tuple[Predictions, Posterior]:
    posterior = method(potentials)
    nll = posterior.log_partition - log_mass(method, potentials, known)
    if not bool(torch.isfinite(posterior.marginals).all() and torch.isfinite(nll).all()):
        raise RunError(f"{method.name} inference gives NaN or infinity; choose another --inference")
    chosen = decoder(posterior, potentials, method).numpy()
    at_k = None
    if best is not None:
        at_k = chosen if best == decoder else best(posterior, potentials, method).numpy()
    map_states = method.map_states(potentials)
    predictions = Predictions(
        marginals=posterior.marginals.double().numpy(),
        map_states=map_states.numpy(),
        nll=nll.double().numpy(),
        chosen=chosen,
        best=at_k,
        costs=None if decoder.costs is None else np.array(decoder.costs.rows()),
        set_probability=_set_probability(potentials, known, method, posterior, map_states),
    )
    return predictions, posterior


def _set_probability(
    potentials: Potentials,
    known: torch.Tensor,
    method: InferenceMethod,
    posterior: Posterior,
    map_states: torch.Tensor,
) -> NDArray[np.float64] | None:
    """Return the probability that the known labels are as in a label set, others summed out (N,).

    None where labels are unknown and inference is not exact.
    """
    is_exact = posterior.log_partition_kind is LogPartitionKind.EXACT
    if bool((known == UNKNOWN).any()) and not is_exact:
        return None
    states = torch.where(known == UNKNOWN, UNKNOWN, map_states)
    logs = log_mass(method, potentials, states) - posterior.log_partition
    return logs.double().exp().clamp(0, 1).numpy()


def _surprise(
    potentials: Potentials, known: torch.Tensor, crf: Predictions, method: InferenceMethod
) -> NDArray[np.float64]:
    states = [torch.from_numpy(crf.map_states), known]
    if bool((known == UNKNOWN).any()):
        states[1] = method.map_states(potentials, known=known)
    # log Z cancels
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
    """Return the kind with its article: exact, an estimate, a lower bound."""
    if kind is LogPartitionKind.EXACT:
        return kind.value
    return f"{'an' if kind is LogPartitionKind.ESTIMATE else 'a'} {kind.value}"
