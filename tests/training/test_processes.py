"""Several processes, started by torchrun, that train as one."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from mlcrf.backbones.feature_matrix import map_shards, shard_path, write_shard
from mlcrf.cli import main
from mlcrf.errors import DataError, SettingsError
from mlcrf.processes import Processes, joined
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training.features import FeatureSpace
from mlcrf.training.stepping import SharedBatchNorm, one_cycle, share_batch_norm
from tests.program import Program, run_program

_ROOT = Path(__file__).parents[2]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("drawn") / "data", seed=0, num_images=60)


@pytest.fixture(scope="module")
def records(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What `steps_of_many.py` gives on one and on four processes; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "records"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "4" / "record.json").exists():
            module = "tests.training.steps_of_many"
            one = Program(table, folder / "1", module=module, cwd=_ROOT)
            words = [*_TORCHRUN, "4", "-m", module, table, folder / "4"]
            many = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
            for done in (one.end(), many):
                assert done.returncode == 0, done.stderr
    found = {size: json.loads((folder / str(size) / "record.json").read_text()) for size in (1, 4)}
    assert all(record["size"] == size for size, record in found.items())
    return found


@pytest.mark.parametrize("part", ["frozen", "trained"])
@pytest.mark.parametrize(
    "objective", ["exact-likelihood", "pseudo-likelihood", "contrastive-divergence"]
)
def test_the_same_first_steps(records: dict[int, Any], part: str, objective: str) -> None:
    one, many = (records[size][part][objective] for size in (1, 4))
    steps = min(len(one), len(many), 30)  # a fit may converge, later steps meet rounding alone
    assert steps >= 8
    np.testing.assert_allclose(many[:steps], one[:steps], rtol=1e-6)
    assert part == "frozen" or min(one[::2]) < 0.95 * one[0], "something was learned"


def test_a_batch_in_parts(records: dict[int, Any]) -> None:
    np.testing.assert_allclose(records[4]["accumulated"], records[1]["accumulated"], rtol=1e-6)
    whole = records[1]["trained"]["pseudo-likelihood"]
    assert records[1]["accumulated"] != whole, "batch normalisation saw parts"


def test_all_take_the_last_stage_of_the_first(records: dict[int, Any]) -> None:
    """Whatever others learned, all have its weights and judge them alike."""
    one, many = (records[size]["last"] for size in (1, 4))
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-2)
    assert len(many["digests"]) == 4 and len(set(many["digests"])) == 1
    assert len(set(many["gains"])) == 1


@pytest.mark.parametrize("size", [1, 4])
def test_features_of_all_in_each(records: dict[int, Any], size: int) -> None:
    first, found = records[1]["extracted"], records[size]["extracted"]
    assert np.shape(found["held"]) == (21, 128)
    np.testing.assert_allclose(found["held"], first["held"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["mapped"], first["held"], rtol=1e-5, atol=1e-6)
    assert "none-1.jpg" in found["said"] and "none-2.jpg" in found["said"]


def test_killed_all_end_in_one_line_and_one_goes_on(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = [
        *("--backbone", "tiny", "--finetune", "all", "--epochs", "10", "--engine", "torch"),
        *(
            "--set",
            "penalties=[0.3]",
            "--set",
            "pairwise_penalties=[0.01]",
            *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
            "--set",
            "batch_size=9",
        ),
        *("--cache-dir", str(tmp_path / "cache")),
    ]
    words = [*_TORCHRUN, "2", "-m", "mlcrf", "train", table, "--out", out, *settings]
    with subprocess.Popen(words, cwd=_ROOT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = ""
        while "epoch 2 of 10" not in said:
            line = running.stderr.readline()
            assert line, said
            said += line
        os.kill(_process_of_rank(running.pid, 1), signal.SIGKILL)
        said += running.stderr.read()
        assert running.wait(600) == 1
    ours = [line for line in said.splitlines() if re.match("error: |stopped; ", line)]
    assert len(ours) == 1 and "--resume" in ours[0], said
    assert not (out / "best.safetensors").exists()
    done = run_program("train", table, "--out", out, "--resume", *settings)
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of" not in done.stderr and "epoch 10 of 10" in done.stderr
    assert len((out / "results.csv").read_text().splitlines()) == 11
    assert load_file(out / "best.safetensors")


def _process_of_rank(parent: int, rank: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    environments = {
        int(child): Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children
    }
    return next(one for one, told in environments.items() if f"RANK={rank}".encode() in told)


def test_bad_input_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("image,sky\nnone.jpg,1\n")
    words = [
        *_TORCHRUN,
        "2",
        "-m",
        "mlcrf",
        "train",
        tmp_path / "bad.csv",
        "--out",
        tmp_path / "run",
    ]
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(re.findall("^error: .*none.jpg", done.stderr, re.M)) == 1, done.stderr


def test_half_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said = "MASTER_ADDR is not set; start with torchrun"
    with pytest.raises(SettingsError, match=said), joined(torch.device("cpu")):
        pass


def test_a_signal_past_the_command_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is told to end as its error is on the way out says so; a second does not."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**told, "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)

    def stopped() -> None:
        raise SystemExit(143)

    monkeypatch.setattr("mlcrf.cli.app", stopped)
    monkeypatch.setattr("mlcrf.cli.stopping", nullcontext)
    for _ in range(2):
        with pytest.raises(SystemExit, match="143"):
            main()
    assert capsys.readouterr().err == "stopped; run the same command with --resume to continue\n"
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit, match="143"):
        main()
    assert capsys.readouterr().err == "", "the command has said it"


def test_shares_and_blocks() -> None:
    for count in (0, 1, 7, 4096, 10_000):
        for size in (1, 2, 3, 8):
            group = [Processes(rank, size) for rank in range(size)]
            rows = [row for one in group for row in range(*one.shard(count).indices(count))]
            assert rows == list(range(count))
            blocks = [block for one in group for block in one.blocks(count, 256)]
            assert blocks == Processes().blocks(count, 256)


def test_batch_normalisation_that_is_not_shared_is_torchs() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    maps = torch.randn(4, 3, 5, 5)
    expected = torch.nn.BatchNorm2d(3)(maps)
    share_batch_norm(network)
    assert isinstance(network[0], SharedBatchNorm)
    network[0].is_shared = False
    assert torch.equal(network(maps), expected)
    assert list(network.state_dict()) == [
        f"0.{name}" for name in torch.nn.BatchNorm2d(3).state_dict()
    ]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A matrix that is in `tmp_path` in shards too."""
    monkeypatch.setattr("mlcrf.backbones.feature_matrix.SHARD_ROWS", 100)
    whole = np.random.default_rng(0).normal(size=(1030, 6)).astype(np.float32)
    for number in range(11):
        part = whole[100 * number :][:100]
        write_shard(shard_path(tmp_path, number), [part[:7], part[7:]], part.shape)
    return whole


def test_a_mapped_matrix_is_like_one_in_memory(shards: np.ndarray, tmp_path: Path) -> None:
    mapped = map_shards(tmp_path, 1030, 6)
    assert mapped.shape == (1030, 6) and len(mapped) == 1030
    for rows in (slice(0, 1030), slice(95, 305), slice(100, 200), slice(7, 7), slice(1000, None)):
        np.testing.assert_array_equal(np.asarray(mapped[rows]), shards[rows])
        np.testing.assert_array_equal(np.asarray(mapped[50:900][rows]), shards[50:900][rows])
    both = mapped[900:] + mapped[:50]
    np.testing.assert_array_equal(np.asarray(both), np.concatenate([shards[900:], shards[:50]]))


def test_mapped_features_are_fitted_the_same(shards: np.ndarray, tmp_path: Path) -> None:
    mapped = map_shards(tmp_path, 1030, 6)
    targets = (shards[:, :2] > 0).astype(np.int8)
    held = FeatureSpace(shards, targets)
    from_files = FeatureSpace(mapped, targets, folder=tmp_path)
    assert torch.equal(held.rotated, from_files.rotated)
    for rows in from_files.blocks():
        assert torch.equal(held.inputs(rows), from_files.inputs(rows))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy"] * 11, "no more files"


def test_a_shard_that_is_damaged(shards: np.ndarray, tmp_path: Path) -> None:
    path = shard_path(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"000003\.npy: cannot be used: .*; delete it"):
        map_shards(tmp_path, 1030, 6)
    path.unlink()
    with pytest.raises(DataError, match=r"000003\.npy: cannot be used"):
        map_shards(tmp_path, 1030, 6)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 19, 20, 30, 100])
def test_a_schedule_of_any_length(steps: int) -> None:
    """Torch's own divides by zero where a tenth of the steps is one."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = one_cycle(optimiser, 0.5, steps)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimiser.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) <= 0.5 and all(np.isfinite(rates))
    assert steps < 10 or max(rates) > 0.4
