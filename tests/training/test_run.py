"""Whole training runs on drawn scenes: stopped, resumed, with every objective."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import WEIGHTS, load_run, load_splits
from mlcrf.choices import (
    Decision,
    EngineName,
    Finetune,
    InferenceName,
    ObjectiveName,
    Pairwise,
    Schedule,
    Structure,
)
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials, full_edges
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.data.rules import with_rules
from mlcrf.data.splits import split_manifest
from mlcrf.decoding import Decoder, estimate_frequencies
from mlcrf.errors import DataError, RunError, SettingsError
from mlcrf.evaluation import evaluate
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from mlcrf.inference import MeanField
from mlcrf.objectives import independent_loss
from mlcrf.prediction import Tagger
from mlcrf.reports.inspection import run_record
from mlcrf.rules import Rules
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training import finetune as finetune_module
from mlcrf.training.extraction import Environment
from mlcrf.training.finetune import finetune
from mlcrf.training.plan import Minimiser, make_plan
from mlcrf.training.preconditioner import counted_variance
from mlcrf.training.progress import Event, Line
from mlcrf.training.run import train
from mlcrf.training.stages import Stages

QUICK = {
    "backbone": "tiny",
    "finetune": Finetune.ALL,
    "epochs": 2,
    "penalties": (0.1,),
    "pairwise_penalties": (0.01,),
    "structure_weights": (1,),
    "schedule": Schedule.JOINT,
}
TORCH = Environment(engine=EngineName.TORCH)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """160 drawn scenes."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    return read_dataset(make_dataset(folder, num_images=160, image_size_px=32))


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    "stop_at", ["epoch 1 of 2", "independent on train", "exact-likelihood on train"]
)
def test_a_stopped_run_resumes_to_the_same_bits(
    manifest: Manifest, tmp_path: Path, stop_at: str
) -> None:
    """Stopped in the network's training or between fits, a run ends as an undisturbed one."""
    settings = TrainSettings(**QUICK)
    train(manifest, tmp_path / "whole", settings, TORCH)

    def stop(event: Event) -> None:
        if isinstance(event, Line) and stop_at in str(event):
            raise _StoppedError

    with pytest.raises(_StoppedError):
        train(manifest, tmp_path / "stopped", settings, TORCH, log=stop)
    with pytest.raises(RunError, match="not a finished run"):
        load_run(tmp_path / "stopped")
    train(manifest, tmp_path / "stopped", settings, TORCH, resume=True)
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("objective", "inference"),
    [
        (ObjectiveName.PSEUDO_LIKELIHOOD, "exact"),
        (ObjectiveName.UNROLLED_MEAN_FIELD, "parallel-mean-field"),
        (ObjectiveName.CONTRASTIVE_DIVERGENCE, "exact"),
        (ObjectiveName.BLENDED_CONVEX_BP, "convex-bp"),
        (ObjectiveName.EXACT_LIKELIHOOD, "exact"),
    ],
)
def test_every_objective_trains_and_names_its_inference(
    manifest: Manifest, tmp_path: Path, objective: ObjectiveName, inference: str
) -> None:
    """The run says what it was trained with, its couplings are used, and it is decoded to match."""
    report = train(manifest, tmp_path / "run", TrainSettings(**QUICK, objective=objective), TORCH)
    run = load_run(tmp_path / "run")
    assert run.settings.objective is objective
    assert run.make_inference().name == inference
    through_sweeps = objective is ObjectiveName.UNROLLED_MEAN_FIELD
    assert getattr(run.make_inference(), "unrolled", False) is through_sweeps
    assert run.make_inference(InferenceName.MEAN_FIELD) == MeanField(max_sweeps=10)
    # one that is stopped where validation is best may not have got away from the baseline
    assert run.crf.pairwise.abs().max() > 0.01 or report.fits["crf"]["stopped_early"]
    assert report.fits["independent"]["converged"]


def test_rules_and_gates_go_all_the_way(manifest: Manifest, tmp_path: Path) -> None:
    """What was trained with them is decoded and scored with them, also on data that break rules."""
    rules = Rules.from_names([("beach", "sea"), ("bird", "sky")], manifest.labels)
    settings = TrainSettings(**QUICK, pairwise=Pairwise.CONDITIONAL, rank=2)
    ruled = with_rules(manifest, rules)
    train(ruled, tmp_path / "run", settings, TORCH)
    run = load_run(tmp_path / "run")
    assert run.rules == rules
    assert len(run.crf.edges) == 12 * 11 // 2 - 2
    assert run.crf.factors is not None and run.crf.factors.shape == (2, len(run.crf.edges))
    assert float(run.crf.factors.detach().abs().max()) > 1e-3
    assert run.independent.rank == 0 and not len(run.independent.rules)

    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    test = manifest.part(Split.TEST)
    result = evaluate(run, test, extractor, split="test", resamples=10)
    assert "|inference:junction-tree|" in result.signature
    assert any("bird without sky: sky was set" in note for note in result.notes)
    assert result.models["crf"].nll < 12  # an impossible label set would cost 100
    names = [set(one.labels) for one in Tagger(run, engine=EngineName.TORCH).predict(test.images)]
    assert any("bird" in chosen for chosen in names)
    assert all(chosen >= {"sky"} for chosen in names if "bird" in chosen)

    with pytest.raises(RunError, match="other settings or data"):
        free = with_rules(ruled, Rules())
        train(free, tmp_path / "run", settings, TORCH, resume=True)


def test_label_frequencies_are_those_of_all_images_learned_from(
    manifest: Manifest, tmp_path: Path
) -> None:
    """The run keeps them with each model's tuned rarity; a number asked for stays as it is."""
    train(manifest, tmp_path / "run", TrainSettings(**QUICK), TORCH)
    run, decoder = load_run(tmp_path / "run"), Decoder(Decision.TOP_K, k=3, rarity=0.5)
    images = load_splits(run)
    learned = [split is not Split.TEST for split in images.splits or ()]
    frequencies = estimate_frequencies(torch.from_numpy(images.targets[learned]))
    assert run.make_decoder(decoder) == replace(decoder, frequencies=frequencies)
    for model in ("crf", "independent"):
        rarity = run.make_decoder(replace(decoder, rarity=None), model).rarity
        assert rarity is not None and 0 <= rarity <= 2
    with pytest.raises(RunError, match=r"no label frequencies .* train again, or leave out --rar"):
        replace(run, decoders={}).make_decoder(decoder)


def test_gates_without_couplings_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    """Two settings that contradict each other, before anything is made."""
    settings = TrainSettings(
        **QUICK, pairwise=Pairwise.CONDITIONAL, structure=Structure.INDEPENDENT
    )
    with pytest.raises(SettingsError, match="leave one out"):
        train(manifest, tmp_path / "run", settings, TORCH)
    assert not (tmp_path / "run").exists()


def test_independent_structure_has_no_couplings(manifest: Manifest, tmp_path: Path) -> None:
    """`--structure independent` is the baseline, given that its rules hold."""
    settings = TrainSettings(**QUICK, structure=Structure.INDEPENDENT)
    rules = Rules.from_names([("bird", "sky")], manifest.labels)
    train(with_rules(manifest, rules), tmp_path / "run", settings, TORCH)
    run = load_run(tmp_path / "run")
    assert len(run.crf.edges) == 0
    assert torch.equal(run.crf.output.weight, run.independent.output.weight)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    features = torch.from_numpy(extractor.matrix(manifest.part(Split.TEST).images))
    found = run.make_inference()(run.crf(features)).marginals
    p = run.independent(features).unary.sigmoid()
    sky, bird = manifest.labels.index("sky"), manifest.labels.index("bird")
    possible = 1 - p[:, bird] * (1 - p[:, sky])
    assert torch.allclose(found[:, bird], p[:, bird] * p[:, sky] / possible, atol=1e-5)
    assert torch.allclose(found[:, sky], p[:, sky] / possible, atol=1e-5)


def test_hidden_units_and_unknown_labels(manifest: Manifest, tmp_path: Path) -> None:
    """A head with hidden units trains on data where half of the labels are unknown."""
    targets = manifest.targets.copy()
    targets[np.random.default_rng(0).random(targets.shape) < 0.5] = -1
    partly = Manifest(manifest.images, targets, manifest.labels, manifest.splits, "partly")
    settings = TrainSettings(**QUICK, hidden_units=6, tolerance=1e-3, exact_tolerance=0.01)
    train(partly, tmp_path / "run", settings, TORCH)
    run = load_run(tmp_path / "run")
    assert run.crf.hidden is not None
    assert run.crf.hidden.out_features == 6
    assert all(torch.isfinite(p).all() for p in run.crf.parameters())


def test_a_head_with_dropout(manifest: Manifest, tmp_path: Path) -> None:
    """Its members are units of one hidden layer in the run, over which both models stand."""
    settings = TrainSettings(**QUICK, hidden_units=6, dropout=0.3, members=3)
    train(manifest, tmp_path / "run", settings, TORCH)
    run = load_run(tmp_path / "run")
    for model in (run.crf, run.independent):
        assert model.hidden is not None
        assert model.hidden.out_features == 18
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    result = evaluate(run, manifest.part(Split.TEST), extractor, split="test", resamples=10)
    assert 0 <= result.models["crf"].hamming < 0.5
    again = train(manifest, tmp_path / "run", settings, TORCH, resume=True)
    assert again.run.digest == run.digest


def test_views_are_remembered(manifest: Manifest, tmp_path: Path) -> None:
    """A trained network sees the same views when the run is loaded, resumed and described."""
    settings = TrainSettings(**QUICK, views=2)
    made = train(manifest, tmp_path / "run", settings, TORCH).run
    run = load_run(tmp_path / "run")
    assert (run.backbone_spec.views, run.settings.views) == (2, 2)
    assert run.backbone_spec.title == "tiny, 2 views"
    assert run_record(run)["views"] == 2
    image = manifest.images[0]
    pixels = torch.tensor(load_pixels(image, run.backbone_spec.size_px)).unsqueeze(0)
    backbone = run.make_backbone()
    with torch.no_grad():
        assert torch.allclose(backbone(pixels), backbone(pixels.flip(2)), atol=1e-5)
    again = train(manifest, tmp_path / "run", settings, TORCH, resume=True)
    assert again.run.digest == made.digest
    with pytest.raises(RunError, match="views"):
        train(manifest, tmp_path / "run", TrainSettings(**QUICK), TORCH, resume=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for views in (0, 5, "two"):
        config["backbone"]["views"] = views
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match=r"config.json: not the settings of a run: backbone"):
            load_run(tmp_path / "run")
    del config["backbone"]["views"]  # as a run from before there were views
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert load_run(tmp_path / "run").backbone_spec.views == 1


def test_one_label(manifest: Manifest, tmp_path: Path) -> None:
    """A single label needs no couplings and is no special case to the user."""
    keep = np.array([0])
    one = Manifest(
        manifest.images,
        manifest.targets[:, keep],
        type(manifest.labels)(("sky",)),
        manifest.splits,
        "one",
    )
    train(one, tmp_path / "run", TrainSettings(**QUICK), TORCH)
    assert load_run(tmp_path / "run").make_inference().name == "independent"


def test_gibbs_is_kept_as_the_inference(manifest: Manifest, tmp_path: Path) -> None:
    """An inference that is asked for is the one that the run is decoded with."""
    settings = TrainSettings(**QUICK, inference=InferenceName.GIBBS)
    train(manifest, tmp_path / "run", settings, TORCH)
    assert load_run(tmp_path / "run").make_inference().name == "gibbs"


def test_unreadable_pictures_are_all_named(manifest: Manifest, tmp_path: Path) -> None:
    """Training stops with the name of each broken picture, not at the first."""
    images = list(manifest.images)
    for row in (3, 5):
        path = tmp_path / f"broken{row}.jpg"
        path.write_bytes(b"no picture")
        images[row] = as_image(path)
    broken = Manifest(tuple(images), manifest.targets, manifest.labels, manifest.splits, "broken")
    with pytest.raises(DataError) as caught:
        train(broken, tmp_path / "run", TrainSettings(backbone="lite0"), TORCH)
    assert "broken3.jpg" in str(caught.value)
    assert "broken5.jpg" in str(caught.value)
    assert not (tmp_path / "run").exists()  # nothing is left where nothing was learned


def test_scratch_network_must_be_trained(manifest: Manifest, tmp_path: Path) -> None:
    """`tiny` without --finetune all is refused before anything is made."""
    with pytest.raises(SettingsError, match="--finetune all"):
        train(manifest, tmp_path / "run", TrainSettings(backbone="tiny"), TORCH)
    assert not (tmp_path / "run").exists()


def test_overwrite_replaces_runs_only(manifest: Manifest, tmp_path: Path) -> None:
    """A folder that holds no run is never removed, --overwrite or not."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.txt").write_text("keep me")
    with pytest.raises(RunError, match="it is not a run, so choose another"):
        train(manifest, tmp_path / "photos", TrainSettings(**QUICK), TORCH, overwrite=True)
    assert (tmp_path / "photos" / "dear.txt").read_text() == "keep me"


def test_an_old_run_stays_until_the_new_one_is_finished(manifest: Manifest, tmp_path: Path) -> None:
    """An image that cannot be read, or a stop, does not cost the run that is to be replaced."""
    out, settings = tmp_path / "run", TrainSettings(**QUICK)
    train(manifest, out, settings, TORCH)
    old = (out / WEIGHTS).read_bytes()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = replace(manifest, images=(as_image(tmp_path / "bad.png"), *manifest.images[1:]))
    with pytest.raises(DataError, match=r"bad\.png"):
        train(bad, out, settings, TORCH, overwrite=True)
    assert (out / WEIGHTS).read_bytes() == old

    def stop(event: Event) -> None:
        if isinstance(event, Line) and "independent on train" in str(event):
            raise KeyboardInterrupt

    other = TrainSettings(**QUICK, seed=1)
    for _ in range(2):  # the second finds a run that was stopped in its place
        with pytest.raises(KeyboardInterrupt):
            train(manifest, out, other, TORCH, overwrite=True, log=stop)
        (kept,) = tmp_path.glob(".run*")
        assert (kept / WEIGHTS).read_bytes() == old
    train(manifest, out, other, TORCH, resume=True)
    assert (out / WEIGHTS).read_bytes() != old
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bad.png", "run"]


def test_the_network_is_trained_with_rules_and_gates(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The potentials that its objective sees are those of the model that the run is to have."""
    data = split_manifest(manifest, seed=0)
    settings = TrainSettings(**QUICK, pairwise=Pairwise.CONDITIONAL, rank=2)
    rules = Rules(((0, 1),))
    backbone = make_backbone(find_spec("tiny"), seed=0)
    seen = []

    def objective(potentials: Potentials, targets: Tensor) -> Tensor:
        seen.append((potentials.varies_by_image, potentials.rules.pairs))
        return independent_loss(potentials, targets)

    monkeypatch.setattr(
        finetune_module, "make_minimiser", lambda *_: Minimiser(objective, counted_variance, 1e-6)
    )
    finetune(
        backbone,
        data.part(Split.TRAIN),
        data.part(Split.VALIDATION),
        make_plan(settings, data.labels, full_edges(len(data.labels)), rules),
        Stages(tmp_path / "state.pt", "settings"),
        lambda _: None,
    )
    assert set(seen) == {(True, ((0, 1),))}


def test_crops_and_flips_are_drawn_from_the_seed() -> None:
    """Boxes lie within the image and keep the area that was asked for; without, only flips."""
    rng = np.random.default_rng(3)
    drawn = finetune_module._Augmentation.draw(rng, 500, 32, 0.5)
    again = finetune_module._Augmentation.draw(np.random.default_rng(3), 500, 32, 0.5)
    assert drawn.boxes is not None and again.boxes is not None
    assert np.array_equal(drawn.boxes, again.boxes) and np.array_equal(drawn.flips, again.flips)
    corners, sides = drawn.boxes[:, :2], drawn.boxes[:, 2:]
    assert (corners >= 0).all() and (corners + sides <= 32).all()
    share = sides.prod(1) / 32**2
    assert 0.4 < share.min() < 0.6 and share.max() > 0.9
    assert 0.4 < drawn.flips.mean() < 0.6

    pixels = np.tile(np.arange(32, dtype=np.uint8)[:, None], (3, 32, 1, 3))  # (3, 32, 32, 3)
    pixels[..., 1] = np.arange(32)  # grows to the right
    flipped = finetune_module._Augmentation(np.array([False, True, True]), None)
    changed = flipped.apply(pixels, np.array([0, 1, 2]))
    assert np.array_equal(changed[0], pixels[0])
    assert np.array_equal(changed[1], pixels[1, :, ::-1])
    middle = np.array([[8, 8, 16, 16]] * 3)
    cropped = finetune_module._Augmentation(np.zeros(3, bool), middle).apply(pixels, np.arange(3))
    assert cropped.shape == pixels.shape
    assert 8 <= cropped.min() < 10 and 22 < cropped.max() <= 24


def test_a_folder_without_a_state_is_not_resumed(manifest: Manifest, tmp_path: Path) -> None:
    """What lies there stays, and the message says what to do."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"nothing to resume: it has no state\.pt; choose another"):
        train(manifest, tmp_path / "run", TrainSettings(**QUICK), TORCH, resume=True)
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["notes.txt"]
