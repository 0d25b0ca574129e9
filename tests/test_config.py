"""Settings: where they come from, which wins, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlcrf.choices import Finetune, InferenceName, ObjectiveName, Structure
from mlcrf.config import TrainSettings, make_settings
from mlcrf.errors import SettingsError


def write_config(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_nothing_given_is_the_defaults() -> None:
    """Without file, overrides or values the settings are the defaults, and cannot be changed."""
    settings = make_settings()
    assert settings == TrainSettings()
    assert settings.structure is Structure.AUTO
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 3


def test_the_later_wins(tmp_path: Path) -> None:
    """File, then --set, then named values; None among these means not given."""
    config = write_config(tmp_path, {"seed": 1, "hidden_units": 1, "epochs": 1, "batch_size": 1})
    settings = make_settings(
        config, ("hidden_units=2", "epochs=2", "epochs=3"), epochs=4, batch_size=None, backbone=None
    )
    got = (
        settings.seed,
        settings.hidden_units,
        settings.epochs,
        settings.batch_size,
        settings.backbone,
    )
    assert got == (1, 2, 4, 1, "lite0")
    assert make_settings(config, ("epochs=2", "epochs=3")).epochs == 3


def test_saved_settings_can_be_given_again(tmp_path: Path) -> None:
    """The JSON that a run saves is a file of settings that gives the same ones."""
    settings = make_settings(
        overrides=("penalties=[0.5, 2]",), structure=Structure.INDEPENDENT, seed=7
    )
    config = write_config(tmp_path, settings.model_dump_json())
    assert make_settings(config) == settings


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("hidden_units=64", "hidden_units", 64),
        (" hidden_units = 64 ", "hidden_units", 64),
        ("backbone=lite1", "backbone", "lite1"),
        ('backbone="lite1"', "backbone", "lite1"),
        ("backbone=a=b", "backbone", "a=b"),
        ("tolerance=1e-4", "tolerance", 1e-4),
        ("penalties=[0.1,1]", "penalties", (0.1, 1.0)),
        ("structure=independent", "structure", Structure.INDEPENDENT),
        ("objective=pseudo-likelihood", "objective", ObjectiveName.PSEUDO_LIKELIHOOD),
        ("inference=mean-field", "inference", InferenceName.MEAN_FIELD),
        ("finetune=all", "finetune", Finetune.ALL),
    ],
)
def test_overrides(text: str, name: str, value: Any) -> None:
    """Values are read as JSON where they are that, else as text."""
    settings = make_settings(overrides=(text,))
    assert getattr(settings, name) == value
    assert settings == TrainSettings(**{name: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", "--set head: expected key=value"),
        ("", "--set : expected key=value"),
        ("=3", "unknown setting ''"),
        ("sead=3", "unknown setting 'sead'; did you mean 'seed'?"),
        ("penalty=1", "unknown setting 'penalty'; did you mean 'penalties'?"),
        ("qqqq=1", "unknown setting 'qqqq'$"),
        (
            "seed=-1",
            "setting seed: expected a whole number from 0 to below 922337203.*, got -1",
        ),
        ("seed=1.5", "setting seed: expected a whole number .*got 1.5"),
        (
            "hidden_units=many",
            "hidden_units: expected a whole number from 0 to 65536, got 'many'",
        ),
        (
            "max_exact_labels=41",
            "max_exact_labels: expected a whole number from 1 to 40, got 41",
        ),
        (
            "max_exact_labels=0",
            "max_exact_labels: expected a whole number from 1 to 40, got 0",
        ),
        ("tolerance=0", "setting tolerance: expected a number above 0, got 0"),
        ("tolerance=NaN", "setting tolerance: expected a number above 0, got nan"),
        ("learning_rate=0", "setting learning_rate: expected a number above 0"),
        ("weight_decay=-0.1", "setting weight_decay: expected a number of at least 0"),
        ("epochs=0", "setting epochs: expected a whole number of at least 1"),
        ("batch_size=0", "setting batch_size: expected a whole number of at least 1"),
        ("penalties=[]", "setting penalties: expected at least one"),
        ("penalties=[1, -0.1]", r"setting penalties\.1: .*got -0.1"),
        ("penalties=[NaN]", r"setting penalties\.0: .*got nan"),
        ("pairwise_penalties=[-1]", r"setting pairwise_penalties\.0: .*got -1"),
        ("pairwise_penalties=[Infinity]", r"setting pairwise_penalties\.0: .*got inf"),
        ("penalties=0.1", "setting penalties: .*got 0.1"),
        ("structure=forest", "structure: expected one of auto, independent, full, .*'forest'$"),
        ("structure=spars", "got 'spars'; did you mean 'sparse'[?]"),
        ("dropout=1", "setting dropout: expected a number from 0 to below 1, got 1"),
        ("backbone=3", "setting backbone: expected text, got 3"),
    ],
)
def test_refused_overrides(text: str, message: str) -> None:
    """What is wrong is named with its setting and value; a close name is suggested."""
    with pytest.raises(SettingsError, match=message):
        make_settings(overrides=(text,))


def test_unknown_named_values_are_refused() -> None:
    """A name that is no setting is refused wherever it comes from."""
    with pytest.raises(SettingsError, match="unknown setting 'objectives'; did you mean 'obj"):
        make_settings(objectives="auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: not JSON: "),
        ("", "config.json: not JSON: "),
        ("[1]", "config.json: expected a JSON object of settings"),
        ("3", "config.json: expected a JSON object of settings"),
        ('{"epoch": 3}', "unknown setting 'epoch'; did you mean 'epochs'?"),
        (
            '{"epochs": 0}',
            "config.json: setting epochs: expected .* of at least 1, got 0",
        ),
    ],
)
def test_refused_files(tmp_path: Path, content: str, message: str) -> None:
    """A file that is no JSON object of settings is refused with what is wrong in it."""
    with pytest.raises(SettingsError, match=message):
        make_settings(write_config(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are errors of the user's."""
    with pytest.raises(SettingsError, match=r"none\.json: cannot be read: No such file"):
        make_settings(tmp_path / "none.json")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        make_settings(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"bytes\.json: not JSON"):
        make_settings(tmp_path / "bytes.json")
