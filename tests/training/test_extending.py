"""Runs made by teaching."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import Run, load_run, load_splits, save_run
from mlcrf.choices import Decision, InferenceName
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder
from mlcrf.errors import RunError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.reports.card import save_card
from mlcrf.rules import Rules
from mlcrf.training.extending import TaughtReport, TeachingData, make_taught_run, marginal_log_odds
from mlcrf.training.taught_saving import save_taught
from mlcrf.training.teaching import Teacher
from tests.training.test_teaching import SIZE, answers_of, archive

NAMES = ("sea", "sky", "dog", "beach")
SPEC = find_spec("tiny")


def base_run(folder: Path) -> Run:
    """A run that knows sea, and sky, which sea implies."""
    crf = LabelCrf(SIZE, 2, rules=Rules(((0, 1),)))
    independent = LabelCrf(SIZE, 2, edges=no_edges())
    for model in (crf, independent):
        with torch.no_grad():
            model.output.weight[0, 0] = 3
            model.output.weight[1, 2] = 2
            model.output.bias[:] = torch.tensor([-1.0, 1.0])
    folder.mkdir()
    return save_run(
        Run(
            path=folder,
            labels=LabelSpace(NAMES[:2]),
            settings=TrainSettings(backbone="tiny", inference=InferenceName.EXACT),
            backbone_spec=SPEC,
            data="drawn",
            crf=crf.eval(),
            independent=independent.eval(),
            backbone_weights=make_backbone(SPEC, seed=0).state_dict(),
            decoders={"crf": (Decoder(Decision.LABEL_THRESHOLDS, threshold=(0.25, 0.75)),)},
        )
    )


def taught_run(base: Run | None, answers: Tensor, names: tuple[str, ...]) -> TaughtReport:
    features = archive()[0].numpy()
    before = None if base is None else marginal_log_odds(base, features)
    models = (None, None) if base is None else (base.crf, base.independent)
    taught = Teacher(features, *models, before).learn(answers)
    assert taught is not None
    images = [as_image(f"/archive/{row}.jpg") for row in range(len(features))]
    data = TeachingData("answers", images, features, answers, names, before)
    return make_taught_run(taught, data, base, SPEC)


def new_answers() -> Tensor:
    """Answers about dog, which the features show, and none about sea, sky and beach."""
    answers = torch.full((len(archive()[1]), 4), -1)
    answers[:, 2] = answers_of(archive()[1], 60)[:, 1]
    return answers


def test_a_run_with_a_label_more(tmp_path: Path) -> None:
    """It keeps backbone, rules and thresholds of the base, and says what it learned."""
    base = base_run(tmp_path / "base")
    report = save_taught(taught_run(base, new_answers(), NAMES), tmp_path / "new")
    save_card(report)
    run, features = load_run(tmp_path / "new"), archive()[0]
    assert run.labels.names == ("sea", "sky", "dog")  # nobody answered about beach
    assert run.rules == base.rules and run.digest == report.run.digest
    assert run.settings.inference is InferenceName.AUTO
    assert run.make_inference()(run.crf(features)).marginals.shape == (len(features), 3)
    assert run.backbone_weights is not None and base.backbone_weights is not None
    for name, weight in base.backbone_weights.items():
        assert torch.equal(run.backbone_weights[name], weight)

    thresholds = run.make_decoder(Decoder(Decision.LABEL_THRESHOLDS)).threshold
    assert isinstance(thresholds, tuple) and thresholds[:2] == (0.25, 0.75)
    with pytest.raises(RunError, match="no tuned thresholds"):
        run.make_decoder(Decoder(Decision.LABEL_THRESHOLDS), "independent")

    kept = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert list(kept["labels"]) == ["dog"]
    dog = kept["labels"]["dog"]
    assert dog["positives"] + dog["negatives"] == 60 and dog["is_new"]
    assert dog["average_precision"] > dog["base_rate"] + 0.2 and dog["loss"] < dog["base_loss"]
    assert kept["change"]["mean"] <= kept["change"]["largest"] < 1e-4  # nothing couples them
    assert "60 images with answers" in (tmp_path / "new" / "README.md").read_text()
    assert len(load_splits(run)) == 60


def test_a_run_from_answers_alone(tmp_path: Path) -> None:
    answers = answers_of(archive()[1], 80)
    report = save_taught(taught_run(None, answers, NAMES[:3]), tmp_path / "new")
    run = load_run(tmp_path / "new")
    assert run.labels.names == NAMES[:3] and report.change is None and report.losses is None
    assert run.settings.backbone == "tiny"
    for decision in (Decision.TUNED_THRESHOLD, Decision.LABEL_THRESHOLDS):
        assert run.make_decoder(Decoder(decision)).threshold is not None


def test_corrections_are_compared_with_the_base(tmp_path: Path) -> None:
    """What is answered wrongly by the base is learned; the splits are those of both."""
    base = base_run(tmp_path / "base")
    answers = torch.full((400, 2), -1)
    answers[:80, 0] = archive()[1][:80, 1]
    report = taught_run(base, answers, NAMES[:2])
    assert report.losses is not None and report.losses[1] < report.losses[0] / 2
    assert report.images == 80 and not report.labels["sea"].is_new


def test_an_old_run_is_replaced_as_a_whole_and_only_if_asked(tmp_path: Path) -> None:
    base = base_run(tmp_path / "base")
    report = taught_run(base, new_answers(), NAMES)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "one.jpg").touch()
    for out, says in (
        (base.path, "--overwrite it, or"),
        (other, "not a run"),
        (other / "one.jpg", "file"),
    ):
        with pytest.raises(RunError, match=says):
            save_taught(report, out)
    with pytest.raises(RunError, match="not a run"):
        save_taught(report, other, overwrite=True)
    (base.path / "old.txt").touch()
    save_taught(report, base.path, overwrite=True)
    assert len(load_run(base.path).labels) == 3 and not (base.path / "old.txt").exists()
    assert {one.name for one in tmp_path.iterdir()} == {"base", "photos"}


def test_corrected_photos_leave_no_more_photos_without_a_tag() -> None:
    """41 photos, two of whose labels a person means otherwise than the model that we ship."""
    base = load_run(Path("mirflickr24"))
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(120, base.crf.output.in_features, generator=generator).numpy()
    before = marginal_log_odds(base, features)
    marginals = before.sigmoid()
    drawn = (torch.rand(marginals.shape, generator=generator) < marginals).long()
    drawn[:, :2] = 1 - drawn[:, :2]
    answers = torch.full_like(drawn, -1)
    answers[:41] = drawn[:41]
    taught = Teacher(features, base.crf, base.independent, before).learn(answers)
    assert taught is not None
    images = [as_image(f"/archive/{row}.jpg") for row in range(len(features))]
    data = TeachingData("answers", images, features, answers, base.labels.names, before)
    report = make_taught_run(taught, data, base, base.backbone_spec)
    run = report.run
    after = run.make_inference()(run.crf(torch.from_numpy(features))).marginals
    empty = [float((p <= 0.5).all(1).double().mean()) for p in (marginals, after)]
    assert empty[1] <= empty[0] + 0.05
    assert report.losses is not None and report.losses[1] <= report.losses[0] + 1e-6
