"""A small drawn data set and a run trained on it, made once by the commands themselves."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mlcrf.synthetic.dataset import make_dataset
from tests.program import run_program

Mlcrf = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def mlcrf() -> Mlcrf:
    """Runs the program as a user does, in a process of its own."""
    return run_program


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 drawn scenes with their table."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    make_dataset(folder, num_images=240, image_size_px=32)
    return folder


@pytest.fixture(scope="session")
def run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on those scenes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = run_program(
        "train",
        drawn / "labels.csv",
        "--out",
        folder,
        "--backbone",
        "tiny",
        "--finetune",
        "all",
        "--epochs",
        2,
        "--engine",
        "torch",
        "--cache-dir",
        folder.parent / "cache",
        "--set",
        "penalties=[0.1]",
        "--set",
        "pairwise_penalties=[0.01]",
        *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
        *("--log", "tensorboard"),
    )
    assert result.returncode == 0, result.stderr
    return folder
