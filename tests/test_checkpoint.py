"""Run directories: what is saved is loaded, what is damaged is refused with its name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mlcrf.backbones.registry import find_spec
from mlcrf.calibration import CALIBRATION, Adjustment, Calibration, save_calibration
from mlcrf.checkpoint import CONFIG, LABELS, WEIGHTS, Run, load_run, save_run
from mlcrf.choices import Decision
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder
from mlcrf.errors import RunError
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.rules import Rules
from mlcrf.tempering import Factors


@pytest.fixture
def saved(tmp_path: Path) -> Run:
    """A run with three labels and random weights."""
    torch.manual_seed(0)
    crf = LabelCrf(8, 3, rank=2, rules=Rules(((2, 0),)))
    independent = LabelCrf(8, 3, edges=no_edges())
    for model in (crf, independent):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    path = tmp_path / "run"
    path.mkdir()
    labels = LabelSpace(("a", "b", "c"))
    run = Run(path, labels, TrainSettings(), find_spec("lite0"), "data", crf, independent, None)
    save_run(run)
    return run


def test_a_run_survives_its_files(saved: Run) -> None:
    """Labels, settings, backbone and every weight come back as they were."""
    loaded = load_run(saved.path)
    assert loaded.labels == saved.labels
    assert loaded.settings == saved.settings
    assert loaded.backbone_spec == saved.backbone_spec
    for ours, theirs in ((loaded.crf, saved.crf), (loaded.independent, saved.independent)):
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value)
    assert loaded.rules == Rules(((2, 0),))
    assert loaded.crf.rank == 2
    assert loaded.make_inference().name == "junction-tree"  # which couplings by image are for


FACTORS = Factors(1.1, 0.8)


@pytest.fixture
def adjusted(saved: Run) -> Run:
    """The run with calibration images that change its CRF."""
    saved = load_run(saved.path)
    marginals = {"crf": torch.rand(4, 3), "independent": torch.rand(4, 3)}
    decoders = (Decoder(Decision.TUNED_THRESHOLD, threshold=0.3),)
    calibration = Calibration(
        marginals,
        torch.ones(4, 3, dtype=torch.int8),
        "data",
        of_final=True,
        run=saved.weights_digest,
        adjustments={"crf": Adjustment(FACTORS, decoders)},
    )
    save_calibration(saved.path, calibration)
    return saved


def test_factors_are_part_of_the_loaded_models(adjusted: Run) -> None:
    """And so are decisions tuned with them; a run of other factors is another run."""
    loaded, learned = load_run(adjusted.path), load_run(adjusted.path, tempered=False)
    features = torch.randn(5, 8)
    wanted = learned.crf(features).scaled(FACTORS.unary, FACTORS.pairwise)
    found = loaded.crf(features)
    torch.testing.assert_close(found.unary, wanted.unary)
    torch.testing.assert_close(found.pairwise, wanted.pairwise)
    assert torch.equal(loaded.independent(features).unary, learned.independent(features).unary)
    assert loaded.factors == {"crf": FACTORS} and not learned.factors
    asked = Decoder(Decision.TUNED_THRESHOLD)
    assert loaded.make_decoder(asked).threshold == 0.3
    with pytest.raises(RunError, match="no tuned thresholds"):
        learned.make_decoder(asked)
    assert loaded.weights_digest == learned.weights_digest == learned.digest == adjusted.digest
    assert loaded.digest != learned.digest
    [about] = loaded.load_calibration().adjustments.values()
    assert about.factors == FACTORS


def test_saving_a_run_keeps_its_factors(adjusted: Run, tmp_path: Path) -> None:
    """They become part of the weights, once."""
    loaded = load_run(adjusted.path)
    (tmp_path / "copy").mkdir()
    copy = save_run(replace(loaded, path=tmp_path / "copy"))
    again = load_run(copy.path)
    assert torch.equal(again.crf.pairwise, loaded.crf.pairwise)
    assert not again.factors and again.digest == copy.digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no", "damaged"),
        (b"0.8", "other weights"),
        (b'"unary": -1.1', "damaged"),
        (b'"unary": "a"', "damaged"),
        (b'"rule": "what"', "damaged"),
    ],
)
def test_damaged_factors_are_refused(adjusted: Run, content: bytes, reason: str) -> None:
    """In one line that says how to make them again; the run as it was learned can be loaded."""
    path = adjusted.path / CALIBRATION
    whole = path.read_bytes()
    if content == b"0.8":
        whole = whole.replace(adjusted.weights_digest.encode(), b"0" * 64)
    elif content == b"no":
        whole = content
    else:
        header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        about = header["__metadata__"]["about"]
        key, value = content.decode().split(": ")
        start = about.index(key)
        end = min(at for at in (about.find(",", start), about.find("}", start)) if at > 0)
        header["__metadata__"]["about"] = about[:start] + f"{key}: {value}" + about[end:]
        text = json.dumps(header).encode()
        rest = whole[8 + int.from_bytes(whole[:8], "little") :]
        whole = len(text).to_bytes(8, "little") + text + rest
    path.write_bytes(whole)
    with pytest.raises(RunError, match=reason) as error:
        load_run(adjusted.path)
    assert CALIBRATION in str(error.value) and "mlcrf calibrate" in str(error.value)
    assert "\n" not in str(error.value)
    assert load_run(adjusted.path, tempered=False).digest == adjusted.digest


@pytest.mark.parametrize("part", ["gates.weight", "factors"])
def test_gates_without_factors_are_refused(saved: Run, part: str) -> None:
    """Half of what makes couplings vary is not taken for a model."""
    tensors = load_file(saved.path / WEIGHTS)
    del tensors[f"crf.{part}"]
    save_file(tensors, saved.path / WEIGHTS)
    with pytest.raises(RunError, match="does not fit"):
        load_run(saved.path)


@pytest.mark.parametrize("name", [CONFIG, LABELS, WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x80\x04garbage\x00\xff", b"[1, 2]"])
def test_a_damaged_file_is_named(saved: Run, name: str, content: bytes | None) -> None:
    """A file that is missing, empty or something else ends in a RunError that names it."""
    if content is None:
        (saved.path / name).unlink()
    else:
        (saved.path / name).write_bytes(content)
    with pytest.raises(RunError, match=name):
        load_run(saved.path)


def test_truncated_weights_are_refused(saved: Run) -> None:
    """Weights cut at any of ten places are refused."""
    whole = (saved.path / WEIGHTS).read_bytes()
    for part in range(10):
        (saved.path / WEIGHTS).write_bytes(whole[: len(whole) * part // 10])
        with pytest.raises(RunError, match=WEIGHTS):
            load_run(saved.path)


@pytest.mark.parametrize("names", ["b\na\nc\n", "a\nb\nC\n", "a\nb\n", "a\nb\nc\nd\n"])
def test_labels_that_were_edited_are_refused(saved: Run, names: str) -> None:
    """Labels in another order, renamed, left out or added are not those of the weights."""
    (saved.path / LABELS).write_text(names)
    with pytest.raises(RunError, match=rf"{LABELS}: not the labels that the run was trained with"):
        load_run(saved.path)


def test_line_ends_of_labels_do_not_matter(saved: Run) -> None:
    """A file that an editor saved with other line ends has the same labels."""
    (saved.path / LABELS).write_bytes(b"\xef\xbb\xbfa\r\nb\r\nc\r\n")
    assert load_run(saved.path).labels == saved.labels


def test_weights_of_other_labels_are_refused(saved: Run) -> None:
    """Weights of another run with one label less are noticed."""
    crf, independent = LabelCrf(8, 2), LabelCrf(8, 2, edges=no_edges())
    other = replace(saved, crf=crf, independent=independent)
    save_run(other)
    with pytest.raises(RunError, match="does not fit"):
        load_run(saved.path)


def test_weights_that_are_no_numbers_are_refused(saved: Run) -> None:
    """A NaN among the couplings is not used."""
    with torch.no_grad():
        saved.crf.pairwise[0] = float("nan")
    save_run(saved)
    with pytest.raises(RunError, match="NaN"):
        load_run(saved.path)


def test_settings_of_another_version_are_refused(saved: Run) -> None:
    """An unknown format number is not guessed at."""
    config = json.loads((saved.path / CONFIG).read_text())
    (saved.path / CONFIG).write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(RunError, match="format 1"):
        load_run(saved.path)


def test_no_such_directory(tmp_path: Path) -> None:
    """The message says how to make one."""
    with pytest.raises(RunError, match="mlcrf train"):
        load_run(tmp_path / "none")
