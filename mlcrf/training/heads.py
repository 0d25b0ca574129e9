"""Trainer of the independent baseline and the CRF on the same features."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.feature_matrix import Matrix, join, read_rows
from mlcrf.choices import ObjectiveName, Schedule, Structure
from mlcrf.crf import Potentials
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import from_image
from mlcrf.training.extraction import Environment
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finite import diverging
from mlcrf.training.fit import time_gradient
from mlcrf.training.outlook import Fits, typical_gradients
from mlcrf.training.plan import Minimiser, Plan, make_minimiser
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import Log
from mlcrf.training.stages import Result, Stages

_AT_ONCE = 1024  # validation images per batch


@dataclass(frozen=True)
class Examples:
    """Features and targets of one split.

    Attributes:
        features: float32 (N, D), in memory or mapped.
        targets: 1, 0, -1 unknown (N, L).
    """

    features: Matrix
    targets: NDArray[np.int8]

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(
            join(self.features, other.features), np.concatenate([self.targets, other.targets])
        )

    def potentials(self, model: LabelCrf, rows: slice) -> Potentials:
        """Return the potentials of some of the images."""
        potentials: Potentials = model(torch.from_numpy(read_rows(self.features, rows)))
        return potentials


@dataclass(frozen=True)
class Fitted:
    """A fitted model for raw features, with its penalty and scores.

    Attributes:
        score: validation loss of the fit on training images only.
        report: report of the last fit, as a dictionary.
        on_train: the model with this penalty fitted on training images only.
    """

    model: LabelCrf
    penalty: Penalty
    score: float
    report: dict[str, float]
    on_train: LabelCrf


class HeadTrainer:
    """Choice of penalties on validation images, and the final fit on all images.

    A model is fitted on the training images for every candidate; the penalty of lowest validation
    loss is used in the final fit on training and validation images together.

    Args:
        everything: data of the final fit, if not `train` and `validation`.
        environment: its processes share the images of each fit; its cache folder contains rotated
            features if features are mapped.
    """

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        plan: Plan,
        stages: Stages,
        log: Log,
        environment: Environment = Environment(),
        *,
        everything: Examples | None = None,
    ) -> None:
        self._plan, self._settings = plan, plan.settings
        self._processes = environment.processes
        self._num_features = train.features.shape[1]
        self._stages, self._log = stages, log
        self._validation = validation
        self._train_space, self._full_space = (
            FeatureSpace(
                part.features,
                part.targets,
                processes=environment.processes,
                folder=environment.cache_dir,
            )
            for part in (train, everything or train + validation)
        )

    def fit_independent(self) -> Fitted:
        """Fit the baseline, which has no couplings and its own penalty."""
        start = LabelCrf(
            self._num_features,
            len(self._plan.labels),
            edges=no_edges(),
            hidden=self._settings.hidden_units,
            seed=self._settings.seed,
        )
        with torch.no_grad():  # the best constant prediction
            start.output.bias.copy_(self._train_space.frequencies().logit())
        candidates = [Penalty(weights, 0.0) for weights in sorted(self._settings.penalties)[::-1]]
        best = self._search(ObjectiveName.INDEPENDENT, candidates, start)
        return self._refit(ObjectiveName.INDEPENDENT, best)

    def fit_crf(self, independent: Fitted) -> Fitted:
        """Fit the CRF: by pseudo-likelihood from the baseline, then by the objective from there.

        With unknown labels these are not convex, so they start from the baseline, which ignores
        unknown labels. Unrolled mean field starts directly from the baseline, so that it is not
        worse on validation images; so does blended learning, whose unaries are larger by the number
        of times that it counts the entropy of a label.
        """
        objective = self._plan.objective
        start = self._uncoupled(independent.on_train)
        candidates = self._near(independent.penalty.weights, (0, -1))
        if start.num_scenes:
            start.start_scenes(self._train_space.targets, seed=self._settings.seed)
            return self._refit(objective, self._search(objective, candidates, start))
        if objective is ObjectiveName.BLENDED_CONVEX_BP:
            # each label is in one entropy of its own and in one per edge
            spread = 1 + 2 * len(self._plan.edges) / len(self._plan.labels)
            with torch.no_grad():
                start.output.weight.mul_(spread)
                start.output.bias.mul_(spread)
            candidates = [
                replace(one, weights=one.weights / spread, pairwise=one.pairwise / spread)
                for one in candidates
            ]
        if objective in (ObjectiveName.BLENDED_CONVEX_BP, ObjectiveName.UNROLLED_MEAN_FIELD):
            return self._refit(objective, self._search(objective, candidates, start))
        best = self._search(ObjectiveName.PSEUDO_LIKELIHOOD, candidates, start)
        if objective is not ObjectiveName.PSEUDO_LIKELIHOOD:
            best = self._search_near(objective, best)
        return self._refit(objective, best)

    def outlook(self) -> dict[ObjectiveName, Fits]:
        """Return the fits that are still to be made, at most, with the time of a gradient.

        Cost: two gradients of each objective over a block of the training images.
        """
        settings, objective = self._settings, self._plan.objective
        counts = {ObjectiveName.INDEPENDENT: len(settings.penalties) + 1}
        if objective is not ObjectiveName.INDEPENDENT:
            near = min(2, len(settings.penalties))
            if settings.schedule is Schedule.PIECEWISE:
                near = 1
            grid = near * len(settings.pairwise_penalties) * len(settings.pairwise_l1)
            direct = settings.structure is Structure.LATENT or objective in (
                ObjectiveName.BLENDED_CONVEX_BP,
                ObjectiveName.UNROLLED_MEAN_FIELD,
            )
            if direct or objective is ObjectiveName.PSEUDO_LIKELIHOOD:
                refits = 0 if self._minimiser(objective).early_stopping else 1
                counts[objective] = grid + refits
            else:
                all_known = bool((self._train_space.targets >= 0).all())
                counts[ObjectiveName.PSEUDO_LIKELIHOOD] = grid
                counts[objective] = (near + 1) + (0 if all_known else 3) + 1
        left = {
            name: count - self._stages.count(f"{name.value} on ") for name, count in counts.items()
        }
        return {name: self._fits(name, count) for name, count in left.items() if count > 0}

    def _fits(self, objective: ObjectiveName, count: int) -> Fits:
        minimiser, space = self._minimiser(objective), self._train_space
        steps = None if minimiser.steps is None else minimiser.steps.count
        model = self._plan.make_model(self._num_features)
        if objective is ObjectiveName.INDEPENDENT:
            model = LabelCrf(self._num_features, len(self._plan.labels), edges=no_edges())
        seconds = time_gradient(
            space, space.to_axes(model), minimiser.loss, is_persistent=steps is not None
        )
        return Fits(count, typical_gradients(self._plan, objective, steps), seconds)

    def _search_near(self, objective: ObjectiveName, found: Fitted) -> Fitted:
        """Search the penalties next to the choice of pseudo-likelihood.

        With unknown labels also those of couplings, because pseudo-likelihood, which only averages
        over unknown labels, then prefers stronger penalties than the objective.
        """
        start = found.model
        if not bool((self._train_space.targets >= 0).all()):
            strengths = sorted(self._settings.pairwise_penalties)
            at = strengths.index(found.penalty.pairwise)
            steps = [at + step for step in (0, -1, 1) if 0 <= at + step < len(strengths)]
            beside = [replace(found.penalty, pairwise=strengths[step]) for step in steps]
            found = self._search(objective, beside, start)
            start = found.model
        near = self._near(found.penalty.weights, (0, 1, -1), found.penalty)
        return self._search(objective, near, start)

    def _uncoupled(self, baseline: LabelCrf) -> LabelCrf:
        """Return a CRF with the baseline's unaries and couplings of 0."""
        model = self._plan.make_model(self._num_features)
        shared = model.state_dict()
        unaries = {
            key: value
            for key, value in baseline.state_dict().items()
            if key.startswith(("output.", "hidden."))
        }
        model.load_state_dict(shared | unaries)
        return self._train_space.spread_gates(model)

    def _near(
        self, weights: float, steps: Sequence[int], chosen: Penalty | None = None
    ) -> list[Penalty]:
        """Return penalties with strengths some places from `weights` in the settings' list.

        Args:
            chosen: penalty whose couplings' strengths are used; None for all strengths.
        """
        settings = self._settings
        strengths = sorted(settings.penalties)
        at = strengths.index(weights)
        near = [strengths[at + step] for step in steps if 0 <= at + step < len(strengths)]
        if settings.schedule is Schedule.PIECEWISE:  # weights are frozen
            near = [weights]
        if chosen is not None:
            return [replace(chosen, weights=strength) for strength in near]
        return [
            Penalty(strength, pairwise, l1)
            for strength in near
            for pairwise in sorted(settings.pairwise_penalties)[::-1]
            for l1 in sorted(settings.pairwise_l1)[::-1]
        ]

    def _search(
        self, objective: ObjectiveName, candidates: Iterable[Penalty], start: LabelCrf
    ) -> Fitted:
        best: Fitted | None = None
        again = self._minimiser(objective).cold_start
        for penalty in candidates:
            fitted = self._fit("train", objective, penalty, start)
            start = start if again else fitted.model
            if best is None or fitted.score < best.score:
                best = fitted
        assert best is not None
        return best

    def _refit(self, objective: ObjectiveName, chosen: Fitted) -> Fitted:
        if self._minimiser(objective).early_stopping:  # early stopping needs held-out images
            return chosen
        final = self._fit("all", objective, chosen.penalty, chosen.model)
        return Fitted(final.model, chosen.penalty, chosen.score, final.report, chosen.model)

    def _fit(
        self, part: str, objective: ObjectiveName, penalty: Penalty, start: LabelCrf
    ) -> Fitted:
        name = f"{objective.value} on {part}, {penalty}"
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
        coupled = objective is not ObjectiveName.INDEPENDENT
        frozen = coupled and self._settings.schedule is Schedule.PIECEWISE
        with diverging(name):
            model, report = self._minimiser(objective).minimise(
                space,
                space.to_axes(start),
                penalty,
                frozen=frozen,
                progress=lambda event: self._log(replace(event, fit=name)),
                held_out=lambda model: self._score(objective, space.to_features(model)),
            )
            fitted = space.to_features(model)
            score = self._score(objective, fitted)
        ending = "" if report.converged else ", NOT converged"
        if report.stopped_early:
            ending = ", stopped at the best on validation images"
        self._log(
            f"{name}: loss {report.loss:.4f}, validation {score:.4f}, {report.gradients} gradients "
            f"in {report.seconds:.0f} s{ending}"
        )
        return {"model": fitted.state_dict(), "score": score, "report": asdict(report)}

    def _minimiser(self, objective: ObjectiveName) -> Minimiser:
        return make_minimiser(self._plan, objective)

    @torch.no_grad()
    def _score(self, objective: ObjectiveName, model: LabelCrf) -> float:
        """Return the validation loss; for pseudo-likelihood the exact likelihood if feasible."""
        if objective is ObjectiveName.PSEUDO_LIKELIHOOD and self._plan.exact is not None:
            objective = ObjectiveName.EXACT_LIKELIHOOD
        loss, held_out = self._minimiser(objective).loss, self._validation
        count = len(held_out.targets)
        total = torch.zeros(1, dtype=torch.float64)
        for rows in self._processes.blocks(count, _AT_ONCE):
            known = torch.from_numpy(held_out.targets[rows].astype(np.int64))
            potentials = held_out.potentials(model, rows)
            mean = from_image(loss, rows.start)(potentials, known)
            total += len(known) / count * float(mean)
        self._processes.all_reduce(total)
        return float(total)
