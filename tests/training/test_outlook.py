"""What a training run says before it begins: its fits, their time, and the limits of its data."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.choices import ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules
from mlcrf.training.examples import Examples
from mlcrf.training.fit import time_gradient
from mlcrf.training.heads import HeadTrainer
from mlcrf.training.outlook import describe_data
from mlcrf.training.plan import Plan, make_minimiser, plan_training
from mlcrf.training.progress import Event, FitProgress
from mlcrf.training.stages import Stages
from mlcrf.training.time_to_go import Fits, describe_fits


def draw(num_images: int, num_labels: int) -> Manifest:
    targets = np.random.default_rng(0).integers(0, 2, (num_images, num_labels)).astype(np.int8)
    targets[:, 0] = 0
    targets[:3, 0] = 1
    images = tuple(as_image(f"{at}.jpg") for at in range(num_images))
    labels = LabelSpace(tuple(f"label{at}" for at in range(num_labels)))
    return Manifest(images, targets, labels, None, "drawn")


def plan_of(manifest: Manifest, settings: TrainSettings) -> Plan:
    return plan_training(settings, manifest.labels, manifest.targets, Rules())


def examples(manifest: Manifest) -> Examples:
    features = np.random.default_rng(1).normal(size=(len(manifest), 6)).astype(np.float32)
    return Examples(features, manifest.targets)


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(),
        TrainSettings(structure=Structure.INDEPENDENT),
        TrainSettings(structure=Structure.LATENT, scenes=2),
        TrainSettings(objective=ObjectiveName.PSEUDO_LIKELIHOOD),
        TrainSettings(objective=ObjectiveName.UNROLLED_MEAN_FIELD),
        TrainSettings(objective=ObjectiveName.CONTRASTIVE_DIVERGENCE, steps=10),
        TrainSettings(objective=ObjectiveName.BLENDED_CONVEX_BP, steps=10),
    ],
)
def test_the_fits_are_no_more_than_was_said(settings: TrainSettings, tmp_path: Path) -> None:
    """Of each objective; and afterwards none is left, or few that were not needed."""
    manifest = draw(60, 3)
    events: list[Event] = []
    plan = plan_of(manifest, settings)
    stages = Stages(tmp_path / "state.pt", "")
    trainer = HeadTrainer(examples(manifest), examples(draw(30, 3)), plan, stages, events.append)
    outlook = trainer.outlook()
    independent = trainer.fit_independent()
    if settings.structure is not Structure.INDEPENDENT:
        trainer.fit_crf(independent)
    made = {event.fit for event in events if isinstance(event, FitProgress)}
    for kind, fits in outlook.items():
        count = sum(name.startswith(f"{kind} ") for name in made)
        assert 1 <= count <= fits.count
        assert fits.gradient_s > 0
    assert {re.sub(r" [0-9].*| on .*| without .*", "", name) for name in made} == set(outlook)
    for kind, fits in trainer.outlook().items():
        assert fits.count < outlook[kind].count


def test_the_share_of_a_fit_rises_to_its_end(tmp_path: Path) -> None:
    """From 0 to 1, never back."""
    manifest = draw(60, 3)
    events: list[Event] = []
    plan = plan_of(manifest, TrainSettings(penalties=(0.1,)))
    stages = Stages(tmp_path / "state.pt", "")
    HeadTrainer(
        examples(manifest), examples(draw(30, 3)), plan, stages, events.append
    ).fit_independent()
    shares: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, FitProgress):
            shares.setdefault(event.fit, []).append(event.share)
    for each in shares.values():
        assert each == sorted(each)
        assert 0 <= each[0] <= each[-1] <= 1
    assert next(iter(shares.values()))[0] == 0


def test_timing_changes_nothing(tmp_path: Path) -> None:
    """Neither the model nor what is drawn at random."""
    manifest = draw(20, 3)
    plan = plan_of(manifest, TrainSettings())
    part = examples(manifest)
    stages = Stages(tmp_path / "state.pt", "")
    trainer = HeadTrainer(part, part, plan, stages, lambda event: None)
    model = plan.make_model(6)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    state = torch.get_rng_state()
    loss = make_minimiser(plan, ObjectiveName.EXACT_LIKELIHOOD).loss
    assert time_gradient(trainer._train_space, model, loss, is_persistent=False) > 0
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_fits_in_one_line() -> None:
    """A range of times, in units that a person reads."""

    def told(seconds: float) -> str:
        line = describe_fits({"independent": Fits(6, (10, 40), seconds)})
        assert line.startswith("fits to make: at most 6 (6 independent); this may take ")
        return line.rpartition("take ")[2]

    assert told(0.001) == "a few seconds"
    assert told(0.1) == "6 to 36 s"
    assert told(1) == "1 to 6 min"
    assert told(60) == "1.0 to 6.0 h"


def test_many_labels_and_few_images() -> None:
    """Beyond exact inference: what is done, and the page. Few images: what scores are worth."""
    many, settings = draw(1200, 120), TrainSettings(structure=Structure.FULL)
    (note,) = describe_data(plan_of(many, settings), many, many)
    assert "120 labels with 7,140 couplings are beyond exact inference" in note
    assert "learned by pseudo-likelihood" in note
    assert "see docs/big-labels.md; leave out --structure" in note
    few = draw(250, 4)
    (note,) = describe_data(plan_of(few, settings), few, draw(25, 4))
    assert note.startswith("250 training images are few")
    assert "the 25 validation images is uncertain by up to 20 points" in note
    assert "1 of the labels have fewer than 10 examples and are hardly learned: label0" in note
    enough = draw(1200, 4)
    assert describe_data(plan_of(enough, settings), enough, enough) == []
    weighted = settings.model_copy(update={"pos_weight": 3.0, "margin": 0.1})
    (note,) = describe_data(plan_of(enough, weighted), enough, enough)
    assert note.startswith("pos_weight and margin: of the independent objective; the baseline is")
    both = weighted.model_copy(update={"objective": ObjectiveName.INDEPENDENT})
    assert describe_data(plan_of(enough, both), enough, enough) == []
