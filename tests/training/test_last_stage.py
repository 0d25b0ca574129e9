"""Training of a network's last stage on activations: what changes, and when it is used."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mlcrf.backbones.deferred import DeferredBackbone, defer_backbone
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.network_split import split_network
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import WEIGHTS, load_run
from mlcrf.choices import EngineName, Finetune, Schedule
from mlcrf.config import TrainSettings, make_settings
from mlcrf.crf import full_edges
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.errors import BackboneError, RunError, SettingsError
from mlcrf.images.pixels import load_pixels
from mlcrf.prediction import Tagger
from mlcrf.reports.card import save_card
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training import last_stage
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment
from mlcrf.training.last_stage import finetune_last
from mlcrf.training.members import make_trainer
from mlcrf.training.plan import Plan, make_plan
from mlcrf.training.progress import Event, Line, TaskProgress
from mlcrf.training.run import train
from mlcrf.training.stacking import FOLDS
from mlcrf.training.stages import Result, Stages

BACKBONE = "lite0@64"
TORCH = Environment(engine=EngineName.TORCH)
QUICK: dict[str, Any] = {
    "backbone": BACKBONE,
    "finetune": Finetune.LAST,
    "epochs": 2,
    "penalties": (0.1,),
    "pairwise_penalties": (0.01,),
    "structure_weights": (1,),
    "schedule": Schedule.JOINT,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """80 drawn scenes, divided."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    return split_manifest(
        read_dataset(make_dataset(folder, num_images=80, image_size_px=32)), seed=0
    )


def make_plan_of(manifest: Manifest, **settings: Any) -> Plan:
    given = TrainSettings(**QUICK | settings)
    return make_plan(given, manifest.labels, full_edges(len(manifest.labels)), manifest.rules)


def learn(manifest: Manifest, log: Callable[[Event], None] = print, **settings: Any) -> Result:
    backbone = make_backbone(find_spec(BACKBONE))
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    plan = make_plan_of(manifest, **settings)
    return finetune_last(backbone, *parts, plan, Stages(None, ""), log, environment=TORCH)


@pytest.fixture(scope="module")
def learned(manifest: Manifest) -> Result:
    return learn(manifest, learning_rate=1e-3, epochs=4)


def test_only_the_last_stage_learns(learned: Result) -> None:
    """Weights of the stage change; those before it, and all statistics, stay as published."""
    backbone = make_backbone(find_spec(BACKBONE))
    trained = {id(one) for one in split_network(backbone).rest.parameters()}
    names = {key for key, one in backbone.named_parameters() if id(one) in trained}
    before = backbone.state_dict()
    changed = {key for key, value in learned["last"].items() if not torch.equal(value, before[key])}
    assert changed == names
    first, last = learned["losses"][0][0], learned["losses"][-1][0]
    assert last < 0.8 * first, "it learned from the training images"


def test_the_same_seed_gives_the_same_bits(manifest: Manifest) -> None:
    """And another seed does not."""
    one, again, other = (learn(manifest, epochs=1, seed=seed)["last"] for seed in (0, 0, 1))
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


def test_it_starts_from_the_baseline_of_published_features(manifest: Manifest) -> None:
    """At a learning rate near zero the validation loss is that of the convex baseline."""
    lines: list[str] = []
    result = learn(
        manifest,
        lambda event: lines.append(str(event)) if isinstance(event, Line) else None,
        learning_rate=1e-12,
        epochs=1,
    )
    published = float(lines[-1].partition("images ")[2].split()[0])
    on_train, on_validation = result["losses"][0]
    assert on_validation == pytest.approx(published, rel=0.01)
    assert on_train < 0.5 * on_validation, "each image is seen with its own labels"
    assert result["gains"][0][0] == pytest.approx(0, abs=1e-3)
    assert result["best"] == {}, "no gain, so the published weights stay"
    assert lines[-1].endswith("the published weights are used")


def worsen_fits(monkeypatch: pytest.MonkeyPatch, which: set[int]) -> None:
    """Make some of the baselines that are fitted, counted from 1, worse on validation images."""
    real, counted = last_stage._Baseline.fit, count(1)

    def fit(*given: Any) -> Any:
        found = real(*given)
        return replace(found, losses=found.losses + 5.0 * (next(counted) in which))

    monkeypatch.setattr(last_stage._Baseline, "fit", fit)


@pytest.mark.parametrize(("better", "used"), [(True, "trained"), (False, "published")])
def test_the_run_uses_what_validation_images_prefer(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool, used: str
) -> None:
    """The weights that the run keeps, and that it predicts with, are those that were better."""
    worsen_fits(monkeypatch, {1 if better else 2})  # the first is that of the published weights
    lines: list[str] = []
    settings = TrainSettings(**QUICK | {"epochs": 1})
    report = train(
        manifest, tmp_path / "run", settings, TORCH, log=lambda one: lines.append(str(one))
    )
    save_card(report)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"({'last stage trained' if better else 'frozen'}); unaries" in card
    assert any(line.endswith(f"the {used} weights are used") for line in lines)
    run = load_run(tmp_path / "run")
    assert (run.backbone_weights is not None) == better
    published, own = make_backbone(find_spec(BACKBONE)), run.make_backbone()
    assert (own.fingerprint() != published.fingerprint()) == better
    image = manifest.part(Split.TEST).images[0]
    seen = [
        next(iter(Tagger(one, engine=EngineName.TORCH).predict([image]))).marginals
        for one in (run, replace(run, backbone_weights=None))
    ]
    assert (seen[0] != seen[1]) == better
    rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert len(rows) == 2 and (tmp_path / "run" / "last.safetensors").exists()


class _StoppedError(Exception):
    pass


def test_a_stopped_run_resumes_to_the_same_bits(manifest: Manifest, tmp_path: Path) -> None:
    """Stopped after an epoch, it goes on with the next one and ends as an undisturbed run."""
    settings = TrainSettings(**QUICK | {"learning_rate": 1e-3})
    train(manifest, tmp_path / "whole", settings, TORCH)

    def stop(event: Event) -> None:
        if isinstance(event, Line) and "epoch 1 of 2" in str(event):
            raise _StoppedError

    with pytest.raises(_StoppedError):
        train(manifest, tmp_path / "stopped", settings, TORCH, log=stop)
    seen: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Line):
            seen.append(str(event))

    train(manifest, tmp_path / "stopped", settings, TORCH, resume=True, log=note)
    epochs = [line for line in seen if line.startswith("finetune: epoch")]
    assert len(epochs) == 2, "the event of the first epoch comes before it is kept"
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_unknown_labels_teach_nothing(manifest: Manifest) -> None:
    """Unknown labels of training images have no influence; known ones have."""
    rows = np.flatnonzero([split is Split.TRAIN for split in manifest.splits or ()])[:40]
    hidden, flipped = manifest.targets.copy(), manifest.targets.copy()
    hidden[rows, 0] = -1
    flipped[rows, 0] = 1 - flipped[rows, 0]
    flipped_hidden = np.where(hidden < 0, -1, flipped)
    one, same, other = (
        learn(replace(manifest, targets=targets), epochs=1)["last"]
        for targets in (hidden, flipped_hidden, flipped)
    )
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


def test_mirrored_images_are_seen_half_of_the_time(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches have activations of plain and of mirrored images, and no third kind."""
    real = last_stage._Activations.read
    shares: list[float] = []

    def read(self: Any, rows: Any, *, mirrored: Any) -> Tensor:
        found = real(self, rows, mirrored=mirrored)
        plain, other = self._views(np.asarray(self._both)[rows])
        for row, is_mirrored in enumerate(mirrored):
            assert torch.equal(found[row], (other if is_mirrored else plain)[row])
        assert not torch.equal(plain, other)
        shares.append(float(np.mean(mirrored)))
        return found

    monkeypatch.setattr(last_stage._Activations, "read", read)
    learn(manifest, epochs=3)
    assert 0.35 < np.mean(shares) < 0.65


def test_activations_are_mapped_where_memory_is_small(manifest: Manifest, tmp_path: Path) -> None:
    """Mapped from files they give the same bits, and features are cached under their own key."""
    backbone = make_backbone(find_spec(BACKBONE))
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    plan = make_plan_of(manifest, epochs=1)
    mapped = replace(TORCH, in_memory=10_000, cache_dir=tmp_path)
    found = [
        finetune_last(backbone, *parts, plan, Stages(None, ""), print, environment=one)["last"]
        for one in (TORCH, mapped)
    ]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    assert list(tmp_path.glob("matrix-*/000000.npy"))
    with pytest.raises(SettingsError, match="give a --cache-dir"):
        environment = replace(mapped, cache_dir=None)
        finetune_last(backbone, *parts, plan, Stages(None, ""), print, environment=environment)


def test_progress_is_told(manifest: Manifest) -> None:
    """The shares of images with activations, and of all batches, rise to 1."""
    shares: dict[str, list[float]] = defaultdict(list)

    def note(event: Event) -> None:
        if isinstance(event, TaskProgress):
            shares[event.task].append(event.share)

    finetune_last(
        make_backbone(find_spec(BACKBONE)),
        manifest.part(Split.TRAIN),
        manifest.part(Split.VALIDATION),
        make_plan_of(manifest, epochs=2),
        Stages(None, ""),
        note,
        TORCH,
    )
    assert list(shares) == ["activations", "finetune"]
    for found in shares.values():
        assert found == sorted(found) and found[-1] == 1


def test_defaults_are_its_own_unless_given() -> None:
    settings = make_settings(None, ("finetune=last",))
    assert (settings.epochs, settings.batch_size, settings.weight_decay) == (5, 32, 1)
    settings = make_settings(None, ("finetune=last", "epochs=7"), weight_decay=0.1)
    assert (settings.epochs, settings.batch_size, settings.weight_decay) == (7, 32, 0.1)
    settings = make_settings(None, ("finetune=all",))
    assert (settings.epochs, settings.batch_size, settings.weight_decay) == (10, 64, 0.05)


@pytest.mark.parametrize(
    ("backbone", "finetune", "reason"),
    [
        ("tiny", Finetune.LAST, "backbone tiny has no published weights; add --finetune all"),
        ("lite0+lite1", Finetune.ALL, "lite0.lite1 has several; use --finetune last, which trains"),
    ],
)
def test_networks_that_it_cannot_train_are_refused(
    manifest: Manifest, tmp_path: Path, backbone: str, finetune: Finetune, reason: str
) -> None:
    """Refusals come before anything is made."""
    settings = TrainSettings(**QUICK | {"backbone": backbone, "finetune": finetune})
    with pytest.raises(SettingsError, match=reason):
        train(manifest, tmp_path / "run", settings, TORCH)
    assert not (tmp_path / "run").exists()


def test_several_networks_are_trained_each_by_itself(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each learns what it learns alone; one that does not gain keeps its published weights.

    The run predicts with the features of both as they are then, built anew or deferred.
    """
    worsen_fits(monkeypatch, {1, 4})  # the first network gains, the second loses
    lines: list[str] = []
    settings = TrainSettings(**QUICK | {"epochs": 1, "backbone": "lite0@64+lite1@64"})
    train(manifest, tmp_path / "run", settings, TORCH, log=lambda event: lines.append(str(event)))
    ends = [line for line in lines if line.endswith("weights are used")]
    assert [line.split(":")[0] for line in ends] == ["finetune lite0@64", "finetune lite1@64"]
    assert [line.split()[-4] for line in ends] == ["trained", "published"]
    monkeypatch.undo()
    run = load_run(tmp_path / "run")
    own, deferred = run.make_backbone(), run.defer_backbone()
    published = make_backbone(run.backbone_spec)
    alone = learn(manifest, epochs=1)["last"]
    assert all(torch.equal(value, alone[key]) for key, value in own.parts[0].state_dict().items())
    same = published.parts[1].state_dict()
    assert all(torch.equal(value, same[key]) for key, value in own.parts[1].state_dict().items())
    assert own.fingerprint() == deferred.fingerprint() != published.fingerprint()
    prints = [[one.fingerprint() for one in each.parts] for each in (own, deferred, published)]
    assert prints[0] == prints[1] and prints[0][0] != prints[2][0]
    assert deferred.built().parts[1] is deferred.parts[1].built()
    images = list(manifest.images[:3])
    found = [
        FeatureExtractor(one, engine=EngineName.TORCH).matrix(images) for one in (own, deferred)
    ]
    assert np.array_equal(*found)
    pixels = [torch.tensor(load_pixels(images[0], 64))[None]] * 2
    with torch.inference_mode():
        expected = torch.cat(
            [one(one_of) for one, one_of in zip(own.parts, pixels, strict=True)], 1
        )
    assert found[0][0] == pytest.approx(expected[0].numpy(), abs=1e-5)
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 3


def test_a_network_without_known_stages_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    """The refusal names the way out, before anything is made."""
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    settings = TrainSettings(**QUICK | {"backbone": "test_vit", "weights": str(weights)})
    with pytest.raises(BackboneError, match="not known where its last stage begins; use --finetu"):
        train(manifest, tmp_path / "run", settings, TORCH)
    assert not (tmp_path / "run").exists()


def test_numbers_are_refused(tmp_path: Path) -> None:
    """A table of numbers has no network to train."""
    table = tmp_path / "numbers.csv"
    rows = [f"row{row},{row % 7},{row % 3},{row % 2}" for row in range(40)]
    table.write_text("\n".join(["id,f1,f2,label", *rows]) + "\n")
    numbers = read_dataset(table, ReadOptions(features=("f*",)))
    settings = TrainSettings(finetune=Finetune.LAST)
    with pytest.raises(SettingsError, match="--finetune and --album are for images; numbers is a"):
        train(numbers, tmp_path / "run", settings, TORCH)


@pytest.mark.parametrize("finetune", [Finetune.NONE, Finetune.LAST, Finetune.ALL])
def test_images_that_the_network_learned_from_judge_nothing(
    manifest: Manifest, finetune: Finetune
) -> None:
    """Validation images judge alone then, however few; else training folds do as well."""
    rng = np.random.default_rng(0)
    parts = [manifest.part(one).targets for one in (Split.TRAIN, Split.VALIDATION)]
    examples = [
        Examples(rng.normal(size=(len(targets), 5)).astype(np.float32), targets)
        for targets in parts
    ]
    plan = make_plan_of(
        manifest, finetune=finetune, schedule=Schedule.AUTO, structure_weights=(0, 1)
    )
    trainer, _ = make_trainer(*examples, plan, Stages(None, ""), print)
    fits = {kind: one.count for kind, one in trainer.outlook().items()}
    assert (fits["independent"] > FOLDS) is (finetune is Finetune.NONE)


def test_folds_of_a_trained_network_are_refused(manifest: Manifest) -> None:
    with pytest.raises(SettingsError, match="--finetune last the network has learned from all"):
        make_plan_of(manifest, cross_validation=True)


def test_no_validation_images_are_refused(manifest: Manifest) -> None:
    backbone = make_backbone(find_spec(BACKBONE))
    part, plan = manifest.part(Split.TRAIN), make_plan_of(manifest)
    none = manifest.part(Split.TRAIN).rows(np.zeros(0, np.int64))
    with pytest.raises(SettingsError, match="needs validation images"):
        finetune_last(backbone, part, none, plan, Stages(None, ""), print, environment=TORCH)


def test_a_loss_that_is_not_finite_is_said(manifest: Manifest) -> None:
    with pytest.raises(RunError, match=r"finetune: .*lower --set learning_rate"):
        learn(manifest, learning_rate=1e30, epochs=2)


def test_a_run_keeps_what_differs_from_the_published_weights(
    manifest: Manifest, tmp_path: Path, learned: Result
) -> None:
    """The file has the trained stage alone, and loads to the same network, whose name tells it."""
    backbone = make_backbone(find_spec(BACKBONE))
    changes = backbone.changed(learned["last"])
    assert set(changes) < set(learned["last"])
    published = backbone.fingerprint()
    backbone.load_changes(changes)
    assert all(
        torch.equal(value, learned["last"][key]) for key, value in backbone.state_dict().items()
    )
    other = make_backbone(find_spec(BACKBONE))
    other.load_changes({key: value + 1 for key, value in changes.items()})
    prints = {published, backbone.fingerprint(), other.fingerprint()}
    assert len(prints) == 3, "features of one must not be taken for those of another"
    deferred = defer_backbone(backbone.spec, 1280, changes, lambda: backbone)
    assert isinstance(deferred, DeferredBackbone)
    assert deferred.fingerprint() == backbone.fingerprint()
    assert backbone.changed({}) == {}
    backbone.load_changes({})
    assert backbone.fingerprint() == deferred.fingerprint(), "nothing was replaced"
    with pytest.raises(RuntimeError, match="layer_of_another"):
        backbone.load_changes({"layer_of_another": torch.zeros(1)})


def test_features_of_the_trained_network_are_kept(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network does not see the images again; its features would be the same, up to rounding."""
    backbone = make_backbone(find_spec(BACKBONE))
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    plan = make_plan_of(manifest, epochs=1)
    worsen_fits(monkeypatch, {1})  # so that the trained weights are used
    cached = replace(TORCH, cache_dir=tmp_path)
    best = finetune_last(backbone, *parts, plan, Stages(None, ""), print, environment=cached)[
        "best"
    ]
    backbone.take(best)
    images = parts[0].images + parts[1].images
    computed = FeatureExtractor(backbone, engine=EngineName.TORCH).matrix(images)
    kept = FeatureExtractor(backbone, engine=EngineName.TORCH, cache_dir=tmp_path)
    monkeypatch.setattr(kept, "_run", lambda pixels: pytest.fail("the network ran"))
    np.testing.assert_allclose(kept.matrix(images), computed, rtol=1e-4, atol=1e-4)
