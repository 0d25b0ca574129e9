"""Tell which fits are to be made and how long they take, and the limits of the data."""

import math

import numpy as np
import torch

from mlcrf.choices import ObjectiveName, Schedule, Structure
from mlcrf.data.manifest import Manifest
from mlcrf.model import LabelCrf, no_edges
from mlcrf.training.candidates import MOST_ADDED
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import time_gradient
from mlcrf.training.plan import Plan, make_minimiser, stacked_objective
from mlcrf.training.stacking import FOLDS, CrfOfLogOdds, LogOddsSpace, Stacker
from mlcrf.training.stages import Stages
from mlcrf.training.time_to_go import Fits

_FEW_IMAGES = 1000
_FEW_EXAMPLES = 10
_MANY_PAIRS = 5000
_WEIGHTS = (
    "pos_weight",
    "focus_positive",
    "focus_negative",
    "margin",
)  # of labels, in one objective
# gradients of a fit by L-BFGS, few and many; warm starts need few
_GRADIENTS = {
    ObjectiveName.INDEPENDENT: (10, 40),
    ObjectiveName.PSEUDO_LIKELIHOOD: (20, 100),
    ObjectiveName.EXACT_LIKELIHOOD: (4, 20),
    ObjectiveName.UNROLLED_MEAN_FIELD: (16, 80),
}
_LATENT = (20, 120)
_NEWTON = (3, 6)


def count_fits(
    plan: Plan, space: FeatureSpace, stacker: Stacker, stages: Stages, *, by_fold: bool
) -> dict[str, Fits]:
    """Return the fits that are still to be made, at most, with the time of a gradient, by kind.

    Args:
        space: the training images.
        stages: those that are finished.
        by_fold: whether models are fitted without each fold, too.

    Cost: two gradients of each objective over a block of the training images.
    """
    settings, objective, schedules = plan.settings, plan.objective, plan.schedules
    grown = MOST_ADDED if len(settings.penalties) > 1 else 0
    kinds = {ObjectiveName.INDEPENDENT.value: len(settings.penalties) + grown + 1}
    if objective is not ObjectiveName.INDEPENDENT and schedules != (Schedule.STACKED,):
        kinds |= _count_joint_fits(plan, all_known=bool((space.targets >= 0).all()))
        if by_fold:
            first = ObjectiveName.PSEUDO_LIKELIHOOD
            left_out = {ObjectiveName.INDEPENDENT.value, first.value, objective.value}
            kinds |= {kind: kinds.get(kind, 0) + FOLDS for kind in left_out}
    if Schedule.STACKED in schedules:
        kinds |= stacker.count_fits()
    left = {kind: count - stages.count(f"{kind} ") for kind, count in kinds.items()}
    return {
        kind: _time_fits(kind, count, plan, space, later=stacker.count_later(kind))
        for kind, count in left.items()
        if count > 0
    }


def _count_joint_fits(plan: Plan, *, all_known: bool) -> dict[str, int]:
    """Return the number of fits of unaries and couplings together, by kind.

    Args:
        all_known: whether all targets are known.
    """
    settings, objective = plan.settings, plan.objective
    grown = MOST_ADDED if len(settings.pairwise_penalties) > 1 else 0
    near = 1 if Schedule.PIECEWISE in plan.schedules else min(2, len(settings.penalties))
    grid = near * len(settings.pairwise_penalties) * len(settings.pairwise_l1)
    direct = settings.structure is Structure.LATENT or objective in (
        ObjectiveName.BLENDED_CONVEX_BP,
        ObjectiveName.UNROLLED_MEAN_FIELD,
    )
    if direct:
        refits = 0 if make_minimiser(plan, objective).early_stopping else 1
        return {objective.value: grid + refits}
    if objective is ObjectiveName.PSEUDO_LIKELIHOOD:
        return {objective.value: grid + grown + 1}
    return {
        ObjectiveName.PSEUDO_LIKELIHOOD.value: grid + grown,
        objective.value: (1 if all_known else 3) + 1,
    }


def _time_fits(kind: str, count: int, plan: Plan, space: FeatureSpace, *, later: int) -> Fits:
    """Return fits of one kind, with the seconds that a gradient takes here."""
    num_features, num_labels = len(space.variance), len(plan.labels)
    model = plan.make_model(num_features)
    objective = ObjectiveName.INDEPENDENT
    if kind.startswith("stacked "):
        objective = stacked_objective(plan)
        space = LogOddsSpace(torch.zeros(space.targets.shape), space.targets, space.processes)
        model = CrfOfLogOdds(num_labels, plan.edges, plan.rules)
    elif kind in (ObjectiveName.INDEPENDENT, "fold"):
        model = LabelCrf(num_features, num_labels, edges=no_edges())
    else:
        objective = ObjectiveName(kind)
    with torch.no_grad():  # label sets as likely as those of the data, which exact sums prune
        model.output.bias.copy_(space.frequencies().logit())
    minimiser = make_minimiser(plan, objective)
    steps = None if minimiser.steps is None else minimiser.steps.count
    seconds = time_gradient(
        space, space.to_axes(model), minimiser.loss, is_persistent=steps is not None
    )
    return Fits(count, _typical_gradients(plan, objective, steps), seconds, later)


def _typical_gradients(plan: Plan, objective: ObjectiveName, steps: int | None) -> tuple[int, int]:
    """Return how many gradients a fit takes, at least and at most as a rule.

    Args:
        steps: the number that is fixed in advance, if it is.
    """
    if steps is not None:
        return steps, steps
    if objective is plan.objective and plan.settings.structure is Structure.LATENT:
        return _LATENT
    if make_minimiser(plan, objective).newton:
        return _NEWTON
    return _GRADIENTS[objective]


def describe_data(
    plan: Plan, train: Manifest, validation: Manifest, automatic: tuple[str, ...] = ()
) -> list[str]:
    """Return notes where labels are beyond exact inference, or images few; of weights of labels.

    Args:
        automatic: settings that the data chose; if that the network is trained, a note says so.
    """
    settings, count = plan.settings, len(plan.labels)
    notes = []
    if plan.exact is None and settings.structure is not Structure.INDEPENDENT:
        choose = ""
        if len(plan.edges) > _MANY_PAIRS:
            choose = "; leave out --structure for fewer"
        notes.append(
            f"{count} labels with {len(plan.edges):,} couplings are beyond exact inference "
            f"(--max-exact-labels {settings.max_exact_labels}): learned by {plan.objective.value}, "
            f"answers are estimates; see docs/big-labels.md{choose}"
        )
    if len(train) < _FEW_IMAGES:
        margin = 100 * 0.98 / math.sqrt(max(1, len(validation)))
        positives = (train.targets == 1).sum(0)
        rare = [train.labels.names[at] for at in np.flatnonzero(positives < _FEW_EXAMPLES)]
        named = f"{', '.join(rare[:5])}{f' and {len(rare) - 5} more' if len(rare) > 5 else ''}"
        hardly = (
            f"; {len(rare)} of the labels have fewer than {_FEW_EXAMPLES} examples and are hardly "
            f"learned: {named}"
            if rare
            else ""
        )
        notes.append(
            f"{len(train)} training images are few, and a share measured on the {len(validation)} "
            f"validation images is uncertain by up to {margin:.0f} points{hardly}. Couplings may "
            "gain nothing: compare both models by `mlcrf evaluate`"
        )
    fields = type(settings).model_fields
    weights = [one for one in _WEIGHTS if getattr(settings, one) != fields[one].default]
    if weights and plan.objective is not ObjectiveName.INDEPENDENT:
        notes.append(
            f"{' and '.join(weights)}: of the independent objective; the baseline is learned with "
            f"it, the couplings by {plan.objective.value}, so their losses are not comparable. "
            "--objective independent learns both with it"
        )
    if "finetune" in automatic and settings.trains_network:
        notes.append(
            "the last stage of the network is trained first; --finetune none leaves it as "
            "published, which takes about a third of the time and, as a rule, gives fewer right "
            "labels"
        )
    return notes
