"""Trainer of the independent baseline and the CRF on the same features."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.feature_matrix import Matrix, join, read_rows
from mlcrf.choices import InferenceName, ObjectiveName, Schedule, Structure
from mlcrf.crf import Potentials
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import from_image
from mlcrf.training.extraction import Environment
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finite import diverging
from mlcrf.training.fit import FitReport, time_gradient
from mlcrf.training.outlook import Fits, typical_gradients
from mlcrf.training.plan import Minimiser, Plan, make_minimiser
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import Log
from mlcrf.training.stacking import (
    FOLD_TOLERANCE,
    FOLDS,
    CrfOfLogOdds,
    LogOddsSpace,
    out_of_fold,
)
from mlcrf.training.stages import Result, Stages
from mlcrf.training.weighing import Weigher, Weighing, weighed

_AT_ONCE = 1024  # validation images per batch
_MOST_ADDED = 4  # penalties beyond either end of the settings' list


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
        score: validation loss of the fit on training images only, of whole label sets.
        report: report of the last fit, as a dictionary.
        on_train: the model with this penalty fitted on training images only.
        resolved: settings that were AUTO in the plan, or had several candidates.
    """

    model: LabelCrf
    penalty: Penalty
    score: float
    report: dict[str, float]
    on_train: LabelCrf
    resolved: dict[str, StrEnum] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    """A CRF that was fitted on the training images, and how it was.

    Attributes:
        resolved: see `Fitted`.
        weighing: the share of it that validation images support; None if it is used as it is.
        stacked: the same as a fit of log-odds; None for another schedule.
    """

    fitted: Fitted
    resolved: dict[str, StrEnum]
    weighing: Weighing | None
    stacked: Fitted | None = None

    @property
    def loss(self) -> float:
        return self.fitted.score if self.weighing is None else self.weighing.loss


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
        self._strengths = sorted(self._settings.penalties)
        self._coupling_strengths = sorted(self._settings.pairwise_penalties)
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
        candidates = [Penalty(weights, 0.0) for weights in self._strengths[::-1]]
        best = self._search(ObjectiveName.INDEPENDENT, candidates, start)
        best = self._extend(
            best, "weights", self._strengths, self._fitter(ObjectiveName.INDEPENDENT)
        )
        return self._refit(ObjectiveName.INDEPENDENT, best)

    def fit_crf(self, independent: Fitted) -> Fitted:
        """Fit the CRF by each schedule of the plan, and use as much of it as validation supports.

        The candidate of lowest validation loss is fitted on all images; the result lies between
        the baseline and that, see `mlcrf.training.weighing`.
        """
        weigher = self._make_weigher()
        candidates = []
        for schedule in self._plan.schedules:
            if schedule is Schedule.STACKED:
                candidates += self._search_stacked(independent, weigher)
            else:
                fitted = self._search_joint(independent, weigher)
                weighing = None
                if weigher is not None:
                    weighing = weigher.choose(independent.on_train, fitted.model)
                resolved: dict[str, StrEnum] = {
                    "objective": self._plan.objective,
                    "schedule": schedule,
                }
                candidates.append(_Candidate(fitted, resolved, weighing))
        best = min(candidates, key=lambda one: one.loss)
        if best.stacked is None:
            final = self._refit(self._plan.objective, best.fitted)
        else:
            final = self._refit_stacked(independent, best.stacked)
        final = replace(final, resolved=best.resolved)
        if best.weighing is None:
            return final
        if len(self._settings.structure_weights) > 1:
            self._log(str(best.weighing))
        return _weigh(independent, final, best.weighing)

    def _search_joint(self, independent: Fitted, weigher: Weigher | None) -> Fitted:
        """Fit the CRF by pseudo-likelihood from the baseline, then by the objective from there.

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
            return self._search(objective, candidates, start)
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
            return self._search(objective, candidates, start)
        first = ObjectiveName.PSEUDO_LIKELIHOOD
        best = self._search(first, candidates, start)
        best = self._extend(best, "pairwise", self._coupling_strengths, self._fitter(first))
        if objective is first:
            return best
        if weigher is None or len(self._settings.structure_weights) == 1:
            return self._search_near(objective, best, lambda one: one.score)
        return self._search_near(
            objective, best, lambda one: weigher.score(independent.on_train, one.model)
        )

    def _search_stacked(self, independent: Fitted, weigher: Weigher | None) -> list[_Candidate]:
        """Fit couplings on out-of-fold log-odds of the baseline, with each edge set of the plan."""
        assert weigher is not None  # a plan that stacks has one
        space = self._out_of_fold("train", independent)
        found = []
        for number, edges in enumerate((self._plan.edges, *self._plan.other_edges)):
            start = CrfOfLogOdds(len(self._plan.labels), edges, self._plan.implications)

            def fit(penalty: Penalty, start: LabelCrf = start) -> Fitted:
                one = self._fit_stacked("train", space, penalty, start)
                whole = one.model.above(independent.on_train)  # type: ignore[operator]
                return replace(one, score=weigher.score(independent.on_train, whole))

            penalties = [
                Penalty(independent.penalty.weights, pairwise, l1)
                for pairwise in self._coupling_strengths[::-1]
                for l1 in sorted(self._settings.pairwise_l1)[::-1]
            ]
            best = min((fit(one) for one in penalties), key=lambda one: one.score)
            strengths = list(self._coupling_strengths)
            best = self._extend(best, "pairwise", strengths, lambda one, _: fit(one))
            whole = best.model.above(independent.on_train)  # type: ignore[operator]
            fitted = replace(best, model=whole, on_train=whole)
            weighing = weigher.choose(independent.on_train, whole)
            resolved: dict[str, StrEnum] = {
                "objective": self._stacked_objective,
                "schedule": Schedule.STACKED,
                **({"structure": Structure.TREE} if number else {}),
            }
            found.append(_Candidate(fitted, resolved, weighing, best))
        return found

    def _refit_stacked(self, independent: Fitted, chosen: Fitted) -> Fitted:
        """Fit couplings on all images, on log-odds of the baseline of all images."""
        space = self._out_of_fold("all", independent)
        final = self._fit_stacked("all", space, chosen.penalty, chosen.model)
        above = (
            (final.model, independent.model),
            (chosen.model, independent.on_train),
        )
        model, on_train = (one.above(baseline) for one, baseline in above)  # type: ignore[operator]
        return Fitted(model, chosen.penalty, chosen.score, final.report, on_train)

    def _fit_stacked(
        self, part: str, space: LogOddsSpace, penalty: Penalty, start: LabelCrf
    ) -> Fitted:
        objective = self._stacked_objective
        name = f"stacked {objective.value} on {part}, {len(start.edges)} edges, {penalty}"

        def compute() -> Result:
            minimiser = self._minimiser(objective)
            model, report = self._minimise(name, minimiser, space, start, penalty, frozen=True)
            ending = "" if report.converged else ", NOT converged"
            self._log(
                f"{name}: loss {report.loss:.4f}, {report.gradients} gradients "
                f"in {report.seconds:.0f} s{ending}"
            )
            return {"model": model.state_dict(), "report": asdict(report)}

        result = self._stages.run(name, compute)
        model = start.clone()
        model.load_state_dict(result["model"])
        return Fitted(model, penalty, 0.0, result["report"], model)

    def _minimise(
        self,
        name: str,
        minimiser: Minimiser,
        space: FeatureSpace,
        start: LabelCrf,
        penalty: Penalty,
        *,
        frozen: bool,
    ) -> tuple[LabelCrf, FitReport]:
        """Minimise an objective that needs no held-out images, named in progress and errors."""
        with diverging(name):
            return minimiser.minimise(
                space,
                start,
                penalty,
                frozen=frozen,
                progress=lambda event: self._log(replace(event, fit=name)),
                held_out=lambda model: 0.0,
            )

    @property
    def _stacked_objective(self) -> ObjectiveName:
        """The settings' objective; pseudo-likelihood, the cheapest, unless they name one."""
        if self._settings.objective is ObjectiveName.AUTO:
            return ObjectiveName.PSEUDO_LIKELIHOOD
        return self._settings.objective

    def _out_of_fold(self, part: str, independent: Fitted) -> LogOddsSpace:
        """Return log-odds of the images of a part by baselines that did not see them."""
        space = self._train_space if part == "train" else self._full_space
        start = space.to_axes(independent.on_train if part == "train" else independent.model)
        share = 1 - 1 / FOLDS  # of the images are in the loss, which is a mean over all
        penalty = Penalty(share * independent.penalty.weights, 0.0)
        minimiser = replace(self._minimiser(ObjectiveName.INDEPENDENT), tolerance=FOLD_TOLERANCE)
        began = perf_counter()

        def fit_without(number: int, others: FeatureSpace) -> LabelCrf:
            name = f"fold {number + 1} of {FOLDS} on {part}"

            def compute() -> Result:
                model, _ = self._minimise(name, minimiser, others, start, penalty, frozen=False)
                return {"model": model.state_dict()}

            model = start.clone()
            model.load_state_dict(self._stages.run(name, compute)["model"])
            return model

        result = out_of_fold(space, fit_without, seed=self._settings.seed)
        self._log(f"{FOLDS} folds on {part}: log-odds in {perf_counter() - began:.0f} s")
        return result

    def _make_weigher(self) -> Weigher | None:
        """Return the choice of weights; None for models that do not begin as the baseline."""
        settings, plan = self._settings, self._plan
        others = plan.objective is ObjectiveName.BLENDED_CONVEX_BP
        if settings.hidden_units or settings.structure is Structure.LATENT or others:
            return None
        exact = plan.exact is not None and not plan.other_edges
        name = ObjectiveName.EXACT_LIKELIHOOD if exact else ObjectiveName.PSEUDO_LIKELIHOOD
        given = exact and plan.inference is InferenceName.AUTO  # beside the marginals
        joint = None if given else self._minimiser(name).loss
        return Weigher(
            self._validation.features,
            self._validation.targets,
            positives=(self._train_space.targets == 1).sum(0),
            make_inference=lambda model: model.make_inference(plan.inference, settings),
            joint=joint,
            candidates=settings.structure_weights,
            joint_share=settings.joint_share,
            processes=self._processes,
        )

    def outlook(self) -> dict[str, Fits]:
        """Return the fits that are still to be made, at most, with the time of a gradient, by kind.

        Cost: two gradients of each objective over a block of the training images.
        """
        settings, objective = self._settings, self._plan.objective
        grown = _MOST_ADDED if len(settings.penalties) > 1 else 0
        kinds = {ObjectiveName.INDEPENDENT.value: len(settings.penalties) + grown + 1}
        grown = _MOST_ADDED if len(settings.pairwise_penalties) > 1 else 0
        couplings = len(settings.pairwise_penalties) * len(settings.pairwise_l1)
        schedules = self._plan.schedules
        if objective is not ObjectiveName.INDEPENDENT and schedules != (Schedule.STACKED,):
            near = min(2, len(settings.penalties))
            if Schedule.PIECEWISE in schedules:
                near = 1
            grid = near * couplings
            direct = settings.structure is Structure.LATENT or objective in (
                ObjectiveName.BLENDED_CONVEX_BP,
                ObjectiveName.UNROLLED_MEAN_FIELD,
            )
            if direct:
                refits = 0 if self._minimiser(objective).early_stopping else 1
                kinds[objective.value] = grid + refits
            elif objective is ObjectiveName.PSEUDO_LIKELIHOOD:
                kinds[objective.value] = grid + grown + 1
            else:
                all_known = bool((self._train_space.targets >= 0).all())
                kinds[ObjectiveName.PSEUDO_LIKELIHOOD.value] = grid + grown
                kinds[objective.value] = (near + 1) + (0 if all_known else 3) + 1
        if Schedule.STACKED in schedules:
            edge_sets = 1 + len(self._plan.other_edges)
            kinds["fold"] = 2 * FOLDS
            kinds[f"stacked {self._stacked_objective.value}"] = edge_sets * (couplings + grown) + 1
        left = {kind: count - self._stages.count(f"{kind} ") for kind, count in kinds.items()}
        return {kind: self._fits(kind, count) for kind, count in left.items() if count > 0}

    def _fits(self, kind: str, count: int) -> Fits:
        space, model = self._train_space, self._plan.make_model(self._num_features)
        objective = ObjectiveName.INDEPENDENT
        if kind.startswith("stacked "):
            objective = self._stacked_objective
            space = LogOddsSpace(torch.zeros(space.targets.shape), space.targets, self._processes)
            model = CrfOfLogOdds(len(self._plan.labels), self._plan.edges, self._plan.implications)
        elif kind in (ObjectiveName.INDEPENDENT, "fold"):
            model = LabelCrf(self._num_features, len(self._plan.labels), edges=no_edges())
        else:
            objective = ObjectiveName(kind)
        minimiser = self._minimiser(objective)
        steps = None if minimiser.steps is None else minimiser.steps.count
        seconds = time_gradient(
            space, space.to_axes(model), minimiser.loss, is_persistent=steps is not None
        )
        return Fits(count, typical_gradients(self._plan, objective, steps), seconds)

    def _search_near(
        self, objective: ObjectiveName, found: Fitted, loss: Callable[[Fitted], float]
    ) -> Fitted:
        """Search the penalties next to the choice of pseudo-likelihood.

        With unknown labels also those of couplings, because pseudo-likelihood, which only averages
        over unknown labels, then prefers stronger penalties than the objective.
        """
        start = found.model
        if not bool((self._train_space.targets >= 0).all()):
            strengths = self._coupling_strengths
            at = strengths.index(found.penalty.pairwise)
            steps = [at + step for step in (0, -1, 1) if 0 <= at + step < len(strengths)]
            beside = [replace(found.penalty, pairwise=strengths[step]) for step in steps]
            found = self._search(objective, beside, start, loss)
            start = found.model
        near = self._near(found.penalty.weights, (0, 1, -1), found.penalty)
        return self._search(objective, near, start, loss)

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
        settings, strengths = self._settings, self._strengths
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
        self,
        objective: ObjectiveName,
        candidates: Iterable[Penalty],
        start: LabelCrf,
        loss: Callable[[Fitted], float] = lambda fitted: fitted.score,
    ) -> Fitted:
        """Fit with each penalty; return the fit of least validation loss."""
        best: tuple[float, Fitted] | None = None
        again = self._minimiser(objective).cold_start
        for penalty in candidates:
            fitted = self._fit("train", objective, penalty, start)
            start = start if again else fitted.model
            its = loss(fitted)
            if best is None or its < best[0]:
                best = its, fitted
        assert best is not None
        return best[1]

    def _extend(
        self,
        best: Fitted,
        kind: Literal["weights", "pairwise"],
        strengths: list[float],
        fit: Callable[[Penalty, LabelCrf], Fitted],
    ) -> Fitted:
        """Try penalties beyond the end of the list that the best one is at, while they are better.

        Args:
            strengths: sorted; gets the new ones. A list of one is what the user chose.
            fit: fits with a penalty, beginning from a model.
        """
        for _ in range(_MOST_ADDED):
            value = getattr(best.penalty, kind)
            if len(strengths) < 2 or value not in (strengths[0], strengths[-1]):
                break
            inner = strengths[1] if value == strengths[0] else strengths[-2]
            strengths.append(value * (value / inner))
            fitted = fit(replace(best.penalty, **{kind: strengths[-1]}), best.model)
            strengths.sort()
            if fitted.score >= best.score:
                break
            best = fitted
        return best

    def _fitter(self, objective: ObjectiveName) -> Callable[[Penalty, LabelCrf], Fitted]:
        return lambda penalty, start: self._fit("train", objective, penalty, start)

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


def _weigh(independent: Fitted, crf: Fitted, weighing: Weighing) -> Fitted:
    """Return the CRF with these weights, with the losses that chose them in its report."""
    report = {
        "labels_with_structure": int((weighing.weights > 0).sum()),
        "mean_structure_weight": float(weighing.weights.mean()),
        "single_label_loss": weighing.after.single,
        "single_label_loss_of_baseline": weighing.before.single,
    }
    return replace(
        crf,
        model=weighed(independent.model, crf.model, weighing.weights),
        on_train=weighed(independent.on_train, crf.on_train, weighing.weights),
        score=weighing.after.joint,
        report=crf.report | report,
    )
