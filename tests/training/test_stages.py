"""Stages that are kept and resumed, and the training of both heads that is made of them."""

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlcrf.choices import InferenceName, ObjectiveName, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.errors import RunError
from mlcrf.labels import LabelSpace
from mlcrf.objectives import independent_loss
from mlcrf.rules import Rules
from mlcrf.training.heads import Examples, Fitted, HeadTrainer
from mlcrf.training.plan import Plan, make_minimiser, make_plan
from mlcrf.training.progress import Event
from mlcrf.training.stages import Stages

RESULT = {"model": {"weight": torch.arange(200.0)}, "score": 0.5, "report": {"converged": True}}


def _results(path: Path) -> dict[str, Any]:
    """What a file of stages holds after its SHA-256."""
    content = io.BytesIO(path.read_bytes()[32:])
    results: dict[str, Any] = torch.load(content, weights_only=True)["results"]
    return results


def _signed(content: bytes) -> bytes:
    """As if we had written it, so that more than the check of the SHA-256 must hold."""
    return hashlib.sha256(content).digest() + content


def keep_one(path: Path) -> bytes:
    """A file with one stage in it."""
    Stages(path, "settings").keep("first", RESULT)
    return path.read_bytes()


def no_call() -> dict[str, Any]:
    raise AssertionError("computed again")


def test_a_stage_is_run_once(tmp_path: Path) -> None:
    """What was computed is kept, in the file as well, and not computed again."""
    path = tmp_path / "state.pt"
    stages = Stages(path, "settings")
    assert stages.find("first") is None
    assert stages.run("first", lambda: RESULT) is RESULT
    assert stages.run("first", no_call) is RESULT
    resumed = Stages(path, "settings")
    result = resumed.run("first", no_call)
    assert torch.equal(result["model"].pop("weight"), RESULT["model"]["weight"])
    assert result == {"model": {}, "score": 0.5, "report": {"converged": True}}
    assert resumed.find("second") is None


def test_keep_replaces(tmp_path: Path) -> None:
    """A stage that is kept again has the later result; the others stay."""
    path = tmp_path / "state.pt"
    stages = Stages(path, "settings")
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        stages.keep(name, {"value": value})
    resumed = Stages(path, "settings")
    assert (resumed.find("a"), resumed.find("b")) == ({"value": 3}, {"value": 2})
    assert [one.name for one in tmp_path.iterdir()] == ["state.pt"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """A file of other settings is not resumed, and not touched."""
    path = tmp_path / "state.pt"
    content = keep_one(path)
    with pytest.raises(RunError, match=r"state\.pt: was made with other settings or data"):
        Stages(path, "other settings")
    assert path.read_bytes() == content


def assert_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wonders about pickle protocols of random bytes
        with pytest.raises(RunError, match=r"state\.pt: damaged, cannot resume; train into a new"):
            Stages(path, "settings")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, the file is reported as damaged."""
    path = tmp_path / "state.pt"
    content = keep_one(path)
    for length in (*range(0, len(content), 101), len(content) - 1):
        assert_damaged(path, content[:length])


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    """Anything at all in the file's place is reported as damaged, never as our bug."""
    rng = np.random.default_rng(0)
    for content in (b".", b"\x80\x02.", *(rng.bytes(length) for length in range(200))):
        assert_damaged(tmp_path / "state.pt", content)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A tensor that is not what was written is not resumed from."""
    path = tmp_path / "state.pt"
    content = bytearray(keep_one(path))
    at = bytes(content).index(torch.arange(200.0)[100:110].numpy().tobytes())
    content[at + 3] ^= 1
    assert_damaged(path, bytes(content))


@pytest.mark.parametrize(
    "state",
    [
        None,
        3,
        [1, 2],
        {"settings": "settings"},
        {"settings": "settings", "results": [1]},
        torch.zeros(3),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, state: object) -> None:
    """A file of torch's that holds something else is reported as damaged."""
    torch.save(state, tmp_path / "made")
    assert_damaged(tmp_path / "state.pt", _signed((tmp_path / "made").read_bytes()))


class Malice:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [False, True])
def test_nothing_in_the_file_is_run(tmp_path: Path, zipped: bool) -> None:
    """A pickle that would run code is refused and does not run it."""
    state = {"settings": "settings", "results": {"first": Malice(tmp_path / "harm")}}
    if zipped:
        torch.save(state, tmp_path / "made")
    else:
        (tmp_path / "made").write_bytes(pickle.dumps(state))
    assert_damaged(tmp_path / "state.pt", _signed((tmp_path / "made").read_bytes()))
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(state))  # the bait is good
    assert (tmp_path / "harm").exists()


SETTINGS = TrainSettings(
    penalties=(0.003, 0.03, 0.3),
    pairwise_penalties=(0.01, 0.1),
    steps=10,
    schedule=Schedule.JOINT,
    structure_weights=(1.0,),
)


def plan_of(settings: TrainSettings, num_labels: int) -> Plan:
    labels = LabelSpace(tuple(f"label-{number}" for number in range(num_labels)))
    return make_plan(settings, labels, full_edges(num_labels), Rules())


def make_examples() -> tuple[Examples, Examples]:
    """Small sets for training and validation, a few targets unknown."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 3)).astype(np.float32)
    targets = (features + rng.normal(size=(90, 3)) + 0.3 > 0).astype(np.int8)
    targets[:, 2] |= targets[:, 1]
    targets[rng.random(targets.shape) < 0.1] = -1
    whole = Examples(features, targets)
    return (
        Examples(whole.features[:60], whole.targets[:60]),
        Examples(whole.features[60:], whole.targets[60:]),
    )


def train(
    path: Path, objective: ObjectiveName, *, kill_at: int = -1
) -> tuple[Fitted, Fitted, list[str]]:
    """Both heads; raises at one of the messages, if told so."""
    told: list[str] = []

    def log(event: Event) -> None:
        if len(told) == kill_at:
            raise KeyboardInterrupt
        told.append(str(event))

    stages = Stages(path, "settings")
    settings = SETTINGS.model_copy(update={"objective": objective})
    trainer = HeadTrainer(*make_examples(), plan_of(settings, 3), stages, log)
    baseline = trainer.fit_independent()
    return baseline, trainer.fit_crf(baseline), told


def same(one: Fitted, other: Fitted) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    assert states[0].keys() == states[1].keys()
    reports = [{k: v for k, v in fit.report.items() if k != "seconds"} for fit in (one, other)]
    return (
        all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        and (one.penalty, one.score) == (other.penalty, other.score)
        and reports[0] == reports[1]
    )


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveName.EXACT_LIKELIHOOD,
        ObjectiveName.PSEUDO_LIKELIHOOD,
        ObjectiveName.CONTRASTIVE_DIVERGENCE,
    ],
)
def test_killed_anywhere_and_resumed(tmp_path: Path, objective: ObjectiveName) -> None:
    """Killed in or between any two stages and resumed, a run ends with the bits of a whole one."""
    baseline, crf, told = train(tmp_path / "whole.pt", objective)
    stages = [message for message in told if "validation" in message]
    assert len(stages) >= 8
    path, kept = tmp_path / "killed.pt", 0
    while kept < len(stages):
        # at the message that a stage is done, before it is kept; then at the first one after it
        start = told.index(stages[kept - 1]) + 1 if kept else 0
        end = told.index(stages[kept]) - start
        with pytest.raises(KeyboardInterrupt):
            train(path, objective, kill_at=end)
        if kept + 1 == len(stages):
            break
        with pytest.raises(KeyboardInterrupt):
            train(path, objective, kill_at=end + 1)
        kept += 1
        results = _results(path)
        assert len(results) == kept
    again, resumed, rest = train(path, objective)
    assert sum("validation" in message for message in rest) == 1
    assert same(again, baseline)
    assert same(resumed, crf)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Run again on the finished stages, it computes nothing and gives the same."""
    baseline, crf, _ = train(tmp_path / "state.pt", ObjectiveName.EXACT_LIKELIHOOD)
    again, resumed, told = train(tmp_path / "state.pt", ObjectiveName.EXACT_LIKELIHOOD)
    assert not [line for line in told if " gradients in " in line]
    assert same(again, baseline)
    assert same(resumed, crf)


def test_the_penalty_with_the_lowest_validation_loss_is_chosen(tmp_path: Path) -> None:
    """Of all candidates, by their own figures; the last fit is on all images."""
    baseline, crf, told = train(tmp_path / "state.pt", ObjectiveName.EXACT_LIKELIHOOD)
    stages = _results(tmp_path / "state.pt")
    scores = {name: result["score"] for name, result in stages.items() if "on train" in name}
    alone = {name: score for name, score in scores.items() if name.startswith("independent")}
    assert len(alone) == 3
    assert baseline.score == min(alone.values())
    assert f"penalties {baseline.penalty.weights:g} and 0" in min(alone, key=alone.__getitem__)
    joint = {name: score for name, score in scores.items() if name.startswith("exact")}
    assert len(joint) >= 2
    assert crf.score == pytest.approx(min(joint.values()), abs=1e-9)
    of_couplings = {name.split(" and ")[1] for name in joint}
    assert of_couplings >= {"0.01", "0.1"}, "some labels are unknown: both are tried"
    pair = f"penalties {crf.penalty.weights:g} and {crf.penalty.pairwise:g}"
    assert pair in min(joint, key=joint.__getitem__)
    assert sum(message.startswith("independent on all") for message in told) > 0
    assert len(baseline.model.edges) == 0
    assert float(crf.model.pairwise.detach()[2]) > 0.3  # the last two labels go together


def test_the_score_is_the_loss_on_validation_images(tmp_path: Path) -> None:
    """Of the model fitted on training images alone."""
    baseline, _, _ = train(tmp_path / "state.pt", ObjectiveName.PSEUDO_LIKELIHOOD)
    stages = _results(tmp_path / "state.pt")
    name = f"independent on train, penalties {baseline.penalty.weights:g} and 0"
    model = baseline.model.clone()
    model.load_state_dict(stages[name]["model"])
    _, validation = make_examples()
    targets = torch.from_numpy(validation.targets)
    with torch.no_grad():
        potentials = model(torch.from_numpy(validation.features))
        loss = independent_loss(potentials, targets.long())
    assert float(loss) == pytest.approx(baseline.score, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "num_labels", "resolved"),
    [
        ({}, 24, ObjectiveName.EXACT_LIKELIHOOD),
        ({}, 25, ObjectiveName.CONTRASTIVE_DIVERGENCE),
        ({"max_exact_labels": 10}, 11, ObjectiveName.CONTRASTIVE_DIVERGENCE),
        ({"pairwise": "conditional"}, 14, ObjectiveName.EXACT_LIKELIHOOD),
        ({"pairwise": "conditional"}, 15, ObjectiveName.CONTRASTIVE_DIVERGENCE),
        ({"objective": "unrolled-mean-field"}, 5, ObjectiveName.UNROLLED_MEAN_FIELD),
        ({"structure": Structure.INDEPENDENT}, 5, ObjectiveName.INDEPENDENT),
    ],
)
def test_resolve_objective(given: dict[str, Any], num_labels: int, resolved: ObjectiveName) -> None:
    """Auto is exact within reach, else contrastive divergence; what is named is taken."""
    settings = TrainSettings(**given)
    plan = plan_of(settings, num_labels)
    assert plan.objective is resolved
    assert callable(make_minimiser(plan, resolved).loss)


@pytest.mark.parametrize(
    ("objective", "resolved"),
    [
        (ObjectiveName.UNROLLED_MEAN_FIELD, InferenceName.PARALLEL_MEAN_FIELD),
        (ObjectiveName.BLENDED_CONVEX_BP, InferenceName.CONVEX_BP),
        (ObjectiveName.EXACT_LIKELIHOOD, InferenceName.AUTO),
    ],
)
def test_resolve_inference(objective: ObjectiveName, resolved: InferenceName) -> None:
    """Auto decodes with what the objective was about; what is named is taken."""
    assert plan_of(TrainSettings(objective=objective), 3).inference is resolved
    named = TrainSettings(objective=objective, inference=InferenceName.TAP)
    assert plan_of(named, 3).inference is InferenceName.TAP


def test_piecewise_leaves_the_weights_of_the_baseline(tmp_path: Path) -> None:
    """Couplings and biases move, the weights are those of the baseline on the same images."""
    settings = SETTINGS.model_copy(update={"schedule": Schedule.PIECEWISE})
    stages = Stages(tmp_path / "state.pt", "settings")
    trainer = HeadTrainer(*make_examples(), plan_of(settings, 3), stages, lambda _: None)
    baseline = trainer.fit_independent()
    crf = trainer.fit_crf(baseline)
    weights = baseline.on_train.output.weight.detach()
    assert float((crf.on_train.output.weight.detach() - weights).abs().max()) < 1e-6
    biases = [fitted.on_train.output.bias.detach() for fitted in (crf, baseline)]
    assert float((biases[0] - biases[1]).abs().max()) > 0.1
    assert float(crf.model.pairwise.detach()[2]) > 0.3
