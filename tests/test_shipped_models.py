"""The models that come with the package."""

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from mlcrf import Tagger
from mlcrf.checkpoint import WEIGHTS, load_run
from mlcrf.choices import EngineName
from mlcrf.errors import DataError, LabelsError, RunError
from mlcrf.shipped_models import DEFAULT, find_model, names
from mlcrf.synthetic.dataset import make_dataset
from tests.mirror import ROOT
from tests.program import run_program

# converting the network for another engine, which a Tagger of one's own does not keep, takes 10 s
PLAIN_TORCH = """from mlcrf import Tagger
from mlcrf.choices import EngineName
Tagger.load.__func__.__kwdefaults__["engine"] = EngineName.TORCH
"""


def test_there_are_two() -> None:
    """24 and 38 labels of MIRFLICKR, small, whole, and with their cards."""
    assert names() == ["mirflickr24", "mirflickr38"] and DEFAULT in names()
    for name, num_labels in (("mirflickr24", 24), ("mirflickr38", 38)):
        run = load_run(Path(name))
        assert len(run.labels) == num_labels == run.label_set
        assert run.backbone_weights is not None and run.backbone_spec.name == "lite0"
        weights = (run.path / WEIGHTS).read_bytes()
        assert len(weights) < 5_000_000
        card = (run.path / "README.md").read_text(encoding="utf-8")
        assert hashlib.sha256(weights).hexdigest() == run.digest
        assert run.digest in " ".join(card.split())
        figures = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
        assert figures["images"] == 20_000
        signature = figures["signature"]
        assert f"data:mirflickr25k-{num_labels}|split:test|images:10000|" in signature
        assert run.digest[:12] not in signature, "figures are of a run that has not seen the test"
    assert len(load_run(Path("mirflickr38")).rules) == 14


def test_a_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the way of a name is taken, as a path is."""
    monkeypatch.chdir(tmp_path)
    assert find_model(Path(DEFAULT)).is_absolute()
    (tmp_path / DEFAULT).mkdir()
    assert find_model(Path(DEFAULT)) == Path(DEFAULT)
    with pytest.raises(RunError, match="not a finished run"):
        load_run(Path(DEFAULT))
    with pytest.raises(RunError, match=r"or use mirflickr24 or mirflickr38, which come with mlcrf"):
        load_run(Path("mirflickr25"))


def test_predict_needs_no_model(tmp_path: Path) -> None:
    """Photos of any size and shape get a row each, right after installation."""
    make_dataset(tmp_path / "drawn", num_images=4, image_size_px=64)
    photos = tmp_path / "photos"
    photos.mkdir()
    drawn = sorted((tmp_path / "drawn" / "images").iterdir())
    for source, size in zip(drawn, [(64, 64), (2000, 300), (31, 700), (1, 1)], strict=True):
        Image.open(source).resize(size).save(photos / source.name)
    done = run_program("predict", "photos", "--out", "tags.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "tags.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 and "p:sky" in rows[0]
    tagger = Tagger(load_run(Path(DEFAULT)), engine=EngineName.TORCH)
    assert next(iter(tagger.predict([photos / drawn[0].name]))).error == ""


def test_the_examples_for_python_run(tmp_path: Path) -> None:
    """Every block of docs/library.md, in a folder with one photo, says what it should."""
    make_dataset(tmp_path / "drawn", num_images=4, image_size_px=64)
    photo = min((tmp_path / "drawn" / "images").iterdir())
    Image.open(photo).save(tmp_path / "photo.jpg")
    make_dataset(tmp_path / "data", num_images=120, image_size_px=32)
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    said = []
    for at, code in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        (tmp_path / f"example_{at}.py").write_text(PLAIN_TORCH + code)
        done = run_program(module=f"example_{at}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    for expected in (
        r"^photo\.jpg \(.*\) [01]\.\d+\nnot tagged: no-photo\.jpg: ",
        r"^runs/nothing: no such run directory",
        r"^0 +photo\.jpg +[01]\.\d+ *$",
        r"^1 +no-photo\.jpg +NaN +no-photo\.jpg: ",
        r"example_f1 +[01]\.\d+ +[01]\.\d+ ",
    ):
        assert re.search(expected, "".join(said), re.MULTILINE), (expected, said)


def test_what_is_computed_is_kept_from_python(tmp_path: Path) -> None:
    """Features are in the cache folder, by the engine that was asked for, and used again."""
    make_dataset(tmp_path / "drawn", num_images=4, image_size_px=64)
    photos = sorted((tmp_path / "drawn" / "images").iterdir())
    first, second = (
        list(
            Tagger.load(
                "mirflickr24", engine=EngineName.TORCH, cache_dir=str(tmp_path / "kept")
            ).predict(photos)
        )
        for _ in range(2)
    )
    assert [one.marginals for one in first] == [one.marginals for one in second]
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name.startswith("features-") and kept.suffix == ".sqlite"


def test_known_labels_from_python(tmp_path: Path) -> None:
    """They keep their value, the others move, and what cannot be is said at once."""
    make_dataset(tmp_path / "drawn", num_images=4, image_size_px=64)
    one, other, *_ = sorted((tmp_path / "drawn" / "images").iterdir())
    tagger = Tagger(load_run(Path("mirflickr38")), engine=EngineName.TORCH)
    labels = tagger.labels
    plain = list(tagger.predict([one, other]))
    told = list(tagger.predict([one, other], known={str(one): {"sea": True, "indoor": False}}))
    assert told[0].marginals[labels.index("sea")] == 1
    assert told[0].marginals[labels.index("indoor")] == 0
    water = labels.index("water")
    assert told[0].marginals[water] > plain[0].marginals[water]
    assert told[1].marginals == plain[1].marginals
    assert told[0].independent == plain[0].independent
    with pytest.raises(LabelsError, match="no-label"):
        tagger.predict([one], known={one: {"no-label": True}})
    with pytest.raises(DataError, match=r"sea is given as absent, but .* implies it"):
        tagger.predict([one], known={one: {"sea": False, "sea_r1": True}})


def test_models_lists_them(tmp_path: Path) -> None:
    """For people, and as JSON."""
    shown = run_program("models", cwd=tmp_path).stdout
    assert "mirflickr24 (default)" in shown and "mirflickr38:" in shown
    record = json.loads(run_program("models", "--json", cwd=tmp_path).stdout)
    assert [one["model"] for one in record] == names()
    assert all(Path(one["card"]).exists() for one in record)
    inspected = json.loads(run_program("inspect", "mirflickr38", "--json", cwd=tmp_path).stdout)
    assert len(inspected["labels"]) == 38
    drawn = run_program("plot-correlations", "mirflickr24", "--out", "matrix.png", cwd=tmp_path)
    assert drawn.returncode == 0 and (tmp_path / "matrix.png").exists()
    wrong = run_program(
        "plot-correlations", DEFAULT, "--out", "a.png", "--compare", "phi", cwd=tmp_path
    )
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
