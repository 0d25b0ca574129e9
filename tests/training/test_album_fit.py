"""Latent scenes and albums of them, from training to prediction."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlcrf import Tagger
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.choices import Decision, EngineName, ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.decoding import Decoder
from mlcrf.errors import DataError, RunError, SettingsError
from mlcrf.evaluation import evaluate
from mlcrf.images import as_image
from mlcrf.latent import ScenePotentials
from mlcrf.prediction import PredictJob
from mlcrf.training.extraction import Environment
from mlcrf.training.run import train
from tests.training.test_run import QUICK, manifest  # noqa: F401  a fixture

TORCH = Environment(engine=EngineName.TORCH)


def in_albums(data: Manifest, folder: Path) -> Manifest:
    """The same pictures, four to a folder."""
    images = []
    for at, image in enumerate(data.images):
        link = folder / f"{at // 4:03d}" / f"{at:04d}{Path(image.name).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.name, link)
        images.append(as_image(link))
    return replace(data, images=tuple(images))


def test_latent_run(manifest: Manifest, tmp_path: Path) -> None:  # noqa: F811
    """Learned, evaluated, decoded by every kind of belief, and used on albums."""
    data = in_albums(manifest, tmp_path / "photos")
    settings = TrainSettings(**QUICK, structure=Structure.LATENT, scenes=3, albums=True)
    report = train(data, tmp_path / "run", settings, TORCH)
    assert "album_gain" in report.fits["crf"]
    run = load_run(tmp_path / "run")
    assert run.crf.num_scenes == 3 and len(run.crf.edges) == 0
    assert run.settings.objective is ObjectiveName.EXACT_LIKELIHOOD
    assert float(run.crf.shifts.detach().std()) > 0.1
    test = data.part(Split.TEST)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    for rule in (Decision.THRESHOLD, Decision.MAP, Decision.EXPECTED_F1, Decision.EXPECTED_JACCARD):
        result = evaluate(run, test, extractor, split="test", decoder=Decoder(rule), resamples=10)
        assert "|inference:scenes|" in result.signature and result.nll_kind == "exact"
    features = torch.from_numpy(extractor.matrix(test.images))
    assert isinstance(run.crf(features), ScenePotentials)

    apart = list(Tagger(run, engine=EngineName.TORCH).predict(test.images))
    heard = list(
        Tagger(run, PredictJob(run.digest, album=True), engine=EngineName.TORCH).predict(
            test.images
        )
    )
    assert [one.image for one in heard] == list(test.images)
    assert any(a.marginals != b.marginals for a, b in zip(apart, heard, strict=True))
    backwards = list(
        Tagger(run, PredictJob(run.digest, album=True), engine=EngineName.TORCH).predict(
            test.images[::-1]
        )
    )
    for one, other in zip(heard, backwards[::-1], strict=True):
        assert one.image == other.image
        assert one.marginals == pytest.approx(other.marginals, abs=1e-5)


def test_a_broken_photo_leaves_its_album_whole(manifest: Manifest, tmp_path: Path) -> None:  # noqa: F811
    """It is reported in its place, and the others are tagged."""
    data = in_albums(manifest, tmp_path / "photos")
    settings = TrainSettings(**QUICK, structure=Structure.LATENT, scenes=2, albums=True)
    train(data, tmp_path / "run", settings, TORCH)
    images = list(data.part(Split.TEST).images[:6])
    Path(images[2].name).write_bytes(b"broken")
    run = load_run(tmp_path / "run")
    tagger = Tagger(run, PredictJob(run.digest, album=True), engine=EngineName.TORCH)
    found = list(tagger.predict(images))
    assert [bool(one.error) for one in found] == [False, False, True, False, False, False]


def test_what_does_not_go_together_is_refused(manifest: Manifest, tmp_path: Path) -> None:  # noqa: F811
    """Before anything is made, or with a line that says what to do."""
    for changes, message in (
        ({"objective": ObjectiveName.PSEUDO_LIKELIHOOD}, "does not go with it"),
        ({"structure": Structure.FULL, "albums": True}, "goes with --structure latent"),
    ):
        settings = TrainSettings(**(QUICK | {"structure": Structure.LATENT} | changes))
        with pytest.raises(SettingsError, match=message):
            train(manifest, tmp_path / "run", settings, TORCH)
        assert not (tmp_path / "run").exists()
    lonely = replace(
        manifest,
        images=tuple(
            as_image(shutil.copy(image.name, _folder(tmp_path / "lonely" / image.file_name)))
            for image in manifest.images
        ),
    )
    settings = TrainSettings(**QUICK, structure=Structure.LATENT, scenes=2, albums=True)
    with pytest.raises(DataError, match="no two training photos are in one folder"):
        train(lonely, tmp_path / "run", settings, TORCH)
    plain = TrainSettings(**QUICK, structure=Structure.LATENT, scenes=2)
    train(manifest, tmp_path / "plain", plain, TORCH)
    with pytest.raises(RunError, match="was trained without albums; train with"):
        plain = load_run(tmp_path / "plain")
        Tagger(plain, PredictJob(plain.digest, album=True))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
