"""Both models on the same features: the independent baseline and the CRF, each at its best."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.choices import Decision, InferenceName, ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder, ThresholdMeasure
from mlcrf.inference import Exact, InferenceMethod, make_exact, make_inference
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import (
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood_loss,
    unrolled_mean_field_loss,
)
from mlcrf.training.coordinates import Objective, Penalty
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.stages import Result, Stages

Log = Callable[[str], None]


@dataclass(frozen=True)
class Examples:
    """Features and targets of one split.

    Attributes:
        features: float32 (N, D).
        targets: 1, 0, -1 unknown (N, L).
    """

    features: NDArray[np.float32]
    targets: NDArray[np.int8]

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.targets, other.targets]),
        )


@dataclass(frozen=True)
class Fitted:
    """A model for raw features, with the penalty it was given and how well it did.

    Attributes:
        score: loss on the validation images of the fit on training images alone.
        report: of the last fit, as a plain dictionary.
        on_train: the model of that penalty fitted on training images alone.
    """

    model: LabelCrf
    penalty: Penalty
    score: float
    report: dict[str, float]
    on_train: LabelCrf


def exact_method(settings: TrainSettings, num_labels: int, edges: Tensor) -> InferenceMethod | None:
    """The exact inference that reaches over these labels and couplings; None if none does."""
    return make_exact(num_labels, edges, max_exact_labels=settings.max_exact_labels)


def resolve_objective(settings: TrainSettings, num_labels: int, edges: Tensor) -> ObjectiveName:
    """What AUTO means: exact likelihood within reach, else pseudo-likelihood."""
    if settings.structure is Structure.INDEPENDENT:
        return ObjectiveName.INDEPENDENT
    if settings.objective is not ObjectiveName.AUTO:
        return settings.objective
    within_reach = exact_method(settings, num_labels, edges) is not None
    return ObjectiveName.EXACT_LIKELIHOOD if within_reach else ObjectiveName.PSEUDO_LIKELIHOOD


def resolve_inference(settings: TrainSettings, objective: ObjectiveName) -> InferenceName:
    """What AUTO means for a run: mean field if it was unrolled in training, else still AUTO."""
    unrolled = objective is ObjectiveName.UNROLLED_MEAN_FIELD
    if settings.inference is InferenceName.AUTO and unrolled:
        return InferenceName.MEAN_FIELD
    return settings.inference


def make_objective(
    name: ObjectiveName, settings: TrainSettings, exact: InferenceMethod | None
) -> Objective:
    """The loss of that name; `exact` is what computes an exact likelihood."""
    match name:
        case ObjectiveName.INDEPENDENT:
            return independent_loss
        case ObjectiveName.PSEUDO_LIKELIHOOD:
            return pseudo_likelihood_loss
        case ObjectiveName.EXACT_LIKELIHOOD:
            # without one that reaches, the error of this one says what to do
            fallback = Exact(max_labels=settings.max_exact_labels)
            return partial(exact_likelihood_loss, exact=fallback if exact is None else exact)
        case ObjectiveName.UNROLLED_MEAN_FIELD:
            return partial(unrolled_mean_field_loss, sweeps=settings.mean_field_sweeps)
        case ObjectiveName.AUTO:
            raise AssertionError("resolve AUTO first")


@torch.no_grad()
def tune_decoders(
    model: LabelCrf, held_out: Examples, settings: TrainSettings, inference: InferenceName
) -> tuple[Decoder, ...]:
    """One threshold tuned for micro F1, and one a label for macro F1.

    Args:
        model: fitted without the held-out images.
        inference: that the run will be decoded with.
    """
    potentials = model(torch.from_numpy(held_out.features))
    method = make_inference(
        inference,
        num_labels=model.num_labels,
        edges=model.edges,
        max_exact_labels=settings.max_exact_labels,
        mean_field_sweeps=settings.mean_field_sweeps,
        seed=settings.seed,
    )
    marginals = method(potentials).marginals
    targets = torch.from_numpy(held_out.targets)
    return tuple(
        Decoder(rule).tune(marginals, targets, measure)
        for rule, measure in (
            (Decision.TUNED_THRESHOLD, ThresholdMeasure.MICRO_F1),
            (Decision.LABEL_THRESHOLDS, ThresholdMeasure.MACRO_F1),
        )
    )


class HeadTrainer:
    """Chooses penalties on validation images and refits on all.

    For every candidate a model is fitted to convergence on the training images; the one with the
    lowest loss on the validation images gives its penalty to the final fit, on both together.
    """

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        settings: TrainSettings,
        edges: Tensor,
        stages: Stages,
        log: Log,
    ) -> None:
        self._settings = settings
        self._edges = edges
        self._exact = exact_method(settings, train.targets.shape[1], edges)
        self._stages = stages
        self._log = log
        self._validation = validation
        self._train_space = FeatureSpace(train.features, train.targets)
        everything = train + validation
        self._full_space = FeatureSpace(everything.features, everything.targets)
        self._num_features, self._num_labels = train.features.shape[1], train.targets.shape[1]

    def fit_independent(self) -> Fitted:
        """The baseline: no couplings, a penalty of its own."""
        start = self._start(
            LabelCrf(
                self._num_features,
                self._num_labels,
                edges=no_edges(),
                hidden=self._settings.head,
                seed=self._settings.seed,
            )
        )
        candidates = [Penalty(weights, 0.0) for weights in sorted(self._settings.penalties)[::-1]]
        best = self._search(ObjectiveName.INDEPENDENT, candidates, start)
        return self._refit(ObjectiveName.INDEPENDENT, best)

    def fit_crf(self, objective: ObjectiveName, independent: Fitted) -> Fitted:
        """The CRF: from the baseline by pseudo-likelihood, from there by the objective."""
        strengths = sorted(self._settings.penalties)
        at = strengths.index(independent.penalty.weights)
        start = LabelCrf(
            self._num_features,
            self._num_labels,
            edges=self._edges,
            hidden=self._settings.head,
            seed=self._settings.seed,
        )
        start.load_state_dict(
            independent.model.state_dict()
            | {
                "edges": start.edges,
                "pairwise": start.pairwise.detach(),
            }
        )
        candidates = [
            Penalty(weights, pairwise)
            for weights in strengths[max(0, at - 1) : at + 1][::-1]
            for pairwise in sorted(self._settings.pairwise_penalties)[::-1]
        ]
        best = self._search(ObjectiveName.PSEUDO_LIKELIHOOD, candidates, start)
        if objective is not ObjectiveName.PSEUDO_LIKELIHOOD:
            at = strengths.index(best.penalty.weights)
            near = [at, *(i for i in (at + 1, at - 1) if 0 <= i < len(strengths))]
            candidates = [Penalty(strengths[i], best.penalty.pairwise) for i in near]
            best = self._search(objective, candidates, best.model)
        return self._refit(objective, best)

    def _start(self, model: LabelCrf) -> LabelCrf:
        """The best constant prediction: biases at the log-odds of each label."""
        frequency = self._train_space.frequencies()
        with torch.no_grad():
            model.output.bias.copy_(frequency.logit())
        return model

    def _search(
        self, objective: ObjectiveName, candidates: Iterable[Penalty], start: LabelCrf
    ) -> Fitted:
        best: Fitted | None = None
        for penalty in candidates:
            fitted = self._fit("train", objective, penalty, start)
            start = fitted.model
            if best is None or fitted.score < best.score:
                best = fitted
        assert best is not None
        return best

    def _refit(self, objective: ObjectiveName, chosen: Fitted) -> Fitted:
        final = self._fit("all", objective, chosen.penalty, chosen.model)
        return Fitted(final.model, chosen.penalty, chosen.score, final.report, chosen.model)

    def _fit(
        self, part: str, objective: ObjectiveName, penalty: Penalty, start: LabelCrf
    ) -> Fitted:
        name = (
            f"{objective.value} on {part}, penalties {penalty.weights:g} and {penalty.pairwise:g}"
        )
        result = self._stages.run(
            name, lambda: self._compute(name, part, objective, penalty, start)
        )
        model = start.clone()
        model.load_state_dict(result["model"])
        return Fitted(model, penalty, result["score"], result["report"], model)

    def _compute(
        self, name: str, part: str, objective: ObjectiveName, penalty: Penalty, start: LabelCrf
    ) -> Result:
        space = self._train_space if part == "train" else self._full_space
        is_exact = objective is ObjectiveName.EXACT_LIKELIHOOD
        model, report = fit(
            space,
            space.to_axes(start),
            make_objective(objective, self._settings, self._exact),
            penalty,
            tolerance=self._settings.exact_tolerance if is_exact else self._settings.tolerance,
            joint=is_exact,
            progress=lambda message: self._log(f"{name}: {message}"),
        )
        fitted = space.to_features(model)
        score = self._score(objective, fitted)
        self._log(
            f"{name}: loss {report.loss:.4f}, validation {score:.4f}, {report.gradients} gradients "
            f"in {report.seconds:.0f} s" + ("" if report.converged else ", NOT converged")
        )
        return {"model": fitted.state_dict(), "score": score, "report": asdict(report)}

    @torch.no_grad()
    def _score(self, objective: ObjectiveName, model: LabelCrf) -> float:
        """Loss on validation images: the joint likelihood where exact inference reaches."""
        if objective is ObjectiveName.PSEUDO_LIKELIHOOD and self._exact is not None:
            objective = ObjectiveName.EXACT_LIKELIHOOD
        known = torch.from_numpy(self._validation.targets.astype(np.int64))
        potentials = model(torch.from_numpy(self._validation.features))
        loss = make_objective(objective, self._settings, self._exact)
        return float(loss(potentials, (known == 1).float(), known >= 0))
