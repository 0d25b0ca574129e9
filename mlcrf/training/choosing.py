"""What the settings mean: which objective, how it is minimised, and what decodes the result."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mlcrf.choices import InferenceName, ObjectiveName, Pairwise, Structure
from mlcrf.config import TrainSettings
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact, InferenceMethod, MeanField, SceneSum, make_exact
from mlcrf.model import LabelCrf
from mlcrf.objectives import (
    BlendedConvexBp,
    ContrastiveDivergence,
    PersistentObjective,
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood_loss,
    unrolled_mean_field_loss,
)
from mlcrf.training.coordinates import (
    Curvature,
    Objective,
    Penalty,
    counted_variance,
    sampled_covariance,
)
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import FitReport, fit
from mlcrf.training.persistent_fit import Steps, fit_persistent


@dataclass(frozen=True)
class Recipe:
    """How an objective is minimised on fixed features.

    Attributes:
        loss: the objective.
        curvature: of the loss.
        tolerance: nats an image.
        steps: where the objective keeps a memory and is followed step by step; None if L-BFGS
            minimises it.
        fresh: whether every penalty's fit starts from the beginning rather than from the last one,
            for where it ends depends on where it starts.
        watched: whether to stop where the loss on held-out images is least, for the minimum over
            the training images is far worse than that.
    """

    loss: Objective | PersistentObjective[Any]
    curvature: Curvature
    tolerance: float
    steps: Steps | None = None
    watched: bool = False
    fresh: bool = False

    def fit(
        self,
        space: FeatureSpace,
        start: LabelCrf,
        penalty: Penalty,
        *,
        frozen: bool = False,
        progress: Callable[[str], None] = lambda message: None,
        held_out: Callable[[LabelCrf], float] | None = None,
    ) -> tuple[LabelCrf, FitReport]:
        """Minimise it with a penalty; see `fit` and `fit_persistent`.

        Args:
            held_out: the loss on other images, which is looked at if the recipe is watched.
        """
        watch = held_out if self.watched else None
        method: Any = partial(fit, watch=watch)
        if self.steps is not None:
            method = partial(fit_persistent, steps=self.steps)
        fitted: tuple[LabelCrf, FitReport] = method(
            space,
            start,
            self.loss,
            penalty,
            curvature=self.curvature,
            tolerance=self.tolerance,
            frozen=frozen,
            progress=progress,
        )
        return fitted


def resolve_objective(settings: TrainSettings, exact: InferenceMethod | None) -> ObjectiveName:
    """What AUTO means: exact likelihood within reach, else contrastive divergence.

    Args:
        exact: the exact inference that reaches over the labels and couplings, if any does.
    """
    if settings.structure is Structure.INDEPENDENT:
        return ObjectiveName.INDEPENDENT
    if settings.objective is not ObjectiveName.AUTO:
        return settings.objective
    if exact is not None:
        return ObjectiveName.EXACT_LIKELIHOOD
    return ObjectiveName.CONTRASTIVE_DIVERGENCE


def resolve_inference(settings: TrainSettings, objective: ObjectiveName) -> InferenceName:
    """What AUTO means for a run: the inference that the objective is about, else still AUTO."""
    if settings.inference is not InferenceName.AUTO:
        return settings.inference
    match objective:
        case ObjectiveName.UNROLLED_MEAN_FIELD:
            return InferenceName.PARALLEL_MEAN_FIELD
        case ObjectiveName.BLENDED_CONVEX_BP:
            return InferenceName.CONVEX_BP
        case _:
            return InferenceName.AUTO


def make_model(
    settings: TrainSettings,
    num_features: int,
    edges: Tensor,
    implications: Tensor,
    num_labels: int,
) -> LabelCrf:
    """A CRF as the settings want it, that has learned nothing yet.

    Args:
        edges: pairs with a coupling (E, 2).
        implications: pairs (child, parent) (R, 2).
    """
    return LabelCrf(
        num_features,
        num_labels,
        edges=edges,
        implications=implications,
        hidden=settings.head,
        rank=settings.rank if settings.pairwise is Pairwise.CONDITIONAL else 0,
        scenes=settings.scenes if settings.structure is Structure.LATENT else 0,
        seed=settings.seed,
    )


def check_settings(
    settings: TrainSettings,
    objective: ObjectiveName,
    log_states: float,
    exact: InferenceMethod | None,
) -> None:
    """Refuse what cannot be done, before any picture is read.

    Args:
        log_states: log2 of the number of label sets.
        exact: the exact inference that reaches over them, if any does.

    Raises:
        SettingsError: settings that contradict each other, or exact inference out of reach.
    """
    learns_exactly = objective is ObjectiveName.EXACT_LIKELIHOOD
    out_of_reach = learns_exactly and exact is None
    enumerates = settings.inference is InferenceName.EXACT
    if out_of_reach or (enumerates and log_states > settings.max_exact_labels):
        raise SettingsError(
            f"exact inference was asked for, over 2**{math.ceil(log_states)} label sets; the limit "
            f"is 2**{settings.max_exact_labels}. Raise --max-exact-labels (cost doubles with each "
            "label), or choose another objective and inference."
        )
    if settings.structure is Structure.LATENT and not learns_exactly:
        raise SettingsError(
            f"--structure latent sums over its scenes exactly and is learned by exact-likelihood; "
            f"--objective {objective.value} does not go with it"
        )
    if settings.albums and settings.structure is not Structure.LATENT:
        raise SettingsError("--album is about scenes; it goes with --structure latent")
    varies = settings.pairwise is Pairwise.CONDITIONAL
    if settings.dropout and not settings.head:
        raise SettingsError("dropout is for a head with hidden units; add --set head=512")
    if settings.dropout and (varies or settings.structure is Structure.LATENT):
        raise SettingsError(
            "a head with dropout gives log-odds alone, and gates read features; leave out dropout, "
            "or --pairwise conditional and --structure latent"
        )
    if varies and settings.structure in (Structure.INDEPENDENT, Structure.LATENT):
        raise SettingsError(
            f"--pairwise conditional lets couplings vary by image, and --structure "
            f"{settings.structure.value} has none; leave one out"
        )


def make_recipe(
    name: ObjectiveName,
    settings: TrainSettings,
    exact: InferenceMethod | None,
) -> Recipe:
    """The objective of that name with its settings, and how it is minimised.

    Args:
        exact: what computes an exact likelihood.
    """
    match name:
        case ObjectiveName.INDEPENDENT:
            loss = partial(
                independent_loss,
                pos_weight=settings.pos_weight,
                focus_positive=settings.focus_positive,
                focus_negative=settings.focus_negative,
                margin=settings.margin,
            )
            return Recipe(loss, counted_variance, settings.tolerance)
        case ObjectiveName.PSEUDO_LIKELIHOOD:
            return Recipe(pseudo_likelihood_loss, counted_variance, settings.tolerance)
        case ObjectiveName.EXACT_LIKELIHOOD:
            # without one that reaches, the error of this one says what to do
            fallback = Exact(max_labels=settings.max_exact_labels)
            likelihood = partial(exact_likelihood_loss, exact=fallback if exact is None else exact)
            usual = Recipe(likelihood, sampled_covariance, settings.exact_tolerance)
            # a mixture's gradient is cheap, and its label sets are not sampled
            latent = Recipe(likelihood, counted_variance, settings.tolerance, fresh=True)
            return latent if settings.structure is Structure.LATENT else usual
        case ObjectiveName.UNROLLED_MEAN_FIELD:
            one_by_one = settings.inference is InferenceName.MEAN_FIELD
            method = MeanField(max_sweeps=settings.mean_field_sweeps, parallel=not one_by_one)
            unrolled = partial(unrolled_mean_field_loss, method=method, seed=settings.seed)
            return Recipe(unrolled, counted_variance, settings.tolerance, watched=True)
        case ObjectiveName.CONTRASTIVE_DIVERGENCE:
            chains = ContrastiveDivergence(settings.chains, settings.chain_sweeps, settings.seed)
            return Recipe(
                chains,
                sampled_covariance,
                settings.exact_tolerance,
                Steps(settings.steps, rate=0.3),
            )
        case ObjectiveName.BLENDED_CONVEX_BP:
            return Recipe(
                BlendedConvexBp(),
                counted_variance,  # at fixed messages; less once they have settled
                settings.exact_tolerance,
                Steps(2 * settings.steps, rate=0.5, momentum=0.9),
            )
        case ObjectiveName.AUTO:
            raise AssertionError("resolve AUTO first")


def exact_method(
    settings: TrainSettings, num_labels: int, edges: Tensor, implications: Tensor
) -> InferenceMethod | None:
    """The exact inference that reaches over these labels and couplings; None if none does."""
    method = make_exact(
        num_labels,
        edges,
        max_exact_labels=settings.max_exact_labels,
        implications=implications,
        varies_by_image=settings.pairwise is Pairwise.CONDITIONAL,
    )
    if method is not None and settings.structure is Structure.LATENT:
        return SceneSum(method)
    return method
