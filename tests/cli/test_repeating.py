"""A run keeps how it was made, and can be made again from its config.json."""

import json
import shutil
from pathlib import Path

import pytest

from mlcrf.checkpoint import load_run
from mlcrf.cli.repeating import find_config, provenance, recorded_options
from mlcrf.cli.train import DataOptions
from mlcrf.config import TrainSettings, make_settings
from mlcrf.errors import SettingsError
from mlcrf.shipped_models import find_model
from tests.cli.conftest import Mlcrf


def test_a_run_is_repeated_from_itself(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """Without data or options from another folder: the same bits; what is given wins."""
    made_by = load_run(run).made_by
    assert made_by.command.startswith(f"mlcrf train {drawn / 'labels.csv'} --out {run}")
    assert made_by.options == {"data": [str(drawn / "labels.csv")], "engine": "torch"}
    assert made_by.auto == ("structure", "objective", "inference")
    words = ("train", "--config", run / "config.json", "--cache-dir", tmp_path / "cache")
    again = mlcrf(*words, "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "have changed" not in again.stderr
    weights = [folder / "best.safetensors" for folder in (run, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert load_run(tmp_path / "again").made_by.options == made_by.options
    assert "command" in mlcrf("inspect", tmp_path / "again").stdout


def test_data_that_changed_are_told(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """With what is new, gone and labelled otherwise; options of the new command win."""
    head, first, *rows = (drawn / "labels.csv").read_text().splitlines()
    changed = first[:-1] + ("0" if first.endswith("1") else "1")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join([head, changed, *rows[:-2]]) + "\n")
    words = ("train", table, "--config", run / "config.json", "--image-root", drawn)
    result = mlcrf(*words, "--epochs", 1, "--out", tmp_path / "new")
    assert result.returncode == 0, result.stderr
    assert f"the data have changed since {run} was made (images: 2 gone, 1 with other" in (
        result.stderr
    )
    assert load_run(tmp_path / "new").settings.epochs == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "config.json: not JSON"),
        ('{"made_by": 3}', "config.json: made_by: expected an object"),
        ('{"made_by": {"options": {"dta": "x"}}}', "unknown option 'dta'; did you mean 'data'?"),
        ('{"made_by": {"options": {"data": null}}}', "data: expected text, got None"),
    ],
)
def test_damaged_options(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        recorded_options(file, ["data", "label_set"])
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_run_is_no_file_of_settings(tmp_path: Path) -> None:
    """A folder, or a shipped model's name, is told with the file that it holds."""
    for given, file in (
        (tmp_path, tmp_path / "config.json"),
        (Path("mirflickr24"), find_model(Path("mirflickr24")) / "config.json"),
    ):
        with pytest.raises(SettingsError, match="expected a file of settings") as caught:
            recorded_options(given, ["data"])
        assert str(caught.value).endswith(f"--config {file}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": 3}, "config.json: settings: not as a run writes it"),
        ({"made_by": {"auto": 3}}, "config.json: made_by: not as a run writes it"),
        ({"settings": {"epoch": 3}}, "config.json: unknown setting 'epoch'; did you mean 'epochs'"),
        ({"settings": {"epochs": 0}}, "config.json: setting epochs: expected a whole number"),
    ],
)
def test_damaged_settings(tmp_path: Path, change: dict[str, object], says: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"format": 1, "settings": {}, "made_by": {}} | change))
    with pytest.raises(SettingsError) as caught:
        make_settings(file)
    assert says in str(caught.value)


def test_what_was_automatic_is_so_again(tmp_path: Path) -> None:
    """Other labels may need another objective than the one that was found for the run."""
    file = tmp_path / "config.json"
    settings = TrainSettings(objective="exact-likelihood", seed=3).model_dump(mode="json")
    record = {"format": 1, "settings": settings, "made_by": {"auto": ["objective"]}}
    file.write_text(json.dumps(record))
    assert make_settings(file) == TrainSettings(seed=3)


def test_passwords_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the command nor in the options; paths become absolute."""
    url = "postgresql://anna:secret@host/tags"
    monkeypatch.setattr("sys.argv", ["mlcrf", "train", "--from-review", url])

    class Parameter:
        default = None

        def __init__(self, name: str) -> None:
            self.name = name

    parameters = [Parameter(name) for name in ("from_review", "data", "out", "fold_case")]
    values = {"from_review": url, "data": "photos", "out": "run", "fold_case": False}
    kept = provenance(parameters, values)
    assert kept.command == "mlcrf train --from-review postgresql://anna@host/tags"
    assert kept.options == {
        "from_review": "postgresql://anna@host/tags",
        "data": str(Path("photos").absolute()),
    }
    kept = provenance(parameters, {"from_review": "sqlite:///tags.db"})
    assert kept.options == {"from_review": f"sqlite:///{Path('tags.db').absolute()}"}
    assert {"from_review", "labels"} <= set(DataOptions.__dataclass_fields__)


def test_config_among_words() -> None:
    assert find_config(["a", "--config", "b"]) == Path("b")
    assert find_config(["--config=b", "a"]) == Path("b")
    assert find_config(["--", "--config", "b"]) is None
    assert find_config(["--config"]) is None


def test_data_that_moved_are_the_same(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """The digest is of the images' names below their common folder."""
    shutil.copytree(drawn, tmp_path / "moved")
    words = ("train", tmp_path / "moved" / "labels.csv", "--config", run / "config.json")
    result = mlcrf(*words, "--epochs", 1, "--out", tmp_path / "new")
    assert result.returncode == 0, result.stderr
    assert "have changed" not in result.stderr
