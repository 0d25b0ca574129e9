"""Runs as ONNX files: what the graph gives is what mlcrf gives, or there is no file."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec as find_package
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from mlcrf.backbones.registry import Backbone, BackboneSpec, Source, Tiny, find_spec, make_backbone
from mlcrf.calibration import Adjustment, Calibration, save_calibration
from mlcrf.checkpoint import Run, load_run, save_run
from mlcrf.choices import EngineName, GraphInference, InferenceName
from mlcrf.cli import app
from mlcrf.config import TrainSettings
from mlcrf.errors import BackboneError, DataError, MlcrfError, RunError, TooManyLabelsError
from mlcrf.export import TaggerModule, choose_marginals, draw_images, export_onnx, load_images
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.prediction import Tagger
from mlcrf.rules import Rules
from mlcrf.tempering import Factors
from tests.mirror import ROOT

pytestmark = pytest.mark.skipif(
    any(find_package(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="mlcrf[onnx] is not installed",
)

NAMES = ("sea", "=1+1", "<b>", 'a "b"', "naïve", "sky")
RULES = Rules(((0, 5), (2, 1)))
write = partial(export_onnx, images=draw_images, engine=EngineName.TORCH)


def make_run(folder: Path, num_labels: int = 6, size: float = 1.5, **shape: object) -> Run:
    """A run of random weights on the tiny network."""
    torch.manual_seed(0)
    backbone = make_backbone(find_spec("tiny"))
    crf = LabelCrf(128, num_labels, **shape)  # type: ignore[arg-type]
    independent = LabelCrf(128, num_labels, edges=no_edges())
    for model in (crf, independent):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(crf.pairwise, std=size)
    folder.mkdir()
    labels = LabelSpace((*NAMES, *(f"label {at}" for at in range(6, num_labels)))[:num_labels])
    settings = TrainSettings(backbone="tiny")
    state = backbone.state_dict()
    return save_run(Run(folder, labels, settings, backbone.spec, "drawn", crf, independent, state))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos, one turned by EXIF, and a file that is no picture."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for at, pixels in enumerate(draw_images([96])[96][:4]):
        exif = Image.Exif()
        exif[0x0112] = 6 if at == 0 else 1
        Image.fromarray(pixels).save(folder / f"{at} =<b>.jpg", exif=exif)
    (folder / "0 broken.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def exported(run: Run, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The command's file and what it printed."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    words = ["export", str(run.path), "--onnx", str(path), "--check", str(photos), "--json"]
    result = CliRunner().invoke(app, [*words, "--engine", "torch"])
    assert result.exit_code == 0, result.output
    return path, result.stdout


def test_the_command_says_what_it_wrote(exported: tuple[Path, str], run: Run) -> None:
    """The report names the inference and how near it is; the metadata name the run."""
    import onnxruntime

    path, printed = exported
    record = json.loads(printed)
    assert record["path"] == str(path) and record["num_bytes"] == path.stat().st_size
    assert record["inference"] == record["own_inference"] == "exact"
    assert record["num_images"] == 4 and record["notes"] == []
    assert record["rounding"] < 1e-4 and record["largest_gap"] < 1e-4 < record["independent_gap"]
    session = onnxruntime.InferenceSession(path)
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [64, 64, 3])
    assert [each.name for each in session.get_outputs()] == ["marginals", "independent"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(NAMES)
    assert metadata["model_digest"] == run.digest and metadata["inference"] == "exact"
    assert str(ROOT).encode() not in path.read_bytes(), "no path of this machine"


def test_the_documented_example_gives_what_predict_gives(
    exported: tuple[Path, str], run: Run, photos: Path, tmp_path: Path
) -> None:
    """The page's lines, in a process that has no mlcrf, on a photo that is turned by EXIF."""
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "mlcrf" not in code and len(code.strip().splitlines()) <= 12
    photo = photos / "0 =<b>.jpg"
    (tmp_path / "model.onnx").symlink_to(exported[0])
    (tmp_path / "photo.jpg").symlink_to(photo)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    (predicted,) = Tagger(run, engine=EngineName.TORCH).predict([photo])
    wanted = {name: p for name, p in zip(NAMES, predicted.marginals, strict=True) if p > 0.5}
    found = eval(result.stdout)
    assert found == pytest.approx(wanted, abs=6e-4) and 0 < len(found) < len(NAMES)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ({"rank": 2, "hidden": 8, "rules": RULES}, "exact"),
        ({"scenes": 3, "rules": RULES}, "sum over 3 scenes, exact within each"),
    ],
)
def test_other_kinds_of_runs(tmp_path: Path, shape: dict[str, object], name: str) -> None:
    """Couplings by image, a hidden layer, latent scenes, rules: exact as the run is."""
    report = write(make_run(tmp_path / "run", **shape), tmp_path / "m.onnx")
    assert report.inference == name and report.num_images == 16
    assert report.own_inference in ("junction-tree", "scenes")
    assert max(report.rounding, report.largest_gap) < 1e-4


def test_factors_of_a_run_are_exported(run: Run, tmp_path: Path) -> None:
    """The graph is that of the run as it is loaded: what predict says, not what was learned."""
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    nothing = torch.full((1, len(NAMES)), 0.5)
    calibration = Calibration(
        {"crf": nothing, "independent": nothing.clone()},
        torch.full((1, len(NAMES)), -1),
        "drawn",
        of_final=True,
        run=run.weights_digest,
        adjustments={"crf": Adjustment(Factors(0.5, 2.0)), "independent": Adjustment(Factors(3))},
    )
    save_calibration(copy, calibration)
    adjusted = load_run(copy)
    report = write(adjusted, tmp_path / "m.onnx")
    assert max(report.rounding, report.largest_gap) < 1e-4
    features = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    (chosen,) = choose_marginals(adjusted)
    module = TaggerModule(adjusted, adjusted.make_backbone(), chosen)
    marginals, independent = module.tag(features)
    wanted = run.make_inference()(run.crf(features).scaled(0.5, 2.0)).marginals
    torch.testing.assert_close(marginals, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(independent, (3 * run.independent(features).unary).sigmoid())


def test_a_run_of_mean_field_keeps_its_sweeps(tmp_path: Path) -> None:
    """And several networks side by side have an input for each size."""
    settings = TrainSettings(inference=InferenceName.PARALLEL_MEAN_FIELD, mean_field_sweeps=3)
    small, large = (
        Backbone(BackboneSpec("tiny", Source.SCRATCH, size), Tiny(seed=size), 128).eval()
        for size in (48, 32)
    )
    spec = BackboneSpec("tiny+tiny", Source.SCRATCH, 48)
    both = Backbone(spec, torch.nn.ModuleList([small, large]), 256, (small, large)).eval()
    plain = make_run(tmp_path / "run")
    wide = replace(plain, settings=settings, crf=widened(plain.crf, 5.0), backbone_spec=spec)
    wide = replace(wide, independent=widened(plain.independent, 5.0))
    object.__setattr__(wide, "make_backbone", lambda: both)
    report = write(wide, tmp_path / "m.onnx")
    assert report.inference == "parallel-mean-field, 3 sweeps"
    assert report.inputs == {"pixels_32": 32, "pixels_48": 48}
    assert max(report.rounding, report.largest_gap) < 1e-4


def widened(model: LabelCrf, factor: float) -> LabelCrf:
    """The same for twice as many features, of which the new ones matter more."""
    wide = LabelCrf(256, model.num_labels, edges=model.edges)
    wide.load_state_dict(
        model.state_dict()
        | {"output.weight": torch.cat([model.output.weight, factor * model.output.weight], 1)}
    )
    return wide


def test_beyond_exact_reach_the_nearer_is_taken(tmp_path: Path) -> None:
    """Candidates are both; a single one where it is asked for, and an error where none is left."""
    run = make_run(tmp_path / "run")

    def chosen(wanted: GraphInference, most: int) -> list[str]:
        return [one.name for one in choose_marginals(run, wanted, max_exact_labels=most)]

    assert chosen(GraphInference.AUTO, 6) == ["exact"]
    assert chosen(GraphInference.AUTO, 5) == ["parallel-mean-field, 50 sweeps", "bethe, 50 sweeps"]
    assert chosen(GraphInference.BETHE, 6) == ["bethe, 50 sweeps"]
    assert chosen(GraphInference.MEAN_FIELD, 6) == ["parallel-mean-field, 50 sweeps"]
    with pytest.raises(TooManyLabelsError, match=r"more than 2\*\*5 states; leave --inference out"):
        chosen(GraphInference.EXACT, 5)


def test_runs_that_cannot_be_exported(tmp_path: Path) -> None:
    """Learned through convex belief propagation, unless another method is named."""
    convex = TrainSettings(inference=InferenceName.CONVEX_BP)
    run = replace(make_run(tmp_path / "run"), settings=convex)
    with pytest.raises(RunError, match="was trained through convex belief propagation"):
        choose_marginals(run)
    assert choose_marginals(run, GraphInference.EXACT)[0].is_exact


def test_nothing_is_written_where_differences_are_too_large(
    exported: tuple[Path, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that stood there stays, and no temporary file is left."""
    content = exported[0].read_bytes()
    monkeypatch.setattr("mlcrf.export.onnx_file._trace", lambda *_: content)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(MlcrfError, match="exists already; choose another --onnx or --overwrite"):
        write(run, path)
    with pytest.raises(MlcrfError, match=r"m\.onnx: not written: .* differ by .*, more than 0;"):
        write(run, path, overwrite=True, tolerance=0.0)
    other = replace(run, crf=LabelCrf(128, 6, seed=1))
    with pytest.raises(MlcrfError, match="onnxruntime and torch differ by"):
        write(other, path, overwrite=True)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_errors_before_the_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong ending, photos of which none can be read, and packages that are missing."""
    with pytest.raises(
        MlcrfError, match=r"m\.pt: unknown ending; name the file with one of \.onnx"
    ):
        write(run, tmp_path / "m.pt")
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    for place, message in (
        (tmp_path, r"a\.jpg: cannot be read as an image"),
        (tmp_path / "b.jpg", r"b\.jpg: cannot be read as an image: No such file"),
        (tmp_path / "empty", "empty: no images found"),
    ):
        with pytest.raises(DataError, match=message):
            write(run, tmp_path / "m.onnx", images=partial(load_images, place))
    monkeypatch.setattr("mlcrf.export.onnx_file.find_spec", lambda name: None)
    with pytest.raises(MlcrfError, match=r"needs onnx, onnxscript, onnxruntime: .*'mlcrf\[onnx\]'"):
        write(run, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


class _Branching(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if bool(images.sum() > 0) else images.amax((2, 3))


def test_a_network_that_cannot_be_traced(run: Run, tmp_path: Path) -> None:
    """One line that names it."""
    odd = Backbone(run.backbone_spec, _Branching(), 3).eval()
    narrow = [LabelCrf(3, 6), LabelCrf(3, 6, edges=no_edges())]
    other = replace(run, crf=narrow[0], independent=narrow[1])
    object.__setattr__(other, "make_backbone", lambda: odd)
    with pytest.raises(BackboneError, match="backbone 'tiny': torch cannot export it to ONNX"):
        write(other, tmp_path / "m.onnx")


def test_the_run_is_left_as_it_was(run: Run) -> None:
    """Its weights can still be trained."""
    TaggerModule(run, run.make_backbone(), choose_marginals(run)[0])
    assert all(one.requires_grad for one in run.crf.parameters())
    assert np.isfinite(run.crf.pairwise.detach().numpy()).all()
