"""Heads with dropout: members that have not seen an image, their mean, and what stands on top."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.choices import Pairwise, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.errors import RunError, SettingsError
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.rules import Rules
from mlcrf.training.examples import Examples
from mlcrf.training.members import Members, fit_members, make_trainer
from mlcrf.training.plan import Plan, make_plan
from mlcrf.training.progress import Event
from mlcrf.training.stages import Stages

SETTINGS = TrainSettings(
    hidden_units=16,
    dropout=0.2,
    members=3,
    epochs=30,
    batch_size=32,
    learning_rate=0.02,
    pairwise_penalties=(0.01,),
    structure_weights=(1,),
)


def quiet(event: Event) -> None:
    """No log."""


def make_examples(count: int = 240, seed: int = 0) -> Examples:
    """Two signs, and three labels: exclusive or of these, the same mostly, and the first sign."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 5)).astype(np.float32)
    signs = features[:, :2] > 0
    either = signs[:, 0] ^ signs[:, 1]
    mostly = either ^ (rng.random(count) < 0.1)
    targets = np.stack([either, mostly, signs[:, 0]], 1).astype(np.int8)
    return Examples(3 * features + 7, targets)


def plan_of(settings: TrainSettings = SETTINGS) -> Plan:
    return make_plan(settings, LabelSpace(("either", "mostly", "first")), full_edges(3), Rules())


def members_of(examples: Examples, path: Path, settings: TrainSettings = SETTINGS) -> Members:
    return fit_members(examples, plan_of(settings), Stages(path, "settings"), "all", quiet)


def test_no_member_saw_what_it_is_asked_about(tmp_path: Path) -> None:
    """An image's own targets have no influence on its out-of-fold log-odds; others' have."""
    examples = make_examples()
    targets = examples.targets.copy()
    targets[5] = 1 - targets[5]
    changed = replace(examples, targets=targets)
    before = members_of(examples, tmp_path / "one").out_of_fold_logits
    after = members_of(changed, tmp_path / "other").out_of_fold_logits
    assert np.array_equal(before[5], after[5])
    part = np.random.default_rng(SETTINGS.seed).permutation(len(targets)) % SETTINGS.members
    others = part != part[5]
    assert np.array_equal(before[~others], after[~others])
    assert (before[others] != after[others]).any(1).all()


def test_the_head_is_the_mean_of_the_members(tmp_path: Path) -> None:
    """One network with all units gives the mean of the log-odds; a model on top is one below."""
    examples = make_examples()
    members = members_of(examples, tmp_path / "state.pt")
    stages = Stages(tmp_path / "state.pt", "settings")
    features = torch.from_numpy(make_examples(20, seed=1).features)
    alone = []
    for number in range(1, 4):
        one = LabelCrf(5, 3, edges=full_edges(3)[:0], hidden=16)
        found = stages.find(f"member {number} of 3 on all")
        assert found is not None
        one.load_state_dict(found["model"])
        alone.append(one(features).unary)
    mean = torch.stack(alone).mean(0)
    assert torch.allclose(torch.from_numpy(members.log_odds(features.numpy())), mean, atol=1e-4)

    top = LabelCrf(3, 3, rules=Rules(((0, 1),)))
    with torch.no_grad():
        top.output.weight.copy_(torch.randn(3, 3))
        top.output.bias.copy_(torch.randn(3))
        top.pairwise.copy_(torch.randn(3))
    whole = members.beneath(top)
    assert torch.allclose(whole(features).unary, top(mean).unary, atol=1e-3)
    assert torch.equal(whole.pairwise, top.pairwise)
    assert torch.equal(whole.edges, top.edges)
    assert whole.rules == top.rules


def test_it_learns_what_no_linear_head_can(tmp_path: Path) -> None:
    """Exclusive or, on images that were not seen; and couplings that say the labels go together."""
    train, validation, test = make_examples(), make_examples(80, seed=1), make_examples(400, seed=2)
    stages = Stages(tmp_path / "state.pt", "settings")
    trainer, whole = make_trainer(train, validation, plan_of(), stages, quiet)
    baseline = trainer.fit_independent()
    crf = whole(trainer.fit_crf(baseline)).model
    independent = whole(baseline).model
    features = torch.from_numpy(test.features)
    with torch.no_grad():
        wrong = ((independent(features).unary > 0).numpy() != test.targets).mean(0)
    assert wrong[0] < 0.1
    assert wrong[2] < 0.1
    assert float(crf.pairwise[0].detach()) > 0.5


def test_resumed_it_is_the_same(tmp_path: Path) -> None:
    """Members that are there are not learned again, and give the same bits."""
    examples = make_examples(60)
    first = members_of(examples, tmp_path / "state.pt")
    told: list[Event] = []
    stages = Stages(tmp_path / "state.pt", "settings")
    again = fit_members(examples, plan_of(), stages, "all", told.append)
    assert told == []
    assert np.array_equal(first.out_of_fold_logits, again.out_of_fold_logits)


def test_too_few_images_and_too_large_steps_are_said(tmp_path: Path) -> None:
    """Each with what to do; nothing of it is kept."""
    with pytest.raises(SettingsError, match="3 members need as many images, and there are 2"):
        members_of(make_examples(2), tmp_path / "few")
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(RunError, match="diverged; lower --set learning_rate"):
        members_of(make_examples(), tmp_path / "wild", wild)
    assert Stages(tmp_path / "wild", "settings").find("member 1 of 3 on all") is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (TrainSettings(dropout=0.5), "hidden units"),
        (TrainSettings(dropout=0.5, hidden_units=8, structure=Structure.LATENT), "gates"),
        (TrainSettings(dropout=0.5, hidden_units=8, pairwise=Pairwise.CONDITIONAL), "gates"),
    ],
)
def test_what_does_not_go_with_dropout(settings: TrainSettings, reason: str) -> None:
    """It is said before anything is read."""
    with pytest.raises(SettingsError, match=reason):
        plan_of(settings)
