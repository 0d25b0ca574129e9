"""Couplings learned on log-odds of the baseline for images that it did not see.

A head with hundreds of weights per label fits its own training images too well: beside such unaries
couplings learn little, and joint learning lets them take over what the image should say. So the
images are cut into folds, each is scored by a baseline that has not seen it, and couplings and
biases are learned on these log-odds, which err as they will err on new images (Wolpert, "Stacked
generalization", 1992).

Where validation images are few, penalties and weights are chosen on training images as well: those
of each fold by its baseline, with couplings that were learned without the fold. With the setting
`cross_validation` the baseline and joint learning are chosen so as well (`mlcrf.training.heads`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.feature_matrix import read_spread, spread_rows
from mlcrf.choices import ObjectiveName, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.hints import counted
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import independent_loss
from mlcrf.processes import Processes
from mlcrf.rules import Rules
from mlcrf.training.candidates import MOST_ADDED, Candidate, Fitted, extend
from mlcrf.training.examples import Examples
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finite import diverging
from mlcrf.training.fit import fit
from mlcrf.training.plan import Minimiser, Plan, make_minimiser, stacked_objective
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import FitFinished, FitReport, Log, TaskStarted
from mlcrf.training.stages import Result, Stages
from mlcrf.training.weighing import HeldOut, Weigher

FOLDS = 5
_SHARE = 1 - 1 / FOLDS  # of the images are in the loss of a fold's fit, which is a mean over all
FOLD_TOLERANCE = 1e-4  # nats per image; log-odds need no more
ENOUGH = 400  # validation images to choose penalties and weights on alone
_ROWS_PER_FEATURE = 4  # with fewer, a model that has seen a fold can know it by heart
_MOST_OF_FOLDS = 1000  # training images to choose on beside fewer


def validation_judges_alone(validation: Examples, settings: TrainSettings) -> bool:
    """Return whether validation images judge alone.

    They do if they are many, or if the network was trained on the training images: of those it
    knows more than of new ones, whatever fold they are in.
    """
    return len(validation.targets) >= ENOUGH or settings.trains_network


class CrfOfLogOdds(LabelCrf):
    """A CRF whose unaries are given log-odds (N, L) plus a bias; the head's weights have no use."""

    def __init__(self, num_labels: int, edges: Tensor, rules: Rules) -> None:
        super().__init__(1, num_labels, edges=edges, rules=rules)

    def unary(self, features: Tensor) -> Tensor:
        return features + self.output.bias

    @torch.no_grad()
    def above(self, baseline: LabelCrf) -> LabelCrf:
        """Return the model of features that has these biases and couplings above a baseline."""
        result = LabelCrf(
            baseline.output.in_features,
            self.num_labels,
            edges=self.edges,
            rules=self.rules,
        )
        result.output.weight.copy_(baseline.output.weight)
        result.output.bias.copy_(baseline.output.bias + self.output.bias)
        result.pairwise.copy_(self.pairwise)
        return result


class LogOddsSpace(FeatureSpace):
    """Log-odds of the training images in place of features, neither standardised nor rotated."""

    def __init__(self, log_odds: Tensor, targets: Tensor, processes: Processes) -> None:
        self.processes = processes
        self._length = len(log_odds)
        self._rotated = log_odds
        self.targets = targets

    def to_features(self, model: LabelCrf) -> LabelCrf:
        return model.clone()

    def to_axes(self, model: LabelCrf) -> LabelCrf:
        return model.clone()


@dataclass(frozen=True)
class OutOfFold:
    """Training images scored by baselines that did not see them.

    Attributes:
        log_odds: of all images.
        fold: number of each image's fold, int64 (N,).
        baselines: one for each fold, fitted without it, on the axes of the space.
    """

    log_odds: LogOddsSpace
    fold: Tensor
    baselines: list[LabelCrf]


def assign_folds(count: int, seed: int) -> Tensor:
    """Return the number of each image's fold, int64 (N,)."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(count) % FOLDS)


@torch.no_grad()
def out_of_fold(
    space: FeatureSpace, fit_without: Callable[[int, FeatureSpace], LabelCrf], *, seed: int
) -> OutOfFold:
    """Score each image by a baseline that was fitted without the image's fold.

    Args:
        fit_without: called with the number of a fold and the space in which that fold's targets are
            unknown; returns a model of the space's axes.
        seed: random seed of the folds.

    Cost: that of `FOLDS` fits, and O(N L) memory.
    """
    fold = assign_folds(len(space), seed)
    log_odds = torch.zeros(space.targets.shape)
    baselines = []
    for number in range(FOLDS):
        inside = fold == number
        with torch.enable_grad():
            model = fit_without(number, space.without_targets(inside))
        for rows in space.blocks():
            log_odds[rows] += model.unary(space.inputs(rows)) * inside[rows, None]
        baselines.append(model)
    space.processes.all_reduce(log_odds)
    return OutOfFold(LogOddsSpace(log_odds, space.targets, space.processes), fold, baselines)


@torch.no_grad()
def make_constant(model: LabelCrf, space: FeatureSpace) -> LabelCrf:
    """Return the model with weights of 0 and the biases of the known targets' frequencies."""
    result = model.clone()
    result.output.weight.zero_()
    result.output.bias.copy_(space.frequencies().logit())
    return result


def score_by_baselines(
    examples: Examples, settings: TrainSettings, processes: Processes
) -> NDArray[np.float32]:
    """Return log-odds of images by baselines that did not see them (N, L).

    The penalty is the median of the settings' list.

    Cost: five fits of the baseline.
    """
    penalty = Penalty(float(np.median(settings.penalties)), 0.0)
    space = FeatureSpace(examples.features, examples.targets, processes=processes)
    any_start = LabelCrf(examples.features.shape[1], examples.targets.shape[1], edges=no_edges())

    def fit_without(number: int, others: FeatureSpace) -> LabelCrf:
        start = make_constant(any_start, others)
        return fit(others, start, independent_loss, penalty, tolerance=FOLD_TOLERANCE)[0]

    scores: NDArray[np.float32] = out_of_fold(
        space, fit_without, seed=settings.seed
    ).log_odds.rotated.numpy()
    return scores


def hold_out_folds(
    train: Examples, fold: Tensor, baselines: Sequence[LabelCrf], crfs: Sequence[LabelCrf]
) -> list[HeldOut]:
    """Return some training images fold by fold, with the models that were fitted without.

    Args:
        fold: number of each image's fold (N,).
        baselines, crfs: models of raw features, one for each fold.
    """
    some = spread_rows(len(train.targets), _MOST_OF_FOLDS)
    features, targets = read_spread(train.features, some), train.targets[some]
    parts = []
    for number, (baseline, crf) in enumerate(zip(baselines, crfs, strict=True)):
        rows = fold.numpy()[some] == number
        if rows.any():
            parts.append(HeldOut(features[rows], targets[rows], baseline, crf))
    return parts


class Stacker:
    """Fits of couplings above a baseline, on its log-odds out of fold.

    Args:
        train, validation: raw features, to choose on.
        spaces: images of the fits, `train` and `all`.
    """

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        spaces: Mapping[str, FeatureSpace],
        plan: Plan,
        stages: Stages,
        log: Log,
    ) -> None:
        self._train, self._validation, self._spaces = train, validation, spaces
        self._plan, self._settings = plan, plan.settings
        self._stages, self._log = stages, log
        self._objective = stacked_objective(plan)

    def count_fits(self) -> dict[str, int]:
        """Return how many fits of each kind are made at most, finished or not."""
        settings = self._settings
        grown = MOST_ADDED if len(settings.pairwise_penalties) > 1 else 0
        strengths = len(settings.pairwise_penalties) * len(settings.pairwise_l1) + grown
        of_each = 1 if validation_judges_alone(self._validation, settings) else 1 + FOLDS
        edge_sets = 1 + len(self._plan.other_edges)
        return {
            "fold": 2 * FOLDS,
            f"stacked {self._objective.value}": edge_sets * strengths * of_each + 1,
        }

    def count_later(self, kind: str) -> int:
        """Return how many fits of a kind come after those of other schedules, if this is chosen."""
        return {"fold": FOLDS, f"stacked {self._objective.value}": 1}.get(kind, 0)

    def search(self, independent: Fitted, weigher: Weigher) -> list[Candidate]:
        """Return the best fit on training images with each edge set of the plan, weighed."""
        unseen = self._score_folds("train", independent)
        return [
            self._search_edges(independent, weigher, unseen, edges, is_other=number > 0)
            for number, edges in enumerate((self._plan.edges, *self._plan.other_edges))
        ]

    def refit(self, independent: Fitted, chosen: Fitted) -> Fitted:
        """Fit couplings on all images, on log-odds of the baseline of all images."""
        space = self._score_folds("all", independent).log_odds
        final = self._fit("all", space, chosen.penalty, chosen.model)
        model = _above(final.model, independent.model)
        on_train = _above(chosen.model, independent.on_train)
        return Fitted(model, chosen.penalty, chosen.score, final.report, on_train)

    def _search_edges(
        self,
        independent: Fitted,
        weigher: Weigher,
        unseen: OutOfFold,
        edges: Tensor,
        *,
        is_other: bool,
    ) -> Candidate:
        settings = self._settings
        strengths = sorted(settings.pairwise_penalties)
        start: LabelCrf = CrfOfLogOdds(len(self._plan.labels), edges, self._plan.rules)

        def fit(penalty: Penalty, start: LabelCrf) -> Fitted:
            one = self._fit("train", unseen.log_odds, penalty, start)
            held_out = self._held_out(independent, unseen, one)
            self._log(TaskStarted("structure weights"))
            return replace(one, score=weigher.score(held_out))

        best: Fitted | None = None
        for pairwise in strengths[::-1]:
            for l1 in sorted(settings.pairwise_l1)[::-1]:
                one = fit(Penalty(independent.penalty.weights, pairwise, l1), start)
                start = one.model
                best = one if best is None or one.score < best.score else best
        assert best is not None
        best = extend(best, "pairwise", strengths, fit)
        whole = _above(best.model, independent.on_train)
        resolved: dict[str, StrEnum] = {
            "objective": self._objective,
            "schedule": Schedule.STACKED,
            **({"structure": Structure.TREE} if is_other else {}),
        }
        held_out = self._held_out(independent, unseen, best)
        self._log(TaskStarted("structure weights"))
        weighing = weigher.choose_common(held_out)
        if self._plan.other_edges:  # each at its best
            weighing = weigher.choose_by_group(held_out, weighing)
        fitted = replace(best, model=whole, on_train=whole)
        return Candidate(fitted, resolved, weighing, tuple(held_out), best)

    def _held_out(self, independent: Fitted, unseen: OutOfFold, one: Fitted) -> list[HeldOut]:
        """Return validation images, and if they are few, training images, fold by fold."""
        whole, baseline = self._validation, independent.on_train
        parts = [HeldOut(whole.features, whole.targets, baseline, _above(one.model, baseline))]
        if validation_judges_alone(self._validation, self._settings):
            return parts
        baselines = [self._spaces["train"].to_features(of_fold) for of_fold in unseen.baselines]
        crfs = []
        start = CrfOfLogOdds(len(self._plan.labels), one.model.edges, self._plan.rules)
        for number, of_fold in enumerate(baselines):
            others = unseen.log_odds.without_targets(unseen.fold == number)
            penalty = one.penalty.scaled(_SHARE)
            crf = self._fit("train", others, penalty, start, without=number).model
            crfs.append(_above(crf, of_fold))
        return (parts if len(whole.targets) else []) + hold_out_folds(
            self._train, unseen.fold, baselines, crfs
        )

    def _score_folds(self, part: str, independent: Fitted) -> OutOfFold:
        """Score the images of a part by baselines that did not see them."""
        space = self._spaces[part]
        start = space.to_axes(independent.on_train if part == "train" else independent.model)
        is_few = len(space) < _ROWS_PER_FEATURE * start.output.in_features
        penalty = Penalty(_SHARE * independent.penalty.weights, 0.0)
        minimiser = replace(self._minimiser(ObjectiveName.INDEPENDENT), tolerance=FOLD_TOLERANCE)
        began = perf_counter()

        def fit_without(number: int, others: FeatureSpace) -> LabelCrf:
            name = f"fold {number + 1} of {FOLDS} on {part}"

            def compute() -> Result:
                begin = make_constant(start, others) if is_few else start
                model, _ = self._minimise(name, minimiser, others, begin, penalty, frozen=False)
                return {"model": model.state_dict()}

            model = start.clone()
            model.load_state_dict(self._stages.run(name, compute)["model"])
            return model

        result = out_of_fold(space, fit_without, seed=self._settings.seed)
        self._log(f"{FOLDS} folds on {part}: log-odds in {perf_counter() - began:.0f} s")
        return result

    def _fit(
        self,
        part: str,
        space: FeatureSpace,
        penalty: Penalty,
        start: LabelCrf,
        *,
        without: int | None = None,
    ) -> Fitted:
        """Fit couplings.

        Args:
            without: number of the fold whose targets the space leaves out.
        """
        where = part if without is None else f"{part} without fold {without + 1}"
        name = (
            f"stacked {self._objective.value} on {where}, "
            f"{counted(len(start.edges), 'edge')}, {penalty}"
        )

        def compute() -> Result:
            minimiser = self._minimiser(self._objective)
            if without is not None:
                minimiser = replace(minimiser, tolerance=FOLD_TOLERANCE)
            model, report = self._minimise(name, minimiser, space, start, penalty, frozen=True)
            if without is None:
                self._log(FitFinished(name, penalty, report))
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

    def _minimiser(self, objective: ObjectiveName) -> Minimiser:
        return make_minimiser(self._plan, objective)


def _above(crf: LabelCrf, baseline: LabelCrf) -> LabelCrf:
    assert isinstance(crf, CrfOfLogOdds)
    return crf.above(baseline)
