"""Numbers that are none are found before the step, said in a line, and never kept."""

import csv
import json
import math
import re
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mlcrf.evaluation
import mlcrf.prediction.tagger
from mlcrf.atomic import read_sealed
from mlcrf.backbones.engines import TorchEngine
from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import CONFIG, STATE, WEIGHTS, Run, load_run
from mlcrf.choices import EngineName, Finetune, ObjectiveName
from mlcrf.cli import console, main
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.errors import BackboneError, DataError, MlcrfError, RunError
from mlcrf.evaluation import evaluate
from mlcrf.images import Image
from mlcrf.images.decoding import load_pixels
from mlcrf.inference import Exact, Posterior
from mlcrf.labels import LabelSpace
from mlcrf.latent import AlbumScores, fit_transitions
from mlcrf.model import LabelCrf
from mlcrf.objectives import BlendedConvexBp, ContrastiveDivergence
from mlcrf.prediction import Prediction, Tagger
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training import finetune, heads, members, run
from mlcrf.training.extraction import Environment
from mlcrf.training.features import FeatureSpace
from mlcrf.training.members import Members
from mlcrf.training.plan import Plan
from mlcrf.training.preconditioner import Preconditioner
from mlcrf.training.run import train
from tests.reliability.scale import SCALE, at_length

VALUES = {"nan": math.nan, "inf": math.inf, "minus-inf": -math.inf}
QUICK: dict[str, Any] = {
    "backbone": "tiny",
    "finetune": Finetune.ALL,
    "epochs": 2,
    "batch_size": 12,  # two steps an epoch
    "penalties": (0.3,),
    "pairwise_penalties": (0.01,),
    "steps": 10,
}
MEMBERS = {"hidden_units": 4, "dropout": 0.3, "members": 2}
Patch = pytest.MonkeyPatch


@dataclass
class Fault:
    """A value that comes in the place of a number, once.

    Attributes:
        at: at which of the moments where it could.
        moments: how many there were.
    """

    value: float
    at: int = 1
    moments: int = 0

    def is_due(self) -> bool:
        self.moments += 1
        return self.moments == self.at

    def put(self, tensor: Tensor) -> None:
        with torch.no_grad():
            tensor[(0,) * tensor.ndim] = self.value


Spoil = Callable[[Patch, Fault], None]


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
    """What a module makes of an objective's name is changed; of any name if it is None."""

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
                    fault.put(found.expected.marginals)
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
    real = run.make_trainer

    def make(*given: Any, **more: Any) -> Any:
        trainer, whole = real(*given, **more)

        def spoilt(fitted: heads.Fitted) -> heads.Fitted:
            result = whole(fitted)
            if fault.is_due():
                fault.put(result.model.output.bias)
            return result

        return trainer, spoilt

    patch.setattr(run, "make_trainer", make)


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
    "thresholds": Place(marginals, "thresholds: marginals is NaN or infinite"),
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
    "member-loss": Place(fitting(members, None, value_of_loss), "diverged; lower", 1, MEMBERS),
    "member-gradient": Place(
        fitting(members, None, gradient_of_loss), "diverged; lower", 3, MEMBERS
    ),
    "member-weight": Place(member, "member 2 of 2 on train: .*weight is NaN", 2, MEMBERS),
    "average-of-members": Place(
        after(Members, "beneath", output_of), "training: .*weight is NaN", 3, MEMBERS
    ),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """40 drawn scenes with four labels."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    drawn = read_dataset(make_dataset(folder, num_images=40, image_size_px=32))
    names = drawn.labels.names[:4]
    return replace(drawn, targets=drawn.targets[:, :4], labels=LabelSpace(names))


@pytest.fixture(scope="module")
def trained(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(manifest, folder, TrainSettings(**QUICK), TORCH).run


TORCH = Environment(engine=EngineName.TORCH)


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

    At length the run is then resumed undisturbed, and ends with the bits of one that never was.
    """
    place, fault = PLACES[name], Fault(value, PLACES[name].at)
    settings = TrainSettings(**QUICK | place.settings)
    with monkeypatch.context() as patch, pytest.raises(MlcrfError, match=place.reason) as caught:
        place.spoil(patch, fault)
        train(manifest, tmp_path / "run", settings, TORCH)
    assert fault.moments >= fault.at
    assert_says_what_to_do(str(caught.value))
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


def assert_says_what_to_do(message: str) -> None:
    """One line, with a remedy, or with where the fault stands or what is there instead."""
    assert len(message.splitlines()) == 1
    remedies = (
        r"lower|raise|try|choose|train|leave out|remove|mend|add|needed|keep|or use|say|expected"
    )
    remedy = rf"(; |\. |, ).*\b({remedies})|stands on line \d+|\(train \d+, validation \d+, test"
    assert re.search(remedy, message), message


def assert_finite(folder: Path) -> None:
    """No file there holds a number that is none: weights, what a run resumes from, tables."""
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            check_finite(load_file(path))
        elif path.name == STATE:
            content = read_sealed(path)
            assert content is not None
            check_finite(torch.load(BytesIO(content), weights_only=True))
        elif path.suffix == ".sqlite":
            for vector in kept_vectors(path).values():
                assert np.isfinite(vector).all()
        elif path.suffix in (".csv", ".json", ".jsonl"):
            words = re.split(r"[^a-z0-9+-]+", path.read_text().lower())
            assert not {"nan", "inf", "-inf", "infinity", "-infinity"} & set(words), path


def check_finite(value: Any) -> None:
    match value:
        case Tensor():
            assert bool(torch.isfinite(value).all())
        case float():
            assert math.isfinite(value)
        case dict():
            check_finite(list(value.values()))
        case list() | tuple():
            for one in value:
                check_finite(one)


def kept_vectors(path: Path) -> dict[bytes, Any]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT digest, vector FROM features").fetchall()
    return {digest: np.frombuffer(vector, "<f4") for digest, vector in rows}


def spoil_network(patch: Patch, value: float, wanted: list[Image]) -> None:
    """The network gives the value for some pictures."""
    pixels = [load_pixels(image, 64) for image in wanted]
    real = TorchEngine.__call__

    def run(engine: TorchEngine, batch: Any) -> Any:
        features = real(engine, batch).copy()
        for row, one in enumerate(batch):
            if any(np.array_equal(one, other) for other in pixels):
                features[row, -1] = value
        return features

    patch.setattr(TorchEngine, "__call__", run)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name, marks=[] if name == "nan" else [at_length])
        for name, value in VALUES.items()
    ],
)
@pytest.mark.parametrize("which", ["one", "all", "validation"])
def test_features_of_the_network(
    manifest: Manifest, tmp_path: Path, monkeypatch: Patch, which: str, value: float
) -> None:
    """Training names the pictures, keeps their features out of the cache, and can go on later."""
    train_part, validation = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    bad = {
        "one": [train_part.images[3]],
        "all": list(train_part.images + validation.images),
        "validation": list(validation.images),
    }[which]
    environment = replace(TORCH, cache_dir=tmp_path / "cache")
    settings = TrainSettings(**QUICK | {"epochs": 1})
    with monkeypatch.context() as patch, pytest.raises(DataError) as caught:
        spoil_network(patch, value, bad)
        train(manifest, tmp_path / "run", settings, environment)
    lines = str(caught.value).splitlines()
    shown = [line for line in lines if not line.startswith("... and ")]
    assert [line.split(": ")[0] for line in shown] == [str(one) for one in bad[:20]]
    assert all("its features are not finite; try --engine torch" in line for line in shown)
    assert_finite(tmp_path)
    vectors = [one for path in tmp_path.rglob("*.sqlite") for one in kept_vectors(path)]
    assert len(vectors) == len(train_part) + len(validation) - len(bad)
    train(manifest, tmp_path / "run", settings, environment, resume=True)
    assert_finite(tmp_path)


@pytest.mark.parametrize("vector", [*VALUES, "short", "long", "empty"])
def test_features_that_were_kept_and_are_damaged(
    trained: Run, manifest: Manifest, tmp_path: Path, vector: str
) -> None:
    """They are computed again and put in their place, with the bits that they had."""
    images = manifest.images[:3]
    extract = partial(
        FeatureExtractor, trained.make_backbone(), engine=EngineName.TORCH, cache_dir=tmp_path
    )
    before = extract().matrix(images)
    (path,) = tmp_path.glob("*.sqlite")
    sound = kept_vectors(path)
    digest, one = next(iter(sound.items()))
    damaged = one.copy()
    match vector:
        case "short":
            damaged = one[:-1]
        case "long":
            damaged = np.append(one, one[0])
        case "empty":
            damaged = one[:0]
        case _:
            damaged[-1] = VALUES[vector]
    with closing(sqlite3.connect(path)) as database, database:
        content = damaged.astype("<f4").tobytes()
        database.execute("UPDATE features SET vector = ? WHERE digest = ?", (content, digest))
    # three pictures at once and one at a time may differ in their last bits
    assert np.allclose(extract().matrix(images), before, atol=1e-5)
    mended = kept_vectors(path)
    assert mended.keys() == sound.keys()
    assert all(np.allclose(mended[key], sound[key], atol=1e-5) for key in sound)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_prediction_of_a_picture_that_the_network_cannot(
    trained: Run, manifest: Manifest, tmp_path: Path, monkeypatch: Patch, value: float
) -> None:
    """It has an error in place of its row, and the other pictures have what they always have."""
    images = manifest.images[:5]
    undisturbed = list(Tagger(trained, engine=EngineName.TORCH).predict(images))
    spoil_network(monkeypatch, value, [images[2]])
    tagger = Tagger(trained, engine=EngineName.TORCH, cache_dir=tmp_path)
    assert_one_error(list(tagger.predict(images)), undisturbed, "its features are not finite; try")
    assert_finite(tmp_path)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_prediction_of_a_picture_that_inference_cannot(
    trained: Run, manifest: Manifest, monkeypatch: Patch, value: float
) -> None:
    """The same where a belief is none."""
    images = manifest.images[:5]
    undisturbed = list(Tagger(trained, engine=EngineName.TORCH).predict(images))
    real = mlcrf.prediction.tagger.prepare

    def prepare(*given: Any, **settings: Any) -> Any:
        method = real(*given, **settings)

        def infer(potentials: Potentials, **known: Any) -> Posterior:
            posterior: Posterior = method(potentials, **known)
            posterior.marginals[2, 1] = value
            return posterior

        return infer

    monkeypatch.setattr(mlcrf.prediction.tagger, "prepare", prepare)
    found = list(Tagger(trained, engine=EngineName.TORCH).predict(images))
    assert_one_error(found, undisturbed, "inference gives NaN; train with another")


def assert_one_error(found: list[Prediction], undisturbed: list[Prediction], reason: str) -> None:
    assert [bool(one.error) for one in found] == [False, False, True, False, False]
    assert reason in found[2].error and not found[2].marginals
    for one, other in zip(found[:2] + found[3:], undisturbed[:2] + undisturbed[3:], strict=True):
        assert one.labels == other.labels
        assert np.allclose(one.marginals, other.marginals, atol=1e-5)


def test_log_odds_beyond_all_numbers(
    trained: Run, manifest: Manifest, monkeypatch: Patch, tmp_path: Path
) -> None:
    """Features that are finite, and too large to be multiplied: the error names the run."""
    run = replace(trained, crf=trained.crf.clone(), independent=trained.independent.clone())
    with torch.no_grad():
        run.crf.output.weight.fill_(10)
    spoil_network(monkeypatch, 3e38, [manifest.images[2]])
    with pytest.raises(RunError, match="unary: holds NaN or infinity; try --engine torch"):
        list(Tagger(run, engine=EngineName.TORCH).predict(manifest.images[:5]))
    with pytest.raises(RunError, match="unary: holds NaN or infinity; try --engine torch"):
        evaluate_run(run, manifest)


def evaluate_run(run: Run, manifest: Manifest) -> object:
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    return evaluate(run, manifest, extractor, split="all", resamples=5)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("what", ["features", "marginals", "log_partition"])
def test_scores(
    trained: Run, manifest: Manifest, monkeypatch: Patch, what: str, value: float
) -> None:
    """Nothing is scored with a belief that is none; the error says what to do."""
    if what == "features":
        test = manifest.part(Split.TEST)
        spoil_network(monkeypatch, value, [test.images[0]])
    else:
        real = Exact.__call__

        def infer(method: Exact, *given: Any, **settings: Any) -> Posterior:
            posterior = real(method, *given, **settings)
            spoilt = getattr(posterior, what).clone()
            spoilt[0] = value
            return replace(posterior, **{what: spoilt})

        monkeypatch.setattr(Exact, "__call__", infer)
    reason = "its features are not" if what == "features" else "exact inference gives NaN"
    with pytest.raises(MlcrfError, match=reason) as caught:
        evaluate_run(trained, manifest)
    assert_says_what_to_do(str(caught.value))


Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def mlcrf_command(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """The command line in this process: status and both streams; warnings of numpy are errors."""

    def quiet() -> None:
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", category=RuntimeWarning)

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mlcrf", *map(str, words)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    monkeypatch.setattr(console, "quiet", quiet)
    monkeypatch.setenv("MLCRF_CACHE", str(tmp_path / "cache"))
    return run


def assert_refused(outcome: Outcome, reason: str) -> None:
    """Status 1 and one line that begins with `error: `."""
    status, _, errors = outcome
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(lines) == 1, errors
    assert errors.splitlines()[-1] == lines[0]
    assert re.search(reason, lines[0]), lines[0]
    assert_says_what_to_do(lines[0])


@pytest.mark.parametrize(
    "key",
    [
        "crf.output.weight",
        "crf.output.bias",
        "crf.pairwise",
        "independent.output.weight",
    ],
)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_weights_that_are_none_are_not_loaded(
    trained: Run, tmp_path: Path, key: str, value: float
) -> None:
    """A run whose file was made so by something else is refused with the file's name."""
    shutil.copytree(trained.path, tmp_path / "run")
    path = tmp_path / "run" / WEIGHTS
    tensors = load_file(path)
    Fault(value).put(tensors[key])
    save_file(tensors, path)
    with pytest.raises(RunError, match=rf"{WEIGHTS}.*a weight is NaN or infinite"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_network_whose_weights_are_none(
    trained: Run, manifest: Manifest, tmp_path: Path, mlcrf_command: Command, value: float
) -> None:
    """One line says so before a picture is read; there is no table, and it is not scored."""
    shutil.copytree(trained.path, tmp_path / "run")
    path = tmp_path / "run" / WEIGHTS
    tensors = load_file(path)
    Fault(value).put(tensors["backbone.network.layers.0.0.weight"])
    save_file(tensors, path)
    reason = "backbone tiny: a weight is NaN or infinite"
    folder, out = Path(manifest.images[0].folder), tmp_path / "tags.csv"
    words = [folder, "--model", tmp_path / "run", "--out", out, *ENGINE]
    assert_refused(mlcrf_command("predict", *words), reason)
    assert not list(tmp_path.glob("tags*"))
    with pytest.raises(BackboneError, match=reason):
        evaluate_run(load_run(tmp_path / "run"), manifest)


@pytest.mark.parametrize("place", ["mean", "std", "threshold", "learning_rate"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_settings_that_are_none(
    trained: Run, manifest: Manifest, tmp_path: Path, place: str, value: float
) -> None:
    """A file of settings with such a number is refused, or every picture is."""
    shutil.copytree(trained.path, tmp_path / "run")
    path = tmp_path / "run" / CONFIG
    config = json.loads(path.read_text())
    match place:
        case "threshold":
            config["decoders"]["crf"][0]["threshold"] = value
        case "learning_rate":
            config["settings"]["learning_rate"] = value
        case _:
            config["backbone"][place][0] = value
    path.write_text(json.dumps(config))
    with pytest.raises(MlcrfError) as caught:
        evaluate_run(load_run(tmp_path / "run"), manifest)
    reasons = f"({CONFIG}: not the settings of a run|its features are not finite; try)"
    assert re.search(reasons, str(caught.value))


ENGINE = ["--engine", "torch"]
OPTIONS = [
    *("--backbone", "tiny", "--finetune", "all", "--epochs", 1, *ENGINE),
    *("--set", "penalties=[0.3]", "--set", "pairwise_penalties=[0.01]", "--set", "steps=10"),
]
Row = tuple[str, str, list[int]]  # picture, split, cells
TRAIN, VALIDATION, TEST = "train", "validation", "test"


def rows(
    counts: tuple[int, int, int] = (14, 5, 5),
    *,
    num_labels: int = 3,
    change: Callable[[Any], object] = lambda cells: None,
) -> list[Row]:
    """So many drawn pictures in each split, with random cells of which some are changed."""
    cells = np.random.default_rng(0).integers(0, 2, (sum(counts), num_labels))
    cells[0, :] = 1
    change(cells)
    splits = [s for s, n in zip((TRAIN, VALIDATION, TEST), counts, strict=True) for _ in range(n)]
    numbered = enumerate(zip(splits, cells.tolist(), strict=True))
    return [(f"{number:06d}.jpg", split, line) for number, (split, line) in numbered]


def setting(where: Any, value: int) -> Callable[[Any], object]:
    return lambda cells: cells.__setitem__(where, value)


def one_twice(names: tuple[str, str]) -> list[Row]:
    """The same picture in train and test, under these names."""
    return [*rows(), (names[0], TRAIN, [1, 0, 1]), (names[1], TEST, [1, 0, 1])]


ALL, UNKNOWN = slice(None), -1
WORKS = {
    "on-all-images": rows(change=setting((ALL, 0), 1)),
    "on-no-image": rows(change=setting((ALL, 0), 0)),
    "all-present": rows(change=setting(ALL, 1)),
    "all-absent": rows(change=setting(ALL, 0)),
    "present-and-absent": rows(num_labels=2, change=setting((ALL, 0), 1)),
    "one-label": rows(num_labels=1),
    "one-label-on-all": rows(num_labels=1, change=setting(ALL, 1)),
    "one-label-on-none": rows(num_labels=1, change=setting(ALL, 0)),
    "one-image-a-split": rows((1, 1, 1)),
    "one-image-all-absent": rows((1, 1, 1), change=setting(ALL, 0)),
    "two-images-to-train": rows((2, 1, 1)),
    "identical": [
        (f"same{place:02d}.jpg", split, line) for place, (_, split, line) in enumerate(rows())
    ],
    "identical-and-alike": [
        (f"same{place:02d}.jpg", split, [1, 0]) for place, (_, split, _) in enumerate(rows())
    ],
    "under-two-names": one_twice(("same00.jpg", "same01.jpg")),
    "no-validation": rows((20, 0, 4)),
    "unknown-in-test": rows(change=setting((slice(14, None), 1), UNKNOWN)),
    "one-image-unknown": rows(change=setting((-1, ALL), UNKNOWN)),
    "half-of-test-unknown": rows((14, 5, 2), change=setting((-1, ALL), UNKNOWN)),
    "mostly-unknown": rows(change=setting((slice(1, 18), ALL), UNKNOWN)),
    "validation-unknown": rows(change=setting((slice(14, 19), ALL), UNKNOWN)),
}
QUICK_SETS = {
    "on-all-images",
    "all-absent",
    "one-label-on-all",
    "one-image-a-split",
    "identical",
    "half-of-test-unknown",
}
REFUSED = {
    "one-image": (rows((1, 0, 0)), "1 images are too few"),
    "two-images": (rows((2, 0, 0)), "2 images are too few"),
    "no-train": (rows((0, 5, 5)), "no image in split 'train'"),
    "only-test": (rows((0, 0, 5)), "no image in split 'train'"),
    "in-two-splits": (one_twice(("same00.jpg", "same00.jpg")), ":27: duplicate row: "),
    "label-unknown": (rows(change=setting((ALL, 1), UNKNOWN)), "'label1' is unknown in every"),
    "label-unknown-in-train": (
        rows(change=setting((slice(14), 1), UNKNOWN)),
        "'label1' is unknown in every",
    ),
    "all-unknown": (rows(change=setting(ALL, UNKNOWN)), "every label of every training image"),
    "no-image": ([], "has no rows"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn pictures, and 24 copies of one."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    make_dataset(folder, num_images=24, image_size_px=32)
    for number in range(24):
        shutil.copy(folder / "images" / "000000.jpg", folder / "images" / f"same{number:02d}.jpg")
    return folder / "images"


def write_table(path: Path, pictures: Path, lines: list[Row], num_labels: int = 3) -> Path:
    num_labels = len(lines[0][2]) if lines else num_labels
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "split", *(f"label{number}" for number in range(num_labels))])
        for name, split, cells in lines:
            table.writerow([pictures / name, split, *("" if c < 0 else c for c in cells)])
    return path


@pytest.mark.parametrize(
    "name", [one if one in QUICK_SETS else pytest.param(one, marks=at_length) for one in WORKS]
)
@pytest.mark.parametrize(
    "objective",
    ["auto", *(pytest.param(one.value, marks=at_length) for one in ObjectiveName if one != "auto")],
)
def test_odd_data_that_can_be_learned(
    pictures: Path, tmp_path: Path, mlcrf_command: Command, name: str, objective: str
) -> None:
    """Trained, scored and used to tag: every number of it is one, and numpy has no complaint."""
    table = write_table(tmp_path / "table.csv", pictures, WORKS[name])
    trained = ["--out", tmp_path / "run", *OPTIONS]
    if objective != "independent":
        trained += ["--objective", objective]
    else:
        trained += ["--structure", "independent"]
    assert_done(mlcrf_command("train", table, *trained))
    scored = mlcrf_command(
        "evaluate", tmp_path / "run", table, "--resamples", 20, *ENGINE, "--json"
    )
    assert_done(scored)
    figures = json.loads(scored[1], parse_constant=refuse_constant)
    for measures in figures["models"].values():
        assert 0 <= measures["hamming"] <= 1 and measures["nll"] >= 0
    assert_tags(pictures, tmp_path, mlcrf_command)


def assert_done(outcome: Outcome) -> None:
    status, _, errors = outcome
    assert status == 0 and "Traceback" not in errors, errors


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def assert_tags(pictures: Path, folder: Path, command: Command) -> None:
    """Of five pictures there is a row each, of finite probabilities; and no file holds worse."""
    out = folder / "tags.jsonl"
    words = [pictures, "--model", folder / "run", "--limit", 5, "--out", out, "--strict", *ENGINE]
    assert_done(command("predict", *words))
    assert len(out.read_text().splitlines()) == 5
    assert_finite(folder)


@pytest.mark.parametrize("name", REFUSED)
def test_odd_data_that_cannot(
    pictures: Path, tmp_path: Path, mlcrf_command: Command, name: str
) -> None:
    """One line says what is wrong with them, and nothing is made."""
    lines, reason = REFUSED[name]
    table = write_table(tmp_path / "table.csv", pictures, lines)
    assert_refused(mlcrf_command("train", table, "--out", tmp_path / "run", *OPTIONS), reason)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_scores_of_nothing(
    trained: Run, pictures: Path, tmp_path: Path, mlcrf_command: Command, split: str
) -> None:
    """A split that is empty, or of which nothing is known, is said to be so."""
    counts = (14, 0, 5) if split == VALIDATION else (14, 5, 0)
    words = ["--split", split, *ENGINE, "--out", tmp_path / "figures.csv"]
    names = {f"label{place}": name for place, name in enumerate(trained.labels)}
    for lines, reason in (
        (rows(counts, num_labels=4), f"no image in split '{split}'"),
        (rows(num_labels=4, change=setting(ALL, UNKNOWN)), "no label of any of its 5 images is"),
    ):
        table = write_table(tmp_path / "table.csv", pictures, lines)
        text = re.sub(r"label\d", lambda found: names[found[0]], table.read_text())
        table.write_text(text)
        assert_refused(mlcrf_command("evaluate", trained.path, table, *words), reason)
        assert not (tmp_path / "figures.csv").exists()


@at_length
@pytest.mark.timeout(0)
def test_five_thousand_labels(pictures: Path, tmp_path: Path, mlcrf_command: Command) -> None:
    """With few couplings and few steps: trained, scored and used to tag."""

    def sparsely(cells: Any) -> None:
        cells[...] = np.random.default_rng(1).random(cells.shape) < 0.02

    lines = rows(num_labels=5000, change=sparsely)
    table = write_table(tmp_path / "table.csv", pictures, lines)
    options = [*OPTIONS, "--structure", "sparse", "--set", "edges_per_label=2"]
    assert_done(mlcrf_command("train", table, "--out", tmp_path / "run", *options))
    words = [tmp_path / "run", table, "--split", "all", "--resamples", 2, *ENGINE, "--json"]
    scored = mlcrf_command("evaluate", *words)
    assert_done(scored)
    json.loads(scored[1], parse_constant=refuse_constant)
    assert_tags(pictures, tmp_path, mlcrf_command)
