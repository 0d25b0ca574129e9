"""On Ray, really started: the rows of the same command without it."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from mlcrf.backbones.extractor import count_cores
from tests.cluster.conftest import BROKEN, working
from tests.program import Program, run_program
from tests.stores.conftest import S3Bucket


def _without_progress(stderr: str) -> str:
    """Return what was told, without the lines that only a slow machine gets."""
    return "".join(line for line in stderr.splitlines(True) if not line.startswith("images: "))


def test_each_photo_once_though_a_worker_dies(
    small_run: Path, photos: Path, tmp_path: Path
) -> None:
    """Killed in the midst of a chunk; the tables and words of the same command without Ray.

    Names are relative to a folder that workers are not in at first.
    """
    words = ["predict", photos.name, "--model", small_run, "--engine", "torch", "--given", "sky=1"]
    words += ["--at-most", 2, "--cache-dir", tmp_path / "cache", "--out"]
    plain = run_program(*words, tmp_path / "plain.csv", cwd=photos.parent)
    more = ("--cluster", "ray", "--workers", min(2, count_cores()))
    program = Program(*words, tmp_path / "ray.csv", *more, cwd=photos.parent)
    process = wait_for_work(program)
    os.kill(process, signal.SIGKILL)
    ray = program.end()
    assert ray.returncode == plain.returncode == 0, ray.stderr
    assert ray.stdout == plain.stdout.replace("/plain.", "/ray.")
    assert _without_progress(ray.stderr) == _without_progress(plain.stderr).replace(
        "/plain.", "/ray."
    )
    assert ray.stdout.startswith("1096 photos tagged")
    errors = [(tmp_path / f"{name}.errors.csv").read_bytes() for name in ("plain", "ray")]
    assert errors[0] == errors[1] and errors[0].count(b"\n") == 1 + len(BROKEN)
    same_rows(tmp_path / "plain.csv", tmp_path / "ray.csv")


def test_a_running_cluster_and_an_object_store(
    small_run: Path,
    photos: Path,
    head: tuple[str, dict[str, str]],
    bucket: S3Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reached from outside; workers fetch photos themselves, and the table is sent to the store."""
    address, token = head
    for name, value in token.items():
        monkeypatch.setenv(name, value)
    place = bucket.upload(photos / "0", limit=300)
    words = ["predict", place, "--model", small_run, "--engine", "torch", "--out"]
    plain = run_program(*words, tmp_path / "plain.csv")
    ray = run_program(*words, f"{bucket.url}/out/tags.csv", "--cluster", address)
    assert ray.returncode == plain.returncode == 0, ray.stderr
    (tmp_path / "ray.csv").write_bytes(bucket.read("out/tags.csv"))
    same_rows(tmp_path / "plain.csv", tmp_path / "ray.csv")
    assert bucket.read("out/tags.errors.csv") == (tmp_path / "plain.errors.csv").read_bytes()
    told = [_without_progress(one.stderr) for one in (ray, plain)]
    assert told[0] == told[1] and told[0].count("error: s3://") == 3


def test_control_c_leaves_nothing_half_done(
    small_run: Path, photos: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No table, no temporary file, and no process of Ray that we started; only whole parts.

    The worker is halted before, or the work could be done before the signal is heard.
    """
    out, many = tmp_path / "tags.csv", tmp_path_factory.mktemp("many")
    for number in range(8):
        shutil.copytree(photos, many / str(number), copy_function=os.link)
    words = ["predict", many, "--model", small_run, "--out", out, "--cluster", "ray"]
    words += ["--workers", 1]
    program = Program(*words)
    process = wait_for_work(program)
    os.kill(process, signal.SIGSTOP)
    program.send(signal.SIGINT)
    result = program.end()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
    assert "Traceback" not in result.stderr
    while Path(f"/proc/{process}").exists():  # Ray ends its workers a moment after us
        time.sleep(0.05)
    assert result.returncode == 130
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.parent == tmp_path / "tags.parts" for path in left)
    assert all(path.match("part-*.parquet") for path in left)


def test_the_same_command_goes_on(small_run: Path, photos: Path, tmp_path: Path) -> None:
    """Parts that are there are not made again, others are; then they are gone."""
    table, parts = tmp_path / "tags.csv", tmp_path / "tags.parts"
    words = ["predict", photos, "--model", small_run, "--engine", "torch", "--out", table]
    words += ["--cluster", "ray", "--workers", 1, "--cache-dir", tmp_path / "cache"]
    program = Program(*words)
    end = time.monotonic() + 200
    while time.monotonic() < end and not list(parts.glob("part-*")):
        time.sleep(0.01)
    program.send(signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.end()
    made = {path: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert made and not table.exists()
    stale = parts / "part-00001-of-00099.parquet"
    stale.write_bytes(b"of another listing")
    damaged = parts / "part-00005-of-00005.parquet"
    damaged.write_bytes(b"damaged")
    again = Program(*words)
    seen = dict[Path, int]()
    while again.process_id is not None:
        with contextlib.suppress(OSError):
            seen |= {path: path.stat().st_mtime_ns for path in parts.glob("part-*")}
        time.sleep(0.02)
    done = again.end()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1096 photos tagged")
    assert made.items() <= seen.items(), "they were not made again"
    assert not parts.exists()
    assert len(pd.read_csv(table)) == 1096


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--cluster", "spark"], 1, "--cluster spark: expected ray, ray://auto or ray://HOST"),
        (["--cluster", "ray://:1"], 1, "expected ray, ray://auto or ray://HOST:PORT"),
        (["--cluster", "ray://127.0.0.1:9"], 1, "cannot connect to Ray at ray://127.0.0.1:9: "),
        (["--cluster", "ray", "--shard", "1/2"], 2, "--shard cannot be used with --cluster"),
        (["--cluster", "ray", "--known-keywords"], 2, "--known-keywords cannot be used with"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], status: int, said: str, small_run: Path, photos: Path, tmp_path: Path
) -> None:
    """In one line, with nothing written."""
    out = tmp_path / "out" / "tags.csv"
    result = run_program("predict", photos, "--model", small_run, "--out", out, *words)
    assert result.returncode == status and said in result.stderr
    assert "Traceback" not in result.stderr
    assert status == 2 or result.stderr.count("\n") == 1
    assert not out.exists() and not list(tmp_path.glob("out/*"))


def wait_for_work(program: Program) -> int:
    """A process that works on a chunk now."""
    while (root := program.process_id) is not None:  # Ray takes its time
        if found := working(root):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(program.end(1).stderr)


def same_rows(plain: Path, ray: Path) -> None:
    """The same photos in the same order, with the same labels and probabilities."""
    pd.testing.assert_frame_equal(pd.read_csv(plain), pd.read_csv(ray), atol=2e-6, rtol=0)
