"""A training run that is killed, terminated or interrupted goes on to the same bits."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcrf.synthetic.dataset import make_dataset
from tests.program import Program
from tests.reliability.scale import at_length, times

OPTIONS = {
    "features": ["--backbone", "lite0", "--set", "penalties=[0.3]"],
    "finetune": ["--backbone", "tiny", "--finetune", "all", "--epochs", "4"],
}
COMMON = [
    "--set",
    "pairwise_penalties=[0.01]",
    "--set",
    "structure_weights=[1]",
    "--set",
    "schedule=joint",
    "--engine",
    "torch",
]
_LONGEST_S = 600


@dataclass
class Training:
    """`mlcrf train` on drawn scenes, as processes."""

    table: Path
    out: Path
    cache: Path
    options: list[str]

    def start(self, cores: Set[int] = frozenset()) -> Program:
        """Begin or go on; as many threads decode as it has cores."""
        words = ["train", self.table, "--out", self.out, "--resume", *self.options]
        return Program(*words, "--cache-dir", self.cache, cores=cores)

    def finish(self) -> None:
        done = self.start().end(_LONGEST_S)
        assert done.returncode == 0, done.stderr

    def result(self) -> tuple[dict[str, bytes], Any]:
        """Weights and what was measured, but for times; and no temporary file is there."""
        assert list(self.out.rglob("*.part")) == []
        record = json.loads((self.out / "metrics.json").read_text())
        del record["seconds"]
        weights = {one.name: one.read_bytes() for one in self.out.glob("*.safetensors")}
        return weights, _without_times(record)


@dataclass(frozen=True)
class Undisturbed:
    """Options of a training run, how long it takes, and how it ends when nobody disturbs it."""

    table: Path
    options: list[str]
    seconds: float
    result: Any

    def trials(self, full: int, folder: Path) -> Iterator[tuple[Training, np.random.Generator]]:
        """Runs to disturb, so many in full; once one is, it is finished and has to be the same."""
        for trial in range(times(full)):
            place = folder / str(trial)
            training = Training(self.table, place / "run", place / "cache", self.options)
            yield training, np.random.default_rng(trial)
            training.finish()
            assert training.result() == self.result, f"trial {trial}"


def _without_times(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _without_times(one) for key, one in record.items() if key != "seconds"}
    return record


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("drawn") / "data", seed=0, num_images=150)


@pytest.fixture(scope="module", params=["finetune", pytest.param("features", marks=at_length)])
def undisturbed(
    request: pytest.FixtureRequest, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    options = [*OPTIONS[request.param], *COMMON]
    training = Training(table, folder / "run", folder / "cache", options)
    began = time.monotonic()
    training.finish()
    return Undisturbed(table, options, time.monotonic() - began, training.result())


def at_random(longest_s: float, rng: np.random.Generator) -> Callable[[Path], None]:
    delay = float(rng.uniform(1, longest_s))
    return lambda _: time.sleep(delay)


def inside_saving(longest_s: float, rng: np.random.Generator) -> Callable[[Path], None]:
    """Wait for one of the moments at which a file is being written."""
    wanted = int(rng.integers(1, 6))

    def wait(out: Path) -> None:
        seen: set[str] = set()
        end = time.monotonic() + longest_s
        while len(seen) < wanted and time.monotonic() < end:
            seen |= {one.name for one in out.glob(".mlcrf-*.part")} if out.is_dir() else set()

    return wait


@pytest.mark.timeout(0)
@pytest.mark.parametrize("moment", [inside_saving, pytest.param(at_random, marks=at_length)])
def test_killed_it_goes_on_to_the_same_bits(
    undisturbed: Undisturbed,
    tmp_path: Path,
    moment: Callable[[float, np.random.Generator], Callable[[Path], None]],
) -> None:
    """Killed once to three times, at random or while a file is written, then left to its end.

    Each time with another number of threads that decode.
    """
    for training, rng in undisturbed.trials(50, tmp_path):
        for _ in range(int(rng.integers(1, 4))):
            cores = rng.permutation(sorted(os.sched_getaffinity(0)))[: int(rng.integers(1, 3))]
            process = training.start(set(cores.tolist()))
            moment(undisturbed.seconds, rng)(training.out)
            process.send(signal.SIGKILL)
            process.end(_LONGEST_S)


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("number", "twice"),
    [
        pytest.param(signal.SIGINT, False, marks=at_length),
        pytest.param(signal.SIGINT, True, marks=at_length),
        (signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, marks=at_length),
    ],
)
def test_stopped_it_loses_nothing(
    undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals, twice: bool
) -> None:
    """It ends soon, with the signal's status, and goes on to the same bits."""
    for training, rng in undisturbed.trials(13, tmp_path):
        process = training.start()
        at_random(undisturbed.seconds, rng)(training.out)
        for _ in range(1 + twice):
            process.send(number)
        done = process.end(_LONGEST_S)
        assert done.returncode in (128 + number, 0), done.stderr
        assert "Traceback" not in done.stderr
