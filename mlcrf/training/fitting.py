"""Fits of the CRF and of the independent baseline on given features."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mlcrf.backbones.feature_matrix import read_spread, spread_rows
from mlcrf.calibration import Surprises, measure_surprises
from mlcrf.choices import Decision, InferenceName, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder, estimate_frequencies, rank_targets
from mlcrf.inference import LogPartitionKind
from mlcrf.inference.ranking import EnumeratingRanker, Standing, can_enumerate
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.processes import ALONE
from mlcrf.rules import Rules
from mlcrf.tempering import MOST_IMAGES, choose_factors
from mlcrf.training.album_fit import Albums, learn_transitions
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment
from mlcrf.training.finite import diverging, require_finite
from mlcrf.training.members import make_trainer
from mlcrf.training.mentions import draw_unmentioned
from mlcrf.training.plan import Plan, plan_training
from mlcrf.training.progress import Log, TaskStarted
from mlcrf.training.stacking import ENOUGH
from mlcrf.training.stages import Stages
from mlcrf.training.time_to_go import FitsPlanned

_AT_ONCE = 4096  # images per chunk of marginals
_MOST_RANKED = 2000  # held-out images whose label sets are ranked
_TYPICAL_K = 5  # labels per image that rarity is tuned for; the best hardly depends on it


@dataclass(frozen=True)
class FittedModels:
    """Both models, fitted on the same features.

    Attributes:
        decoders: tuned decisions of `crf` and `independent`; see `tune_decoders`.
        held_out: of each of the two, P(y_i = 1) and targets (N, L) of the images that decisions
            were tuned on, by models that were not fitted to these.
    """

    plan: Plan
    crf: Fitted
    independent: Fitted
    decoders: dict[str, tuple[Decoder, ...]]
    held_out: dict[str, tuple[Tensor, Tensor]]


def fit_features(
    train: Examples,
    validation: Examples,
    labels: LabelSpace,
    settings: TrainSettings,
    rules: Rules = Rules(),
    *,
    log: Log = lambda event: None,
) -> FittedModels:
    """Plan by the training targets, and fit both models; nothing is kept on disk."""
    plan = plan_training(settings, labels, train.targets, rules)
    return fit_models(train, validation, plan, stages=Stages(None, ""), log=log)


def fit_baseline(
    train: Examples, validation: Examples, labels: LabelSpace, settings: TrainSettings
) -> Fitted:
    """Fit only the independent baseline."""
    update = {"structure": Structure.INDEPENDENT, "schedule": Schedule.AUTO}  # of couplings
    alone = settings.model_copy(update=update)
    plan = plan_training(alone, labels, train.targets, Rules())
    trainer, whole = make_trainer(train, validation, plan, Stages(None, ""), lambda event: None)
    return whole(trainer.fit_independent())


def fit_models(
    train: Examples,
    validation: Examples,
    plan: Plan,
    *,
    stages: Stages,
    albums: tuple[Albums, Albums] | None = None,
    environment: Environment = Environment(),
    log: Log = lambda event: None,
    finished: Callable[[str], None] = lambda part: None,
) -> FittedModels:
    """Fit the CRF and the independent baseline, and tune decisions.

    Args:
        validation: chooses penalties; the choice is fitted on both parts.
        albums: training and validation albums, to learn how scenes follow each other.
        finished: called with the name of each part that is finished, to time it.
    """
    examples = train, validation
    log(TaskStarted("principal axes of the features"))
    trainer, whole = make_trainer(*examples, plan, stages, log, environment)
    log(TaskStarted("time of a gradient"))
    log(FitsPlanned(trainer.outlook()))
    independent = trainer.fit_independent()
    finished("independent")
    if plan.settings.structure is Structure.INDEPENDENT:
        crf = replace(
            independent,
            model=_with_rules(independent.model, plan.rules),
            on_train=_with_rules(independent.on_train, plan.rules),
        )
    else:
        crf = trainer.fit_crf(independent)
        # on the same images, to which those of folds belong where validation images are few
        compared = crf.report.get("loss_of_baseline", independent.score)
        independent = replace(independent, score=compared)
        if albums is not None and plan.exact is not None:
            crf = learn_transitions(crf, plan.exact, examples, albums, log=log)
    crf, independent = whole(crf), whole(independent)
    if albums is None and plan.silence is None:  # whose parts were fitted for one another
        crf, independent = (
            _tempered(name, one, validation, plan.settings, inference, log)
            for name, one, inference in (
                ("crf", crf, plan.inference),
                ("independent", independent, InferenceName.AUTO),
            )
        )
    finished("crf")
    log(TaskStarted("thresholds", is_last=True))
    decoders, held_out = {}, {}
    for name, fitted, inference in (
        ("crf", crf, plan.inference),
        ("independent", independent, InferenceName.AUTO),
    ):
        decoders[name], held_out[name] = tune_decoders(
            fitted, examples, plan.settings, inference, plan.silence
        )
    return FittedModels(plan, crf, independent, decoders, held_out)


@torch.no_grad()
def _tempered(
    name: str,
    fitted: Fitted,
    validation: Examples,
    settings: TrainSettings,
    inference: InferenceName,
    log: Log,
) -> Fitted:
    """Return the fit with the factors that validation images choose, if these are enough.

    They are chosen for the model before the fit to all images, and used for the finished one.
    """
    if len(validation.targets) < ENOUGH or fitted.held_out:
        return fitted
    rows = spread_rows(len(validation.targets), MOST_IMAGES)
    potentials = fitted.on_train(torch.from_numpy(read_spread(validation.features, rows)))
    targets = torch.from_numpy(validation.targets[rows])
    method = fitted.on_train.make_inference(inference, settings)
    with diverging("factors"):
        found = choose_factors(potentials, targets, method, seed=settings.seed)
    log(f"factors of {name} by validation images: {found}")
    if not found.is_kept:
        return fitted
    unary, pairwise = found.found.unary, found.found.pairwise
    return replace(
        fitted,
        model=fitted.model.scaled(unary, pairwise),
        on_train=fitted.on_train.scaled(unary, pairwise),
        report=fitted.report | {"unary_factor": unary, "pairwise_factor": pairwise},
    )


@torch.no_grad()
def tune_decoders(
    fitted: Fitted,
    examples: tuple[Examples, Examples],
    settings: TrainSettings,
    inference: InferenceName,
    silence: Tensor | None = None,
) -> tuple[tuple[Decoder, ...], tuple[Tensor, Tensor]]:
    """Tune one threshold for micro F1, one per label for macro F1, and the rarity for k labels.

    Returns:
        The decoders, and marginals and targets of the images that they were tuned on (N, L).

    Args:
        fitted: its decisions are tuned on images that it was not fitted on.
        examples: training and validation images.
        silence: evidence of sources that list only a part of what is present.

    Raises:
        RunError: marginals are not finite.
    """

    def infer(model: LabelCrf, part: Examples) -> Tensor:
        method = model.make_inference(inference, settings)
        rows = ALONE.blocks(len(part.targets), _AT_ONCE)
        with diverging("thresholds"):
            found = torch.cat([method(part.potentials(model, one)).marginals for one in rows])
        require_finite("thresholds", {"marginals": found})
        return found

    held_out = fitted.held_out or ((fitted.on_train, examples[1]),)
    marginals = torch.cat([infer(model, part) for model, part in held_out])
    told = targets = torch.cat([torch.from_numpy(part.targets) for _, part in held_out])
    learned = torch.from_numpy(examples[0].targets)
    if silence is not None:
        learned = draw_unmentioned(
            learned, infer(fitted.on_train, examples[0]), silence, seed=settings.seed
        )
        targets = draw_unmentioned(targets, marginals, silence, seed=settings.seed)
    k = min(_TYPICAL_K, (targets.shape[1] + 1) // 2)
    ranked = Decoder(
        Decision.TOP_K, k=k, rarity=None, frequencies=estimate_frequencies(learned)
    ).tune(marginals, targets)
    frequencies = estimate_frequencies(torch.cat([learned, targets]))  # of the finished models
    decoders = (
        Decoder(Decision.TUNED_THRESHOLD).tune(marginals, targets),
        Decoder(Decision.LABEL_THRESHOLDS).tune(marginals, targets),
        replace(ranked, frequencies=frequencies),
    )
    return decoders, (marginals, told)


@torch.no_grad()
def rank_held_out(fitted: Fitted, validation: Examples, settings: TrainSettings) -> Standing | None:
    """Return the places of the right label sets of the images that `tune_decoders` tunes on.

    Args:
        fitted: the places are by models that were not fitted to the images.

    Returns:
        NaN where not all labels are known, and beyond 2,000 images, which are drawn at random. None
        where label sets cannot be enumerated, since sampling them takes long.

    Cost: up to 20 ms an image at 24 labels.
    """
    held_out = fitted.held_out or ((fitted.on_train, validation),)
    count = sum(len(part.targets) for _, part in held_out)
    left_out = np.random.default_rng(settings.seed).permutation(count) >= _MOST_RANKED
    standings, first = [], 0
    for model, part in held_out:
        ranker = None
        for rows in ALONE.blocks(len(part.targets), _AT_ONCE):
            potentials, targets = part.potentials(model, rows), torch.tensor(part.targets[rows])
            targets[left_out[first + rows.start : first + rows.stop]] = UNKNOWN
            if not can_enumerate(potentials):
                return None
            ranker = ranker or EnumeratingRanker(potentials)
            standings.append(rank_targets(ranker, potentials, targets))
        first += len(part.targets)
    return Standing(*(torch.cat(parts) for parts in zip(*standings, strict=True)))


@torch.no_grad()
def surprise_held_out(
    fitted: Fitted, validation: Examples, settings: TrainSettings, inference: InferenceName
) -> Surprises | None:
    """Return how surprising label sets are of the images that `tune_decoders` tunes on.

    Args:
        fitted: the surprises are those of models that were not fitted to the images.

    Returns:
        None where the inference is not exact, since the search for the most probable sets of very
        many labels would take long.
    """
    held_out = fitted.held_out or ((fitted.on_train, validation),)
    parts = []
    for model, part in held_out:
        method = model.make_inference(inference, settings)
        for rows in ALONE.blocks(len(part.targets), _AT_ONCE):
            potentials = part.potentials(model, rows)
            posterior = method(potentials)
            if posterior.log_partition_kind is not LogPartitionKind.EXACT:
                return None
            targets = torch.from_numpy(part.targets[rows].astype(np.int64)).clamp(min=UNKNOWN)
            parts.append(measure_surprises(method, potentials, posterior, targets))
    return Surprises(*(torch.cat(one) for one in zip(*parts, strict=True)))


def _with_rules(model: LabelCrf, rules: Rules) -> LabelCrf:
    result = model.clone()
    result.rules = rules
    return result
