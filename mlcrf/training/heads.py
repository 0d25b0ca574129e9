"""Trainer of both models on the same features: the independent baseline and the CRF."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.feature_matrix import Matrix, join, read_rows
from mlcrf.choices import ObjectiveName, Schedule
from mlcrf.crf import Potentials
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import from_image
from mlcrf.training.extraction import Environment
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finite import diverging
from mlcrf.training.plan import Minimiser, Plan, make_minimiser
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import Log
from mlcrf.training.stages import Result, Stages

_AT_ONCE = 1024  # validation images in one batch


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
            join(self.features, other.features),
            np.concatenate([self.targets, other.targets]),
        )

    def potentials(self, model: LabelCrf, rows: slice) -> Potentials:
        """Return the potentials of some of the images."""
        potentials: Potentials = model(torch.from_numpy(read_rows(self.features, rows)))
        return potentials


@dataclass(frozen=True)
class Fitted:
    """A fitted model for raw features, with its penalty and scores.

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


class HeadTrainer:
    """Chooses penalties on validation images and refits on all.

    For every candidate a model is fitted on the training images; the one with the lowest loss on
    the validation images gives its penalty to the final fit, on both together.

    Args:
        everything: what the refit is on, if it is not `train` and `validation` as they are.
        environment: its processes fit as one, each on its share of the images; its cache folder
            holds what is made of mapped features.
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
        """Fit the baseline, which has no couplings and a penalty of its own."""
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
        """Fit the CRF: from the baseline by pseudo-likelihood, from there by the objective.

        Where labels are unknown these are not convex: the baseline, from which they start, leaves
        the unknown out. Unrolled mean field starts from the baseline itself, which it then is no
        worse than on validation images; blended learning too, for it counts entropies so often that
        its unaries are larger by as much.
        """
        objective = self._plan.objective
        start = self._uncoupled(independent.on_train)
        candidates = self._near(independent.penalty.weights, (0, -1))
        if start.num_scenes:
            start.start_scenes(self._train_space.targets, seed=self._settings.seed)
            return self._refit(objective, self._search(objective, candidates, start))
        if objective is ObjectiveName.BLENDED_CONVEX_BP:
            # each label is in as many entropies as it has edges, and one
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

    def _search_near(self, objective: ObjectiveName, found: Fitted) -> Fitted:
        """From what pseudo-likelihood chose, the penalties beside it.

        Those on couplings too where labels are unknown, for then pseudo-likelihood, which only
        averages over them, wants stronger ones than the objective does.
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
        """Return a CRF with the baseline's unaries, whose couplings are still 0."""
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
        """Penalties on the weights so many places from one of them, with those on couplings.

        Args:
            chosen: gives its penalties on couplings to all; else every one there is.
        """
        settings = self._settings
        strengths = sorted(settings.penalties)
        at = strengths.index(weights)
        near = [strengths[at + step] for step in steps if 0 <= at + step < len(strengths)]
        if settings.schedule is Schedule.PIECEWISE:  # whose weights stay
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
        if self._minimiser(objective).early_stopping:  # it needs images that it is not fitted on
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
        """Return the loss on validation images: joint likelihood if exact inference reaches."""
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
