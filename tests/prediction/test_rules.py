"""No output of a run with limits breaks one: tables, sidecars, the service, the graph."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import Run, load_run, save_run
from mlcrf.choices import Decision, EngineName
from mlcrf.cli import app
from mlcrf.config import TrainSettings
from mlcrf.export import TaggerModule, choose_marginals
from mlcrf.inference import Exact
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.rules import read_rules

LABELS = LabelSpace(("dog", "animal", "indoor", "outdoor", "night", "day"))
LINES = """dog => animal
exactly 1 of: indoor, outdoor
never together: night, day
at most 2 of: dog, night, day, outdoor
never together (1.5): dog, indoor"""


def names_break(present: set[str]) -> bool:
    """Say in plain words whether a label set breaks a hard rule of LINES."""
    return (
        ("dog" in present and "animal" not in present)
        or len(present & {"indoor", "outdoor"}) != 1
        or {"night", "day"} <= present
        or len(present & {"dog", "night", "day", "outdoor"}) > 2
    )


def make_run(folder: Path, **settings: object) -> Run:
    """A run of random weights that would break the rules in most photos."""
    torch.manual_seed(0)
    rules = read_rules(enumerate(LINES.splitlines(), 1), LABELS)
    backbone = make_backbone(find_spec("tiny"))
    crf, independent = LabelCrf(128, 6, rules=rules), LabelCrf(128, 6, edges=no_edges())
    for parameter in (*crf.parameters(), *independent.parameters()):
        torch.nn.init.normal_(parameter, std=0.15)
    torch.nn.init.normal_(crf.pairwise, mean=1.0)
    folder.mkdir()
    how = TrainSettings(backbone="tiny", **settings)  # type: ignore[arg-type]
    state = backbone.state_dict()
    save_run(Run(folder, LABELS, how, backbone.spec, "drawn", crf, independent, state))
    return load_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "rules")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for at in range(12):
        pixels = torch.randint(0, 256, (24, 24, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray((pixels // (1 + at)).numpy()).save(folder / f"{at}.png")
    return folder


def test_the_run_keeps_its_rules(run: Run) -> None:
    """They are loaded as they were given, and without them most photos would break one."""
    assert run.rules.lines(LABELS.names) == LINES.splitlines()
    result = CliRunner().invoke(app, ["inspect", str(run.path)])
    assert "5 rules: `dog => animal`, `exactly 1 of: indoor, outdoor`" in result.stdout


@pytest.mark.parametrize("inference", ["auto", "mean-field", "gibbs", "bethe"])
def test_tables(photos: Path, tmp_path: Path, inference: str) -> None:
    """By every rule of decision that takes no number, also where inference is approximate."""
    run = make_run(tmp_path / "run", inference=inference)
    for rule in (one for one in Decision if not one.has_k and "threshold" not in one.value):
        out = tmp_path / f"{rule}.csv"
        words = ["predict", str(photos), "--model", str(run.path), "--out", str(out)]
        words += ["--decode", rule.value, "--engine", "torch"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        with out.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["image"].endswith("png")]
        assert len(rows) == 12
        for row in rows:
            present = {name.strip() for name in row["labels"].split(";")} - {""}
            assert not names_break(present), (rule, row)


def test_sidecars(run: Run, photos: Path) -> None:
    """What `mlcrf tag` writes beside photos."""
    words = ["tag", str(photos), "--model", str(run.path), "--xmp", "--engine", "torch"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    sidecars = sorted(photos.glob("*.xmp"))
    assert len(sidecars) == 12
    for sidecar in sidecars:
        text = sidecar.read_text(encoding="utf-8")
        subjects = text.split("<dc:subject>")[1].split("</dc:subject>")[0]
        present = {name for name in LABELS if f"<rdf:li>{name}</rdf:li>" in subjects}
        assert not names_break(present), sidecar
        sidecar.unlink()


def test_service(run: Run, photos: Path) -> None:
    """It lists the rules, tags by them, and refuses what contradicts them."""
    pytest.importorskip("fastapi", reason="needs mlcrf[serve]")
    pytest.importorskip("prometheus_client", reason="needs mlcrf[serve]")
    from starlette.testclient import TestClient

    from mlcrf.prediction import Tagger
    from mlcrf.serving.monitoring import Limits
    from mlcrf.serving.tagging_app import make_app

    limits = Limits(images=3, megabytes=1, batch=2, waiting=4)
    with TestClient(make_app(run, Tagger(run, engine=EngineName.TORCH), limits)) as client:
        assert client.get("/model").json()["rules"] == LINES.splitlines()
        for photo in sorted(photos.glob("*.png")):
            sent = {"content": photo.read_bytes(), "headers": {"Content-Type": "image/png"}}
            answer = client.post("/tags/image", **sent)
            assert answer.status_code == 200, answer.text
            assert not names_break(set(answer.json()["labels"])), answer.text
        refused = client.post("/tags/image", params={"known": "night=1,day=1"}, **sent)
        assert refused.status_code == 422
        assert "`never together: night, day`" in refused.text


def test_exported_marginals(run: Run) -> None:
    """Those of exact inference, with a limit across the halves or not."""
    (marginals,) = choose_marginals(run)
    module = TaggerModule(run, run.make_backbone(), marginals)
    features = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    found, _ = module.tag(features)
    wanted = Exact()(run.crf(features)).marginals
    assert float((found - wanted).detach().abs().max()) < 1e-5
