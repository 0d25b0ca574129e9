"""Options of `mlcrf train` that are made from the settings."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlcrf.cli import main
from mlcrf.cli.train import _PANELS, _setting_options
from mlcrf.config import TrainSettings
from tests.cli.conftest import Mlcrf


def test_options_are_those_of_the_settings() -> None:
    """Each has name, description and bounds of its setting; none is given by default."""
    options = {option.name: option for option in _setting_options()}
    assert list(options) == [name for names in _PANELS.values() for name in names]
    for name, option in options.items():
        assert option.default is None
        assert option.help.startswith(TrainSettings.model_fields[name].description)
    assert options["albums"].opts == ["--album"]
    assert options["hidden_units"].opts == ["--hidden-units"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--epochs", "0"], 2, "--epochs.: expected a whole number of at least 1, got .0."),
        (["--max-exact-labels", "41"], 2, "expected a whole number from 1 to 40, got .41."),
        (["--structure", "forest"], 2, "expected one of auto, independent, .*got .forest."),
        (["--pos-weight", "0"], 1, "setting pos_weight: expected a number above 0"),
    ],
)
def test_refused_options(mlcrf: Mlcrf, words: list[str], status: int, says: str) -> None:
    result = mlcrf("train", ".", "--out", "run", *words)
    assert result.returncode == status
    assert re.search(says, result.stderr)


def test_other_commands_do_without_the_settings() -> None:
    """The command line imports no pydantic before `mlcrf train` asks for its options."""
    code = "import sys, mlcrf.cli; sys.exit('pydantic' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_threads_sleep_between_operations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The policy is set unless the user has set one."""
    for before, after in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
        if not before:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        monkeypatch.setattr(sys, "argv", ["mlcrf", "train", "no-table.csv", "--out", "run"])
        with pytest.raises(SystemExit):
            main()
        assert os.environ["OMP_WAIT_POLICY"] == after
    assert "no-table.csv" in capsys.readouterr().err


def test_log_of_a_training_run(run: Path) -> None:
    """The losses of the epochs, of every fit and the final figures are in the run directory."""
    log = EventAccumulator(str(run / "log" / "1")).Reload()
    with (run / "results.csv").open() as stream:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(stream)]
    epochs = [one.value for one in log.Scalars("epochs/finetune/validation_loss")]
    assert epochs == pytest.approx(losses, abs=1e-5)
    final = json.loads((run / "metrics.json").read_text())["fits"]["crf"]
    logged = log.Scalars("final/crf/validation_loss")[0].value
    assert logged == pytest.approx(final["validation_loss"])
    assert any(tag.startswith("fits/independent_on_all") for tag in log.Tags()["scalars"])
