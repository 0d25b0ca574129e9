"""Numbers that are none are found in training before the step, and never kept."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import STATE
from mlcrf.choices import Finetune, ObjectiveName
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Manifest
from mlcrf.errors import MlcrfError, RunError
from mlcrf.inference import Posterior
from mlcrf.latent import AlbumScores, fit_transitions
from mlcrf.model import LabelCrf
from mlcrf.objectives import BlendedConvexBp, ContrastiveDivergence
from mlcrf.training import finetune, heads, last_stage, members, outlook
from mlcrf.training import fitting as fitting_both
from mlcrf.training.features import FeatureSpace
from mlcrf.training.members import Members
from mlcrf.training.plan import Plan
from mlcrf.training.preconditioner import Preconditioner
from mlcrf.training.run import train
from tests.reliability.odd_numbers import (
    QUICK,
    TORCH,
    VALUES,
    Fault,
    Patch,
    Spoil,
    assert_finite,
    assert_says_what_to_do,
)
from tests.reliability.scale import SCALE, at_length

MEMBERS = {"hidden_units": 4, "dropout": 0.3, "members": 2}


@dataclass(frozen=True)
class Place:
    """Where it comes in, and what is said then."""

    spoil: Spoil
    reason: str
    at: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Spoilt:
    """An objective of which something is changed: what it returns, or its memory."""

    objective: Any
    change: Callable[[Tensor], Tensor] = lambda loss: loss
    remember: Callable[[Any], Any] = lambda memory: memory

    def __call__(self, *given: Any, **settings: Any) -> Tensor:
        return self.change(self.objective(*given, **settings))

    def start(self, *given: Any) -> Any:
        return self.objective.start(*given)

    def advance(self, *given: Any) -> Any:
        return self.remember(self.objective.advance(*given))

    def loss(self, *given: Any) -> Tensor:
        return self.change(self.objective.loss(*given))


def fitting(module: Any, name: ObjectiveName | None, change: Callable[[Any, Fault], Any]) -> Spoil:
    """Change what a module makes of an objective's name, or of any name."""

    def spoil(patch: Patch, fault: Fault) -> None:
        real = module.make_minimiser

        def make(plan: Plan, wanted: ObjectiveName) -> Any:
            minimiser = real(plan, wanted)
            return change(minimiser, fault) if name in (None, wanted) else minimiser

        patch.setattr(module, "make_minimiser", make)

    return spoil


def value_of_loss(minimiser: Any, fault: Fault) -> Any:
    """The loss is spoilt at a step, its gradient is as it was."""

    def change(loss: Tensor) -> Tensor:
        return loss + fault.value if torch.is_grad_enabled() and fault.is_due() else loss

    return replace(minimiser, loss=Spoilt(minimiser.loss, change))


def gradient_of_loss(minimiser: Any, fault: Fault) -> Any:
    """The gradient is spoilt at a step, the loss is as it was."""

    def change(loss: Tensor) -> Tensor:
        if torch.is_grad_enabled() and fault.is_due():
            loss.register_hook(lambda slope: slope * fault.value)
        return loss

    return replace(minimiser, loss=Spoilt(minimiser.loss, change))


def value_unlearned(minimiser: Any, fault: Fault) -> Any:
    """The loss is spoilt where nothing is learned from it: on validation images."""

    def change(loss: Tensor) -> Tensor:
        return loss + fault.value if not torch.is_grad_enabled() and fault.is_due() else loss

    return replace(minimiser, loss=Spoilt(minimiser.loss, change))


def curvature(minimiser: Any, fault: Fault) -> Any:
    def spoilt(space: FeatureSpace, model: LabelCrf) -> Tensor:
        result = minimiser.curvature(space, model)
        fault.is_due()
        fault.put(result)
        return result

    return replace(minimiser, curvature=spoilt)


def memory(minimiser: Any, fault: Fault) -> Any:
    """What an objective remembers between its steps is spoilt: averages of chains, or messages."""

    def remember(found: Any) -> Any:
        if fault.is_due():
            match minimiser.loss:
                case ContrastiveDivergence():
                    fault.put(found.negative.marginals)
                case BlendedConvexBp():
                    fault.put(found.free)
        return found

    return replace(minimiser, loss=Spoilt(minimiser.loss, remember=remember))


def after(owner: Any, name: str, then: Callable[[Fault, Any, Any], None]) -> Spoil:
    """Once a method is done, something of the object or of its result is spoilt."""

    def spoil(patch: Patch, fault: Fault) -> None:
        real = getattr(owner, name)

        def method(this: Any, *given: Any, **settings: Any) -> Any:
            result = real(this, *given, **settings)
            then(fault, this, result)
            return result

        patch.setattr(owner, name, method)

    return spoil


def coupling(fault: Fault, preconditioner: Any, _: None) -> None:
    pairwise = preconditioner._model.pairwise
    if len(pairwise) and fault.is_due():
        fault.put(pairwise)


def weight(fault: Fault, preconditioner: Any, _: None) -> None:
    if fault.is_due():
        fault.put(preconditioner._model.output.weight)


def last_position(fault: Fault, preconditioner: Any, _: None) -> None:
    """Steps are 10, so that the eleventh position is their average."""
    if len(preconditioner._model.pairwise) and preconditioner._penalty.pairwise and fault.is_due():
        fault.put(preconditioner._model.output.bias)


def rotated(fault: Fault, space: Any, _: None) -> None:
    if fault.is_due():
        fault.put(space.rotated)


def output_of(fault: Fault, _: object, model: LabelCrf) -> None:
    if fault.is_due():
        fault.put(model.output.weight)


def matrix(fault: Fault, _: object, features: Any) -> None:
    if fault.is_due():
        fault.put(torch.from_numpy(features))


def network_weight(fault: Fault, optimiser: Any, _: None) -> None:
    if fault.is_due():
        fault.put(optimiser.param_groups[0]["params"][0])


def optimiser_state(fault: Fault, optimiser: Any, _: None) -> None:
    if fault.is_due():
        fault.put(next(iter(optimiser.state.values()))["exp_avg"])


def learning_rate(patch: Patch, fault: Fault) -> None:
    real = torch.optim.AdamW.step

    def step(optimiser: Any, *given: Any) -> Any:
        if fault.is_due():
            optimiser.param_groups[0]["lr"] = fault.value
        return real(optimiser, *given)

    patch.setattr(torch.optim.AdamW, "step", step)


def running_variance(patch: Patch, fault: Fault) -> None:
    real = finetune._Network.forward

    def forward(network: Any, *given: Any) -> Tensor:
        if torch.is_grad_enabled() and fault.is_due():
            norms = (m for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
            fault.put(next(norms).running_var)
        return real(network, *given)

    patch.setattr(finetune._Network, "forward", forward)


def marginals(patch: Patch, fault: Fault) -> None:
    """The marginal of an image's first label is spoilt."""
    real = LabelCrf.make_inference

    def make(*given: Any, **settings: Any) -> Any:
        method = real(*given, **settings)

        def infer(potentials: Potentials) -> Posterior:
            posterior: Posterior = method(potentials)
            if fault.is_due():
                fault.put(posterior.marginals)
            return posterior

        return infer

    patch.setattr(LabelCrf, "make_inference", make)


def finished_model(patch: Patch, fault: Fault) -> None:
    real = fitting_both.make_trainer

    def make(*given: Any, **more: Any) -> Any:
        trainer, whole = real(*given, **more)

        def spoilt(fitted: heads.Fitted) -> heads.Fitted:
            result = whole(fitted)
            if fault.is_due():
                fault.put(result.model.output.bias)
            return result

        return trainer, spoilt

    patch.setattr(fitting_both, "make_trainer", make)


def member(patch: Patch, fault: Fault) -> None:
    real = members._learn

    def learn(*given: Any) -> Any:
        result = real(*given)
        if fault.is_due():
            fault.put(result["model"]["output.weight"])
        return result

    patch.setattr(members, "_learn", learn)


def by_objective() -> Iterator[tuple[str, Place]]:
    """Loss and gradient of every objective of the heads, in the first step and in a later one."""
    for name in ObjectiveName:
        if name is ObjectiveName.AUTO:
            continue
        asked = name if name is not ObjectiveName.INDEPENDENT else ObjectiveName.AUTO
        for kind, change in (("loss", value_of_loss), ("gradient", gradient_of_loss)):
            for moment, at in (("first", 1), ("later", 3)):
                reason = rf"{name.value} on .*: (gradient|step) {at}: the {kind} is not finite"
                spoil = fitting(heads, name, change)
                settings = {"objective": asked, "epochs": 1}
                yield f"{kind}-of-{name.value}-{moment}", Place(spoil, reason, at, settings)


CHAINS = {"objective": ObjectiveName.CONTRASTIVE_DIVERGENCE}
BLENDED = {"objective": ObjectiveName.BLENDED_CONVEX_BP}
EXACT = ObjectiveName.EXACT_LIKELIHOOD
LAST = {"finetune": Finetune.LAST, "backbone": "lite0@64", "epochs": 2, "batch_size": 64}
last = partial(fitting, last_stage, None)
network = partial(fitting, finetune, None)
step = partial(after, torch.optim.AdamW, "step")

PLACES = {
    **dict(by_objective()),
    "features": Place(after(FeatureExtractor, "matrix", matrix), "a feature is NaN"),
    "standardised": Place(after(FeatureSpace, "__init__", rotated), "independent .* diverged"),
    "curvature": Place(fitting(heads, EXACT, curvature), "the curvature is not finite"),
    "coupling": Place(after(Preconditioner, "assign", coupling), "diverged .pairwise", 3),
    "coupling-persistent": Place(
        after(Preconditioner, "assign", coupling), "diverged .pairwise", 30, CHAINS
    ),
    "weight-of-head": Place(after(Preconditioner, "assign", weight), "diverged .unary", 2),
    "average-of-steps": Place(
        after(Preconditioner, "assign", last_position), "blended.* diverged .unary", 11, BLENDED
    ),
    "chains": Place(fitting(heads, None, memory), "the loss is not finite", 2, CHAINS),
    "messages": Place(fitting(heads, None, memory), "the loss is not finite", 2, BLENDED),
    "model-of-features": Place(after(FeatureSpace, "to_features", output_of), "diverged .unary"),
    "validation-loss": Place(fitting(heads, EXACT, value_unlearned), "score is NaN or infinite"),
    "thresholds": Place(marginals, "(thresholds|weights): marginals is NaN or infinite"),
    "finished-model": Place(finished_model, "training: .*output.bias is NaN or infinite", 2),
    "finetune-loss-first": Place(network(value_of_loss), "finetune: the loss is"),
    "finetune-loss-later": Place(network(value_of_loss), "finetune: the loss is", 3),
    "finetune-gradient-first": Place(network(gradient_of_loss), "finetune: the gradient is not"),
    "finetune-gradient-later": Place(network(gradient_of_loss), "finetune: the gradient is not", 3),
    "finetune-validation": Place(network(value_unlearned), "finetune: the loss is", 2),
    "finetune-weight": Place(step(network_weight), "finetune: diverged", 3),
    "finetune-weight-last": Place(step(network_weight), "finetune: diverged", 4),
    "finetune-optimiser": Place(step(optimiser_state), "finetune: diverged", 3),
    "finetune-optimiser-last": Place(
        step(optimiser_state), "finetune: optimiser.*exp_avg is NaN or infinite", 4
    ),
    "finetune-learning-rate": Place(learning_rate, "finetune: diverged", 3),
    "finetune-running-variance": Place(
        running_variance, "finetune: (diverged|modules.*running_var is NaN or infinite)", 3
    ),
    "last-loss": Place(last(value_of_loss), "finetune: the loss is", 2, LAST),
    "last-gradient": Place(last(gradient_of_loss), "finetune: the norm of the grad", 2, LAST),
    "last-baseline": Place(last(value_unlearned), "finetune: the loss of the baseline is", 1, LAST),
    "last-weight": Place(step(network_weight), "finetune: diverged", 1, LAST),
    "member-loss": Place(fitting(members, None, value_of_loss), "diverged; lower", 1, MEMBERS),
    "member-gradient": Place(
        fitting(members, None, gradient_of_loss), "diverged; lower", 3, MEMBERS
    ),
    "member-weight": Place(member, "member 2 of 2 on train: .*weight is NaN", 2, MEMBERS),
    "average-of-members": Place(
        after(Members, "beneath", output_of), "training: .*weight is NaN", 3, MEMBERS
    ),
}


def with_values() -> Iterator[Any]:
    """Every place with every value at length; else with one of them in turn."""
    values = cycle(VALUES)
    for place in PLACES:
        quick = next(values)
        for name, value in VALUES.items():
            marks = [] if name == quick and not place.endswith("later") else [at_length]
            yield pytest.param(place, value, id=f"{place}-{name}", marks=marks)


@pytest.mark.parametrize(("name", "value"), list(with_values()))
def test_training_stops_before_it_keeps_any(
    manifest: Manifest, tmp_path: Path, monkeypatch: Patch, name: str, value: float
) -> None:
    """One line says what and where; no model is written, and what is kept to resume from is sound.

    A run that has learned nothing yet leaves no folder.

    At length the run is then resumed undisturbed, and ends with the bits of one that never was.
    """
    monkeypatch.setattr(outlook, "time_gradient", lambda *given, **settings: 0.0)  # is no step
    place, fault = PLACES[name], Fault(value, PLACES[name].at)
    settings = TrainSettings(**QUICK | place.settings)
    with monkeypatch.context() as patch, pytest.raises(MlcrfError, match=place.reason) as caught:
        place.spoil(patch, fault)
        train(manifest, tmp_path / "run", settings, TORCH)
    assert fault.moments >= fault.at
    assert_says_what_to_do(str(caught.value))
    if (tmp_path / "run").exists():  # else nothing was learned that could be resumed
        assert {one.name for one in (tmp_path / "run").iterdir()} == {STATE, "splits.csv"}
    assert_finite(tmp_path)
    if SCALE >= 0.1:
        resumed = train(manifest, tmp_path / "run", settings, TORCH, resume=True)
        whole = train(manifest, tmp_path / "whole", settings, TORCH)
        assert resumed.run.digest == whole.run.digest
        assert_finite(tmp_path)


def test_transitions_between_scenes_that_are_spoilt() -> None:
    """Their fit says so instead of returning them."""
    gates, evidence = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    evidence[1, 0] = math.nan
    albums = AlbumScores(gates, evidence, (torch.tensor([[0, 1]]),))
    with pytest.raises(RunError, match="transitions: the gain is not finite") as caught:
        fit_transitions(albums, penalty=0.1)
    assert_says_what_to_do(str(caught.value))
    sound = replace(albums, evidence=torch.eye(2).double())
    assert bool(fit_transitions(sound, penalty=0.1).isfinite().all())
