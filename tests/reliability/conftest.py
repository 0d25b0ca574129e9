"""What tests of promises share; what takes long is left to `make test-reliability`."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from mlcrf.checkpoint import Run
from mlcrf.cli import console, main
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.data.readers import read_dataset
from mlcrf.labels import LabelSpace
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training.run import train
from tests.reliability.odd_numbers import QUICK, TORCH, Command, Outcome, Patch
from tests.reliability.scale import SCALE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `at_length` where the scale is small."""
    long = [item for item in items if SCALE < 0.1 and item.get_closest_marker("at_length")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


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
