"""The plan of a training run: everything that settings and labels determine in advance.

`make_minimiser` builds the objectives of `mlcrf.choices.ObjectiveName`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.choices import Finetune, InferenceName, ObjectiveName, Pairwise, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf.edges import edges_of_structure, load_edges
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact, InferenceMethod, MeanField, count_states, make_exact
from mlcrf.labels import LabelSpace
from mlcrf.latent import SceneSum
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import (
    BlendedConvexBp,
    ContrastiveDivergence,
    ExactLikelihood,
    Objective,
    PersistentObjective,
    independent_loss,
    pseudo_likelihood_loss,
    unrolled_mean_field_loss,
)
from mlcrf.rules import Rules
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.persistent_fit import Steps, fit_persistent
from mlcrf.training.preconditioner import Curvature, Penalty, counted_variance, sampled_covariance
from mlcrf.training.progress import FitProgress, FitReport

_LEFT_OUT = 1e-4  # share of Z in a fit, far below what its tolerance lets pass
_NEWTON_STATES = (
    18  # log2 of label sets, from which a gradient costs more than a Newton step's rest
)
MOST_PAIRED = 64  # labels of which all pairs are coupled, and learned with the unaries
_STACKABLE = (
    ObjectiveName.PSEUDO_LIKELIHOOD,
    ObjectiveName.EXACT_LIKELIHOOD,
    ObjectiveName.CONTRASTIVE_DIVERGENCE,
)


@dataclass(frozen=True)
class Plan:
    """Settings and label graph of a training run, AUTO resolved.

    Attributes:
        edges: label pairs with a coupling (E, 2).
        exact: exact inference over these labels and couplings, None if it is not feasible.
        objective, inference: as in the settings, AUTO resolved.
        schedules: as in the settings; of several, validation images choose.
        other_edges: other edge sets, from which STACKED chooses too.
        silence: evidence of sources that list only a part of what is present, (K + 1, L); None if
            there are none. See `mlcrf.training.mentions`.
    """

    settings: TrainSettings
    labels: LabelSpace
    edges: Tensor
    rules: Rules
    exact: InferenceMethod | None
    objective: ObjectiveName
    inference: InferenceName
    schedules: tuple[Schedule, ...]
    other_edges: tuple[Tensor, ...] = ()
    silence: Tensor | None = None

    def make_model(self, num_features: int) -> LabelCrf:
        """Return an untrained CRF."""
        settings = self.settings
        return LabelCrf(
            num_features,
            len(self.labels),
            edges=self.edges,
            rules=self.rules,
            hidden=settings.hidden_units,
            rank=settings.rank if settings.pairwise is Pairwise.CONDITIONAL else 0,
            scenes=settings.scenes if settings.structure is Structure.LATENT else 0,
            seed=settings.seed,
        )


def plan_training(
    settings: TrainSettings,
    labels: LabelSpace,
    targets: NDArray[np.int8],
    rules: Rules,
    *,
    mentions: bool = False,
) -> Plan:
    """Choose couplings by the targets of the training images, and plan; see `make_plan`."""
    edges = choose_edges(settings, labels, targets, rules)
    others = _other_edges(settings, labels, targets, rules)
    return make_plan(settings, labels, edges, rules, others, mentions=mentions)


def choose_edges(
    settings: TrainSettings, labels: LabelSpace, targets: NDArray[np.int8], rules: Rules
) -> Tensor:
    """Return the edge set of the settings, int64 (E, 2).

    A label and a label that it implies get no edge unless a file names it.

    Args:
        targets: those of the training images (N, L), from which `tree` and `sparse` choose.

    Raises:
        SettingsError: `file` without `edges_file`, or `edges_file` without `file`.
        DataError, LabelsError: the file cannot be used; see `mlcrf.crf.edges.load_edges`.
    """
    given = settings.edges_file is not None
    if given != (settings.structure is Structure.FILE):
        raise SettingsError("--structure file and --set edges_file=FILE go together; give both")
    match resolve_structure(settings, len(labels)):
        case Structure.LATENT:
            return no_edges()
        case Structure.FILE:
            assert settings.edges_file is not None
            return load_edges(Path(settings.edges_file), labels)
        case chosen:
            return edges_of_structure(
                chosen,
                targets,
                rules=rules,
                per_label=settings.edges_per_label,
                false_share=settings.false_edges,
            )


def resolve_structure(settings: TrainSettings, num_labels: int) -> Structure:
    """Return the structure of `choose_edges`."""
    if settings.structure is not Structure.AUTO:
        return settings.structure
    return Structure.FULL if num_labels <= MOST_PAIRED else Structure.SPARSE


def _other_edges(
    settings: TrainSettings, labels: LabelSpace, targets: NDArray[np.int8], rules: Rules
) -> tuple[Tensor, ...]:
    """Return the edge sets to choose from beside `choose_edges`: a tree of many labels."""
    if settings.structure is Structure.AUTO and len(labels) > MOST_PAIRED:
        tree = settings.model_copy(update={"structure": Structure.TREE})
        return (choose_edges(tree, labels, targets, rules),)
    return ()


def make_plan(
    settings: TrainSettings,
    labels: LabelSpace,
    edges: Tensor,
    rules: Rules,
    others: tuple[Tensor, ...] = (),
    *,
    mentions: bool = False,
) -> Plan:
    """Resolve AUTO, and check the settings before any image is read.

    Args:
        mentions: whether a source lists only a part of what is present.

    Raises:
        SettingsError: settings that contradict each other, or exact inference over too many labels.
    """
    exact = make_exact(
        len(labels),
        edges,
        max_exact_labels=settings.max_exact_labels,
        rules=rules,
        varies_by_image=settings.pairwise is Pairwise.CONDITIONAL,
    )
    if exact is not None and settings.structure is Structure.LATENT:
        exact = SceneSum(exact)
    schedules = _resolve_schedules(settings, len(labels), exact)
    if mentions:
        schedules = _resolve_mentions(settings)
    objective = _resolve_objective(settings, exact, schedules)
    inference = _resolve_inference(settings, objective)
    plan = Plan(settings, labels, edges, rules, exact, objective, inference, schedules, others)
    _check_reach(plan)
    _check_combination(plan)
    return plan


def _resolve_schedules(
    settings: TrainSettings, num_labels: int, exact: InferenceMethod | None
) -> tuple[Schedule, ...]:
    """Return the schedules to try: with AUTO both, of many labels STACKED only.

    STACKED has its own log-odds of each image, so it goes with a linear head and couplings that
    are the same for all images.
    """
    if settings.schedule is not Schedule.AUTO:
        return (settings.schedule,)
    goes = settings.objective in (ObjectiveName.AUTO, ObjectiveName.PSEUDO_LIKELIHOOD)
    if not goes or _refuses_stacking(settings):
        return (Schedule.JOINT,)
    if exact is None and num_labels > MOST_PAIRED:
        return (Schedule.STACKED,)
    return (Schedule.JOINT, Schedule.STACKED)


def _resolve_mentions(settings: TrainSettings) -> tuple[Schedule, ...]:
    """Return the schedule where a source lists only a part of what is present.

    Raises:
        SettingsError: a setting with which this cannot be learned.
    """
    kept = {
        "objective": (
            ObjectiveName.AUTO,
            ObjectiveName.EXACT_LIKELIHOOD,
            ObjectiveName.CONTRASTIVE_DIVERGENCE,
        ),
        "schedule": (Schedule.AUTO, Schedule.STACKED),
        "finetune": (Finetune.AUTO, Finetune.NONE),
        "pairwise": (Pairwise.CONSTANT,),
        "hidden_units": (0,),
        "pos_weight": (1.0,),
        "focus_positive": (0.0,),
        "focus_negative": (0.0,),
        "margin": (0.0,),
    }
    for name, values in kept.items():
        if getattr(settings, name) not in values:
            raise SettingsError(
                f"--lists positives goes with {name} {' or '.join(map(str, values))}, not "
                f"{getattr(settings, name)}"
            )
    if settings.structure is Structure.LATENT:
        raise SettingsError("--lists positives does not go with --structure latent")
    alone = settings.structure is Structure.INDEPENDENT
    return (Schedule.JOINT,) if alone else (Schedule.STACKED,)


def stacked_objective(plan: Plan) -> ObjectiveName:
    """Return the objective of couplings on log-odds of the baseline.

    Pseudo-likelihood, the cheapest, unless the settings name another, or a source lists only a part
    of what is present: pseudo-likelihood does not learn from what it leaves out.
    """
    if plan.settings.objective is not ObjectiveName.AUTO:
        return plan.settings.objective
    if plan.silence is None:
        return ObjectiveName.PSEUDO_LIKELIHOOD
    if plan.exact is not None:
        return ObjectiveName.EXACT_LIKELIHOOD
    return ObjectiveName.CONTRASTIVE_DIVERGENCE


def _refuses_stacking(settings: TrainSettings) -> bool:
    is_other = settings.structure in (Structure.INDEPENDENT, Structure.LATENT)
    return is_other or settings.hidden_units > 0 or settings.pairwise is Pairwise.CONDITIONAL


def _resolve_objective(
    settings: TrainSettings, exact: InferenceMethod | None, schedules: tuple[Schedule, ...]
) -> ObjectiveName:
    if settings.structure is Structure.INDEPENDENT:
        return ObjectiveName.INDEPENDENT
    if settings.objective is not ObjectiveName.AUTO:
        return settings.objective
    if schedules == (Schedule.STACKED,):
        return ObjectiveName.PSEUDO_LIKELIHOOD
    if exact is not None:
        return ObjectiveName.EXACT_LIKELIHOOD
    return ObjectiveName.CONTRASTIVE_DIVERGENCE


def _resolve_inference(settings: TrainSettings, objective: ObjectiveName) -> InferenceName:
    if settings.inference is not InferenceName.AUTO:
        return settings.inference
    match objective:
        case ObjectiveName.UNROLLED_MEAN_FIELD:
            return InferenceName.PARALLEL_MEAN_FIELD
        case ObjectiveName.BLENDED_CONVEX_BP:
            return InferenceName.CONVEX_BP
        case _:
            return InferenceName.AUTO


def can_leave_out(plan: Plan) -> bool:
    """Return whether fits without a fold forget where they began, and are soon made."""
    settings = plan.settings
    remembers = plan.objective in (
        ObjectiveName.UNROLLED_MEAN_FIELD,
        ObjectiveName.BLENDED_CONVEX_BP,
    )
    hidden = settings.hidden_units > 0 and not settings.dropout
    varies = settings.pairwise is Pairwise.CONDITIONAL
    return not (remembers or hidden or varies or settings.structure is Structure.LATENT)


def _check_cross_validation(plan: Plan) -> None:
    if not can_leave_out(plan):
        raise SettingsError(
            "cross_validation is for convex fits: constant couplings above a linear head or one "
            "with dropout, learned by likelihood; leave it out"
        )
    if plan.settings.trains_network:
        raise SettingsError(
            f"cross_validation judges by folds of the training images, and with --finetune "
            f"{plan.settings.finetune} the network has learned from all of them; leave one out"
        )


def _check_reach(plan: Plan) -> None:
    """Refuse exact inference over too many label sets."""
    settings = plan.settings
    log_states = count_states(len(plan.labels), plan.rules)
    out_of_reach = plan.objective is ObjectiveName.EXACT_LIKELIHOOD and plan.exact is None
    enumerates = settings.inference is InferenceName.EXACT
    if out_of_reach or (enumerates and log_states > settings.max_exact_labels):
        raise SettingsError(
            f"exact inference was asked for, over 2**{math.ceil(log_states)} label sets; the limit "
            f"is 2**{settings.max_exact_labels}. Raise --max-exact-labels (cost doubles with each "
            "label), or choose another objective and inference."
        )


def _check_combination(plan: Plan) -> None:
    """Refuse settings that contradict each other."""
    settings, is_latent = plan.settings, plan.settings.structure is Structure.LATENT
    if is_latent and plan.objective is not ObjectiveName.EXACT_LIKELIHOOD:
        raise SettingsError(
            f"--structure latent sums over its scenes exactly and is learned by exact-likelihood; "
            f"--objective {plan.objective.value} does not go with it"
        )
    if settings.albums and not is_latent:
        raise SettingsError("--album is about scenes; it goes with --structure latent")
    varies = settings.pairwise is Pairwise.CONDITIONAL
    if settings.dropout and not settings.hidden_units:
        raise SettingsError("dropout is for a head with hidden units; add --set hidden_units=512")
    if settings.dropout and (varies or is_latent):
        raise SettingsError(
            "a head with dropout gives log-odds alone, and gates read features; leave out dropout, "
            "or --pairwise conditional and --structure latent"
        )
    if settings.cross_validation:
        _check_cross_validation(plan)
    stacks = settings.schedule is Schedule.STACKED
    if stacks and (_refuses_stacking(settings) or plan.objective not in _STACKABLE):
        raise SettingsError(
            "--schedule stacked learns constant couplings above a linear head, by "
            "pseudo-likelihood, exact-likelihood or contrastive-divergence; choose another one"
        )
    if varies and settings.structure in (Structure.INDEPENDENT, Structure.LATENT):
        raise SettingsError(
            f"--pairwise conditional lets couplings vary by image, and --structure "
            f"{settings.structure.value} has none; leave one out"
        )


@dataclass(frozen=True)
class Minimiser:
    """An objective, and a method to minimise it on fixed features.

    Attributes:
        tolerance: nats per image.
        steps: steps of `fit_persistent`, for an objective with a memory; None for L-BFGS (`fit`).
        early_stopping: stop at the lowest loss on held-out images, since the minimum over the
            training images is far worse.
        cold_start: start the fit of each penalty from the same model, since the result depends on
            the start.
        newton: begin with Newton steps, see `fit`.
    """

    loss: Objective | PersistentObjective[Any]
    curvature: Curvature
    tolerance: float
    steps: Steps | None = None
    early_stopping: bool = False
    cold_start: bool = False
    newton: bool = False

    def minimise(
        self,
        space: FeatureSpace,
        start: LabelCrf,
        penalty: Penalty,
        *,
        held_out: Callable[[LabelCrf], float],
        frozen: bool,
        progress: Callable[[FitProgress], None],
    ) -> tuple[LabelCrf, FitReport]:
        """Minimise loss + penalty from `start`; see `fit`."""
        minimise = (
            partial(fit, watch=held_out if self.early_stopping else None, newton=self.newton)
            if self.steps is None
            else partial(fit_persistent, steps=self.steps)
        )
        return minimise(
            space,
            start,
            self.loss,
            penalty,
            curvature=self.curvature,
            tolerance=self.tolerance,
            frozen=frozen,
            progress=progress,
        )


def make_minimiser(plan: Plan, objective: ObjectiveName) -> Minimiser:
    """Return the minimiser of the objective with this name, with the plan's settings."""
    settings = plan.settings
    match objective:
        case ObjectiveName.INDEPENDENT:
            loss = partial(
                independent_loss,
                pos_weight=settings.pos_weight,
                focus_positive=settings.focus_positive,
                focus_negative=settings.focus_negative,
                margin=settings.margin,
                silence=plan.silence,
            )
            return Minimiser(loss, counted_variance, settings.tolerance)
        case ObjectiveName.PSEUDO_LIKELIHOOD:
            return Minimiser(pseudo_likelihood_loss, counted_variance, settings.tolerance)
        case ObjectiveName.EXACT_LIKELIHOOD:
            return _minimise_exactly(plan)
        case ObjectiveName.UNROLLED_MEAN_FIELD:
            one_by_one = settings.inference is InferenceName.MEAN_FIELD
            method = MeanField(max_sweeps=settings.mean_field_sweeps, parallel=not one_by_one)
            unrolled = partial(unrolled_mean_field_loss, method=method, seed=settings.seed)
            return Minimiser(
                unrolled, counted_variance, settings.tolerance, early_stopping=True, cold_start=True
            )
        case ObjectiveName.CONTRASTIVE_DIVERGENCE:
            return Minimiser(
                ContrastiveDivergence(
                    settings.chains, settings.chain_sweeps, settings.seed, silence=plan.silence
                ),
                sampled_covariance,
                settings.exact_tolerance,
                Steps(settings.steps, rate=0.3),
            )
        case ObjectiveName.BLENDED_CONVEX_BP:
            return Minimiser(
                BlendedConvexBp(),
                counted_variance,  # at fixed messages; lower once they have settled
                settings.exact_tolerance,
                Steps(2 * settings.steps, rate=0.5, momentum=0.9),
            )
        case ObjectiveName.AUTO:
            raise AssertionError("a plan has resolved AUTO")


def _minimise_exactly(plan: Plan) -> Minimiser:
    settings = plan.settings
    # if exact inference is not feasible, the error of `Exact` says what to do
    exact = plan.exact or Exact(max_labels=settings.max_exact_labels)
    if isinstance(exact, Exact):
        exact = replace(exact, leave_out=_LEFT_OUT)
    likelihood = ExactLikelihood(exact, plan.silence)
    if settings.structure is Structure.LATENT:
        # a mixture's gradient is cheap, and its label sets are not sampled
        return Minimiser(likelihood, counted_variance, settings.tolerance, cold_start=True)
    log_states = count_states(len(plan.labels), plan.rules)
    newton = isinstance(exact, Exact) and log_states >= _NEWTON_STATES
    return Minimiser(likelihood, sampled_covariance, settings.exact_tolerance, newton=newton)
