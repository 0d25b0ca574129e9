"""A disk that fills at any point: the old file stands, one line names the path, nothing is left."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mlcrf.errors import DatabaseError
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.synthetic.dataset import make_dataset
from tests.program import run_program
from tests.reliability.scale import at_length, times
from tests.review.conftest import new_request

_SIZE_KB = 8192


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_SIZE_KB}k", "none", str(place)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    if not may or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("may not mount a tmpfs here; run as root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes and a run on them."""
    folder = tmp_path_factory.mktemp("drawn")
    table = make_dataset(folder / "data", seed=0, num_images=120)
    options = ["--backbone", "tiny", "--finetune", "all", "--epochs", "1", "--engine", "torch"]
    done = run_program(
        "train", table, "--out", folder / "run", *options, "--cache-dir", folder / "kept"
    )
    assert done.returncode == 0, done.stderr
    return folder


def fill(disk: Path, left_kb: int) -> Path:
    """A file that leaves so much."""
    free = shutil.disk_usage(disk).free - 1024 * left_kb
    filler = disk / "filler"
    with filler.open("wb") as stream:
        stream.truncate(0)
        os.posix_fallocate(stream.fileno(), 0, max(free, 1))
    return filler


def predict(ending: str) -> Callable[[Path, Path], list[object]]:
    def words(drawn: Path, disk: Path) -> list[object]:
        out = disk / f"tags.{ending}"
        kept = ["--cache-dir", drawn / "kept", "--overwrite"]
        return ["predict", drawn / "data", "--model", drawn / "run", "--out", out, *kept]

    return words


def sidecars(drawn: Path, disk: Path) -> list[object]:
    kept = ["--cache-dir", drawn / "kept", "--strict", "--sidecar-dir", disk]
    return ["tag", drawn / "data", "--model", drawn / "run", "--xmp", "--txt", *kept]


def report(drawn: Path, disk: Path) -> list[object]:
    table = drawn / "data" / "labels.csv"
    kept = ["--cache-dir", drawn / "kept", "--resamples", 5, "--overwrite"]
    return ["report", drawn / "run", table, "--out", disk / "report.html", *kept]


def heatmap(drawn: Path, disk: Path) -> list[object]:
    return ["plot-correlations", drawn / "run", "--out", disk / "heatmap.png"]


def features(drawn: Path, disk: Path) -> list[object]:
    out = ["--out", drawn / "elsewhere.csv", "--overwrite", "--engine", "torch"]
    return ["predict", drawn / "data", "--model", drawn / "run", *out, "--cache-dir", disk]


def training(drawn: Path, disk: Path) -> list[object]:
    table = drawn / "data" / "labels.csv"
    options = ["--backbone", "tiny", "--finetune", "all", "--epochs", "1", "--engine", "torch"]
    kept = ["--cache-dir", drawn / "kept", "--resume"]
    return ["train", table, "--out", disk / "run", *options, *kept]


WRITERS = {
    "csv": predict("csv"),
    "jsonl": predict("jsonl"),
    "parquet": predict("parquet"),
    "sidecars": sidecars,
    "report": report,
    "heatmap": heatmap,
    "features": features,
    "training": training,
}


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "name", [one if one == "csv" else pytest.param(one, marks=at_length) for one in WRITERS]
)
def test_a_disk_that_fills(name: str, drawn: Path, disk: Path) -> None:
    """With room for a part of what is written only; then with room enough."""
    rng = np.random.default_rng(0)
    words = WRITERS[name](drawn, disk)
    for trial in range(times(30)):
        old = {}
        # of sidecars those that are as they should be are not written again
        if trial % 2 and name not in ("features", "training", "sidecars"):
            assert run_program(*words).returncode == 0
            old = contents(disk)
        filler = fill(disk, int(rng.integers(0, 24)))
        done = run_program(*words)
        errors = done.stderr.split("error: ")[1:]  # one goes on in further lines if nothing worked
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert errors and all(str(disk) in one for one in errors), done.stderr
        assert old.items() <= contents(disk).items(), "what was there stands"
        filler.unlink()
        again = run_program(*words)
        assert again.returncode == 0, again.stderr
        assert list(disk.rglob("*.part")) == []
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def contents(disk: Path) -> dict[str, bytes]:
    files = (path for path in disk.rglob("*") if path.is_file() and path.name != "filler")
    return {str(path.relative_to(disk)): path.read_bytes() for path in files}


@pytest.mark.timeout(0)
def test_a_database_on_a_disk_that_fills(disk: Path) -> None:
    """An answer is in the database, or refused in one line; those before it stay."""
    rng = np.random.default_rng(0)
    for trial in range(max(times(30), 3)):
        file = disk / f"{trial}.db"
        database = ReviewDatabase(str(file))
        (photo,), _ = database.register("/photos", [Stamped("1.jpg", "1", "0" * 64)])
        filler = fill(disk, int(rng.integers(0, 64)))
        kept = 0
        with pytest.raises(DatabaseError) as caught:
            for _ in range(10_000):
                database.add(photo, {"sea": kept % 2}, "anna", new_request())
                kept += 1
        assert str(file) in str(caught.value) and len(str(caught.value).splitlines()) == 1
        assert [one.value for one in database.since(0)] == [at % 2 for at in range(kept)]
        filler.unlink()
        database.add(photo, {"sky": 1}, "anna", new_request())
        database.close()
        again = ReviewDatabase(str(file))
        assert [one.label for one in again.since(0)] == ["sea"] * kept + ["sky"]
        again.close()
        file.unlink()
