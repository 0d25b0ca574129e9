"""Numbers that are none are found in features, predictions, scores and files."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mlcrf.evaluation
import mlcrf.prediction.tagger
from mlcrf.backbones.engines import TorchEngine
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import CONFIG, WEIGHTS, Run, load_run
from mlcrf.choices import EngineName
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import BackboneError, DataError, MlcrfError, RunError
from mlcrf.evaluation import evaluate
from mlcrf.images import Image
from mlcrf.images.pixels import load_pixels
from mlcrf.inference import Exact, Posterior
from mlcrf.prediction import Prediction, Tagger
from mlcrf.training.run import train
from tests.reliability.odd_numbers import (
    ENGINE,
    QUICK,
    TORCH,
    VALUES,
    Command,
    Fault,
    Patch,
    assert_finite,
    assert_refused,
    assert_says_what_to_do,
    kept_vectors,
)
from tests.reliability.scale import at_length


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
    with pytest.raises(RunError, match="unary: contains NaN or infinity; try --engine torch"):
        list(Tagger(run, engine=EngineName.TORCH).predict(manifest.images[:5]))
    with pytest.raises(RunError, match="unary: contains NaN or infinity; try --engine torch"):
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
