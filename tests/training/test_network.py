"""The choice whether the last stage of a network is trained, where the settings leave it open."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcrf.backbones.registry import find_spec
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName, Finetune, Schedule
from mlcrf.config import TrainSettings, make_settings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.images import ImageBytes
from mlcrf.labels import LabelSpace
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training import network
from mlcrf.training.extraction import Environment
from mlcrf.training.network import resolve_finetune
from mlcrf.training.run import train
from mlcrf.training.stacking import ENOUGH


def make_manifest(num_labels: int = 3, num_validation: int = ENOUGH) -> Manifest:
    """Images that nobody reads, ten of them to learn from."""
    count = 10 + num_validation
    return Manifest(
        name="drawn",
        labels=LabelSpace([f"label{at}" for at in range(num_labels)]),
        images=tuple(ImageBytes(b"", f"{at}") for at in range(count)),
        targets=np.zeros((count, num_labels), np.int8),
        splits=(Split.TRAIN,) * 10 + (Split.VALIDATION,) * num_validation,
    )


def resolved(
    manifest: Manifest | None = None, is_hinted: bool = False, **settings: Any
) -> Finetune:
    given = TrainSettings(**settings)
    spec = find_spec(given.backbone)
    return resolve_finetune(given, spec, manifest or make_manifest(), is_hinted=is_hinted).finetune


def test_many_photos_and_few_labels() -> None:
    assert resolved() is Finetune.LAST
    assert resolved(backbone="lite0@288+lite0@64", views=2) is Finetune.LAST


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_units": 16, "dropout": 0.5},
        {"cross_validation": True},
        {"albums": True},
        {"is_hinted": True},
        {"manifest": make_manifest(num_validation=ENOUGH - 1)},
        {"manifest": make_manifest(num_labels=65)},
        {"manifest": make_manifest(num_validation=50_000)},
        {
            "manifest": replace(
                make_manifest(), mentions={"source": np.zeros((10 + ENOUGH, 3), np.int8)}
            )
        },
        {"backbone": "resnet18"},
        {"finetune": Finetune.NONE},
    ],
    ids=", ".join,
)
def test_published_weights_are_kept(settings: dict[str, Any]) -> None:
    assert resolved(**settings) is Finetune.NONE


def test_what_is_asked_for_is_done() -> None:
    few = make_manifest(num_validation=5)
    assert resolved(few, finetune=Finetune.LAST) is Finetune.LAST
    assert resolved(few, finetune=Finetune.ALL) is Finetune.ALL


def test_defaults_go_with_the_choice() -> None:
    """Values that are given stay; others become those of the last stage."""
    asked = TrainSettings(batch_size=7, seed=3)
    last = asked.with_finetune(Finetune.LAST)
    assert (last.batch_size, last.seed, last.epochs, last.weight_decay) == (7, 3, 5, 1.0)
    none = asked.with_finetune(Finetune.NONE)
    assert (none.batch_size, none.epochs) == (7, TrainSettings().epochs)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run whose data chose to train the last stage, and what it said."""
    folder, said = tmp_path_factory.mktemp("auto"), list[str]()
    settings = TrainSettings(
        backbone="lite0@64",
        penalties=(0.1,),
        pairwise_penalties=(0.01,),
        structure_weights=(1,),
        schedule=Schedule.JOINT,
    )
    data = read_dataset(make_dataset(folder / "data", num_images=80, image_size_px=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "ENOUGH", 8)
        train(
            data,
            folder / "run",
            settings,
            Environment(engine=EngineName.TORCH),
            log=lambda event: said.append(str(event)),
        )
    return folder / "run", said


def test_the_run_keeps_what_was_chosen(run: tuple[Path, list[str]]) -> None:
    """The note, the settings, and the epochs of the last stage."""
    place, said = run
    assert any("--finetune none leaves it as published" in line for line in said)
    kept = load_run(place).settings
    assert (kept.finetune, kept.epochs, kept.weight_decay) == (Finetune.LAST, 5, 1.0)
    assert len((place / "results.csv").read_text().splitlines()) == 1 + 5


def test_a_run_as_config_leaves_the_choice_open(run: tuple[Path, list[str]]) -> None:
    """What the data chose then is chosen anew, with the epochs and the decay that go with it."""
    place, _ = run
    assert "finetune" in json.loads((place / "config.json").read_text())["made_by"]["auto"]
    again = make_settings(place / "config.json")
    assert again.finetune is Finetune.AUTO
    assert again.with_finetune(Finetune.NONE).epochs == TrainSettings().epochs
    assert again.with_finetune(Finetune.LAST).epochs == 5
