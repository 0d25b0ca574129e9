"""Trainer of the independent baseline and the CRF on the same features.

With fewer than 400 validation images the share of structure, and whether it is learned jointly, are
chosen on the training images as well: each fold is scored by models that were fitted without it.
With the setting `cross_validation` penalties and decisions are chosen so too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from mlcrf.choices import InferenceName, ObjectiveName, Schedule, Structure
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import from_image, sharing
from mlcrf.training.candidates import Candidate, Fitted, extend
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finite import diverging
from mlcrf.training.outlook import count_fits
from mlcrf.training.plan import Minimiser, Plan, can_leave_out, make_minimiser
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import FitFinished, Log, TaskStarted
from mlcrf.training.stacking import (
    ENOUGH,
    FOLD_TOLERANCE,
    FOLDS,
    Stacker,
    assign_folds,
    hold_out_folds,
    validation_judges_alone,
)
from mlcrf.training.stages import Result, Stages
from mlcrf.training.time_to_go import Fits
from mlcrf.training.weighing import HeldOut, Weigher, Weighing, weighed

_AT_ONCE = 1024  # validation images per batch
_START_TOLERANCE = 1e-4  # nats per image, for fits that another begins from


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
        by_part = {"train": self._train_space, "all": self._full_space}
        self._train = train
        self._weigher = self._make_weigher()
        self._fold: Tensor | None = None
        self._fold_spaces: list[FeatureSpace] = []
        if not validation_judges_alone(validation, self._settings) and self._has_folds():
            self._fold = assign_folds(len(train.targets), self._settings.seed)
            self._fold_spaces = [
                self._train_space.only(self._fold != number) for number in range(FOLDS)
            ]
        self._chooses_by_fold = self._settings.cross_validation and self._fold is not None
        self._fold_starts: dict[ObjectiveName, list[LabelCrf]] = {}
        self._stacker = Stacker(train, validation, by_part, plan, stages, log)

    def fit_independent(self) -> Fitted:
        """Fit the baseline, which has no couplings and its own penalty."""
        start = self._make_constant(self._train_space.frequencies())
        candidates = [Penalty(weights, 0.0) for weights in self._strengths[::-1]]
        best = self._search(ObjectiveName.INDEPENDENT, candidates, start)
        best = extend(best, "weights", self._strengths, self._fitter(ObjectiveName.INDEPENDENT))
        fitted = self._refit(ObjectiveName.INDEPENDENT, best)
        if not self._chooses_by_fold:
            return fitted
        held_out = tuple(
            (part.baseline, Examples(part.features, part.targets))
            for part in self._hold_out(best, best, ObjectiveName.INDEPENDENT)
        )
        return replace(fitted, held_out=held_out)

    def _make_constant(self, frequencies: Tensor) -> LabelCrf:
        """Return a baseline to start from, of the best constant prediction if it is linear."""
        start = LabelCrf(
            self._num_features,
            len(self._plan.labels),
            edges=no_edges(),
            hidden=self._settings.hidden_units,
            seed=self._settings.seed,
        )
        with torch.no_grad():
            start.output.bias.copy_(frequencies.logit())
        return start

    def fit_crf(self, independent: Fitted) -> Fitted:
        """Fit the CRF by each schedule of the plan, and use as much of it as validation supports.

        The chosen candidate is fitted on all images; the result lies between the baseline and that,
        see `mlcrf.training.weighing`.
        """
        best = self._search_schedules(independent)
        if best.stacked is None:
            final = self._refit(self._plan.objective, best.fitted)
        else:
            final = self._stacker.refit(independent, best.stacked)
        final = replace(final, resolved=best.resolved)
        if best.weighing is None:
            return final
        if len(self._settings.structure_weights) > 1:
            self._log(str(best.weighing))
        final = _weigh(independent, final, best.weighing)
        if not self._chooses_by_fold:
            return final
        weights, bias = best.weighing.weights, best.weighing.bias
        held_out = tuple(
            (part.with_weights(weights, bias), Examples(part.features, part.targets))
            for part in best.held_out
        )
        return replace(final, held_out=held_out)

    def _hold_out(
        self, independent: Fitted, other: Fitted, objective: ObjectiveName
    ) -> list[HeldOut]:
        """Return held-out images with the baseline and another model, both without them.

        Args:
            objective: that of the other.
        """
        whole, both = self._validation, (independent.on_train, other.on_train)
        parts = [HeldOut(whole.features, whole.targets, *both)] if len(whole.targets) else []
        if self._fold is not None:
            baselines = self._fit_folds(ObjectiveName.INDEPENDENT, independent.penalty)
            crfs = self._fit_folds(objective, other.penalty)
            parts += hold_out_folds(self._train, self._fold, baselines, crfs)
        return parts

    def _has_folds(self) -> bool:
        """Return whether models are fitted without folds."""
        if self._settings.cross_validation:
            return True
        settings, schedules = self._settings, self._plan.schedules
        if self._weigher is None or settings.structure is Structure.INDEPENDENT:
            return False
        chooses = len(schedules) > 1 or len(settings.structure_weights) > 1
        is_joint = schedules != (Schedule.STACKED,)  # whose trainer has its own folds
        return chooses and is_joint and can_leave_out(self._plan)

    def _search_schedules(self, independent: Fitted) -> Candidate:
        """Return the best candidate that was learned on log-odds, or the joint one.

        They are compared with one weight of structure for all labels. With `cross_validation`,
        where all images choose, the loss of joint learning decides; else see `Candidate.is_better`.
        """
        weigher = self._weigher
        best: Candidate | None = None
        if Schedule.STACKED in self._plan.schedules:
            assert weigher is not None  # a plan that stacks has one
            best = min(self._stacker.search(independent, weigher), key=lambda one: one.loss)
        for schedule in self._plan.schedules:
            if schedule is Schedule.STACKED:
                continue
            joint = self._search_joint(independent)
            resolved: dict[str, StrEnum] = {"objective": self._plan.objective, "schedule": schedule}
            weighing, held_out = None, []
            if weigher is not None:
                held_out = self._hold_out(independent, joint, self._plan.objective)
                self._log(TaskStarted("structure weights"))
                weighing = weigher.choose_common(held_out)
            candidate = Candidate(joint, resolved, weighing, tuple(held_out))
            if best is None or self._is_better(candidate, best):
                best = candidate
        assert best is not None
        if best.weighing is None or (best.stacked is not None and self._plan.other_edges):
            return best
        assert weigher is not None
        self._log(TaskStarted("structure weights"))
        return replace(best, weighing=weigher.choose_by_group(best.held_out, best.weighing))

    def _is_better(self, joint: Candidate, stacked: Candidate) -> bool:
        if self._settings.cross_validation:
            return joint.loss < stacked.loss
        return joint.is_better(stacked)

    def _search_joint(self, independent: Fitted) -> Fitted:
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
        best = extend(best, "pairwise", self._coupling_strengths, self._fitter(first))
        if objective is first:
            return best
        return self._fit_likelihood(objective, best)

    def _make_weigher(self) -> Weigher | None:
        """Return the choice of weights; None for models that do not begin as the baseline."""
        settings, plan = self._settings, self._plan
        others = plan.objective is ObjectiveName.BLENDED_CONVEX_BP
        if settings.hidden_units or settings.structure is Structure.LATENT or others:
            return None
        exact = plan.exact is not None and not plan.other_edges
        name = ObjectiveName.EXACT_LIKELIHOOD if exact else ObjectiveName.PSEUDO_LIKELIHOOD
        if plan.silence is not None and not exact:
            name = ObjectiveName.CONTRASTIVE_DIVERGENCE
        given = exact and plan.inference is InferenceName.AUTO  # beside the marginals
        joint = None if given else self._minimiser(name).loss
        return Weigher(
            positives=(self._train_space.targets == 1).sum(0),
            make_inference=lambda model: model.make_inference(plan.inference, settings),
            joint=joint,
            candidates=settings.structure_weights,
            joint_share=settings.joint_share,
            errors=2.0 if settings.cross_validation else 1.0,
            is_few=len(self._validation.targets) < ENOUGH,
            silence=plan.silence,
            processes=self._processes,
        )

    def outlook(self) -> dict[str, Fits]:
        """Return the fits that are still to be made; see `mlcrf.training.outlook`."""
        by_fold = self._fold is not None
        return count_fits(
            self._plan, self._train_space, self._stacker, self._stages, by_fold=by_fold
        )

    def _fit_likelihood(self, objective: ObjectiveName, found: Fitted) -> Fitted:
        """Fit from the choice of pseudo-likelihood, with its penalties.

        With unknown labels the penalties of couplings next to it are tried too, because
        pseudo-likelihood, which only averages over unknown labels, then prefers stronger ones than
        the objective.
        """
        beside = [found.penalty]
        if not bool((self._train_space.targets >= 0).all()):
            strengths = self._coupling_strengths
            at = strengths.index(found.penalty.pairwise)
            steps = [at + step for step in (0, -1, 1) if 0 <= at + step < len(strengths)]
            beside = [replace(found.penalty, pairwise=strengths[step]) for step in steps]
        return self._search(objective, beside, found.model)

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

    def _near(self, weights: float, steps: Sequence[int]) -> list[Penalty]:
        """Return penalties with strengths some places from `weights` in the settings' list."""
        settings, strengths = self._settings, self._strengths
        at = strengths.index(weights)
        near = [strengths[at + step] for step in steps if 0 <= at + step < len(strengths)]
        if settings.schedule is Schedule.PIECEWISE:  # weights are frozen
            near = [weights]
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
    ) -> Fitted:
        """Fit with each penalty; return the fit of least validation loss."""
        best: Fitted | None = None
        again = self._minimiser(objective).cold_start
        for penalty in candidates:
            fitted = self._fit("train", objective, penalty, start)
            start = start if again else fitted.model
            best = fitted if best is None or fitted.score < best.score else best
        assert best is not None
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
        with diverging(name):
            model, report = self._minimiser(objective).minimise(
                space,
                space.to_axes(start),
                penalty,
                frozen=self._is_frozen(objective),
                progress=lambda event: self._log(replace(event, fit=name)),
                held_out=lambda model: self._score(objective, space.to_features(model)),
            )
            fitted = space.to_features(model)
            score = self._score(objective, fitted)
            if self._chooses_by_fold and part == "train":
                score = self._cross_validate(objective, penalty, score)
        self._log(FitFinished(name, penalty, report, score))
        return {"model": fitted.state_dict(), "score": score, "report": asdict(report)}

    def _cross_validate(self, objective: ObjectiveName, penalty: Penalty, score: float) -> float:
        """Return the mean loss of validation images, whose mean is `score`, and of all folds."""
        assert self._fold is not None
        count = len(self._validation.targets)
        total = count * score
        for number, model in enumerate(self._fit_folds(objective, penalty)):
            unseen = self._train.rows((self._fold == number).numpy())
            total += len(unseen.targets) * self._score(objective, model, unseen)
        return total / (count + len(self._fold))

    def _fit_folds(self, objective: ObjectiveName, penalty: Penalty) -> list[LabelCrf]:
        """Return the models of raw features that are fitted without each fold.

        A fit starts from what was fitted without its fold before, never from a model that has seen
        it: with more features than images that would be converged, and know the fold by heart.
        """
        first = ObjectiveName.PSEUDO_LIKELIHOOD
        begins = objective in (ObjectiveName.INDEPENDENT, first)
        if not begins and first not in self._fold_starts:
            self._fit_folds(first, penalty)
        starts = self._fold_starts.get(objective) or [
            self._start_without(number, objective) for number in range(FOLDS)
        ]
        minimiser = replace(self._minimiser(objective), tolerance=FOLD_TOLERANCE)
        frozen = self._is_frozen(objective)
        models = []
        for number, space in enumerate(self._fold_spaces):
            name = f"{objective.value} without fold {number + 1}, {penalty}"

            def compute(
                space: FeatureSpace = space, name: str = name, start: LabelCrf = starts[number]
            ) -> Result:
                with diverging(name):
                    model, _ = minimiser.minimise(
                        space,
                        space.to_axes(start),
                        penalty,
                        frozen=frozen,
                        progress=lambda event: self._log(replace(event, fit=name)),
                        held_out=lambda model: 0.0,
                    )
                return {"model": space.to_features(model).state_dict()}

            model = starts[number].clone()
            model.load_state_dict(self._stages.run(name, compute)["model"])
            models.append(model)
        self._fold_starts[objective] = models
        return models

    def _start_without(self, number: int, objective: ObjectiveName) -> LabelCrf:
        """Return a model to start from without a fold, of an objective that comes before."""
        if objective is ObjectiveName.INDEPENDENT:
            return self._make_constant(self._fold_spaces[number].frequencies())
        if objective is ObjectiveName.PSEUDO_LIKELIHOOD:
            return self._uncoupled(self._fold_starts[ObjectiveName.INDEPENDENT][number])
        return self._fold_starts[ObjectiveName.PSEUDO_LIKELIHOOD][number]

    def _is_frozen(self, objective: ObjectiveName) -> bool:
        coupled = objective is not ObjectiveName.INDEPENDENT
        return coupled and self._settings.schedule is Schedule.PIECEWISE

    def _minimiser(self, objective: ObjectiveName) -> Minimiser:
        minimiser = make_minimiser(self._plan, objective)
        is_start = objective not in (self._plan.objective, ObjectiveName.INDEPENDENT)
        return replace(minimiser, tolerance=_START_TOLERANCE) if is_start else minimiser

    @torch.no_grad()
    def _score(
        self, objective: ObjectiveName, model: LabelCrf, held_out: Examples | None = None
    ) -> float:
        """Return the loss of validation images, or of others.

        For pseudo-likelihood it is the exact likelihood, if that is feasible.
        """
        if objective is ObjectiveName.PSEUDO_LIKELIHOOD and self._plan.exact is not None:
            objective = ObjectiveName.EXACT_LIKELIHOOD
        loss, held_out = sharing(self._minimiser(objective).loss), held_out or self._validation
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
        "loss_of_baseline": weighing.before.joint,
    }
    return replace(
        crf,
        model=weighed(independent.model, crf.model, weighing.weights, weighing.bias),
        on_train=weighed(independent.on_train, crf.on_train, weighing.weights, weighing.bias),
        score=weighing.after.joint,
        report=crf.report | report,
    )
