"""Figures of a training run in other programs' logs."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlcrf.choices import TrackerName
from mlcrf.config import TrainSettings
from mlcrf.errors import MlcrfError
from mlcrf.training import tracking
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import (
    EpochFinished,
    Event,
    FitFinished,
    FitProgress,
    FitReport,
    RunFinished,
    RunStarted,
    TaskProgress,
)

SETTINGS = TrainSettings()
EVENTS: tuple[Event, ...] = (
    "a line",
    TaskProgress("finetune", 0.5),
    EpochFinished("finetune", 1, 2, 3.5, 3.75),
    FitProgress(1, 2.5, 0.125, fit="crf on train, penalties 1 and 0.5"),
    FitFinished(
        "crf on train, penalties 1 and 0.5",
        Penalty(1, 0.5),
        FitReport(2.0, 0.0, True, 9, 0.1),
        2.25,
    ),
    RunFinished({"crf": {"validation_loss": 2.25, "converged": True}}),
)


def track(name: TrackerName, folder: Path, tell: Callable[[str], None]) -> None:
    """All events in turn."""
    with tracking.tracking(name, tell) as log:
        log(RunStarted(folder, SETTINGS))
        for event in EVENTS:
            log(event)


def test_tensorboard_reads_the_figures_back(tmp_path: Path) -> None:
    """Losses, penalties, validation and final figures, with steps that rise; twice, two folders."""
    told: list[str] = []
    for _ in range(2):
        track(TrackerName.TENSORBOARD, tmp_path, told.append)
    assert told == []
    for folder in ("1", "2"):
        log = EventAccumulator(str(tmp_path / "log" / folder)).Reload()
        figures = {
            tag: [(one.step, one.value) for one in log.Scalars(tag)]
            for tag in log.Tags()["scalars"]
        }
        assert figures == {
            "epochs/finetune/loss": [(1, 3.5)],
            "epochs/finetune/validation_loss": [(1, 3.75)],
            "fits/crf_on_train_penalties_1_and_0.5/loss": [(2, 2.5)],
            "fits/crf_on_train_penalties_1_and_0.5/remaining": [(2, 0.125)],
            "candidates/crf_on_train/penalty_weights": [(3, 1)],
            "candidates/crf_on_train/penalty_pairwise": [(3, 0.5)],
            "candidates/crf_on_train/penalty_pairwise_l1": [(3, 0)],
            "candidates/crf_on_train/loss": [(3, 2)],
            "candidates/crf_on_train/converged": [(3, 1)],
            "candidates/crf_on_train/validation_loss": [(3, 2.25)],
            "final/crf/validation_loss": [(4, 2.25)],
            "final/crf/converged": [(4, 1)],
        }
    settings = next((tmp_path / "log" / "1").glob("*/hparams.yml")).read_text()
    assert f"seed: {SETTINGS.seed}\n" in settings and "penalties: '[" in settings


class Recorder:
    """A stand-in for a tracker whose package is not here; fails at a step."""

    def __init__(self, *given: Any, fails_at: int = 0, **named: Any) -> None:
        self.given, self.named, self.fails_at = given, named, fails_at
        self.settings: dict[str, Any] = {}
        self.steps: list[int] = []
        self.finished = False

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if step == self.fails_at:
            raise OSError("No space left\non device")
        self.steps.append(step)

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("name", [TrackerName.MLFLOW, TrackerName.WANDB])
def test_trackers_write_into_the_run_and_not_elsewhere(
    name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server is asked, unless the user's environment names one."""
    made: list[Recorder] = []

    def make(*given: Any, **named: Any) -> Recorder:
        made.append(Recorder(*given, **named))
        return made[-1]

    monkeypatch.setattr(tracking, "MLflowTracker", make)
    monkeypatch.setattr(tracking, "WandBTracker", make)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    track(name, tmp_path, pytest.fail)
    folder = tmp_path / "log" / "1"
    if name is TrackerName.WANDB:
        assert made[0].named == {"name": tmp_path.name, "dir": folder, "mode": "offline"}
    else:
        assert tracking.os.environ["MLFLOW_TRACKING_URI"].endswith(f"{folder.parent}/mlflow.db")
        assert made[0].given[1] == folder.as_uri()
    assert made[0].settings["backbone"] == SETTINGS.backbone
    assert (made[0].steps, made[0].finished) == ([1, 2, 3, 4], True)


def test_a_tracker_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, and nothing more is logged."""
    recorder = Recorder(fails_at=2)
    monkeypatch.setattr(tracking, "TensorBoardTracker", lambda *given: recorder)
    told: list[str] = []
    track(TrackerName.TENSORBOARD, tmp_path, told.append)
    assert told == [
        "note: --log tensorboard: No space left on device; nothing more is logged, training goes on"
    ]
    assert recorder.steps == [1]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line before anything is read."""
    command = import_module("mlcrf.cli.train")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(MlcrfError, match=r"--log wandb needs .* missing: pip install wandb"):
        command._require_tracker(TrackerName.WANDB)
