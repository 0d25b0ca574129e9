"""Ray on this machine, and photos of which some are broken."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs mlcrf[ray]")
pytest.importorskip("grpc", reason="needs mlcrf[ray]")

from tests.review.conftest import make_folder, small_run
from tests.stores.conftest import S3Bucket, bucket

__all__ = ["bucket", "small_run"]

BROKEN = frozenset({3, 255, 256, 700})


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,100 photos in three folders; links to twelve, but for four that are cut off."""
    folder = tmp_path_factory.mktemp("photos")
    few = make_folder(folder / "few", [f"{at}.png" for at in range(12)])
    whole = folder / "all"
    for at in range(1100):
        place = whole / f"{at // 400}" / f"{at:04d} ü.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        original = few / f"{at % 12}.png"
        if at in BROKEN:
            place.write_bytes(original.read_bytes()[:60])
        else:
            os.link(original, place)
    return whole


@pytest.fixture
def head(
    bucket: S3Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster of one machine with two cores, and the variables it asks for.

    What its workers find the bucket by is known to it.
    """
    gcs, client = (_free_port() for _ in range(2))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}
    folder = tmp_path_factory.mktemp("ray")
    short = Path(f"/tmp/mlcrf-{os.getpid()}")  # names of sockets must not be long
    short.symlink_to(folder)
    words = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    words += [f"--port={gcs}", f"--ray-client-server-port={client}", f"--temp-dir={short}"]
    words += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    env = (
        os.environ
        | bucket.variables
        | token
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )
    env["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # with it the server for clients sometimes dies at a fork
    program = Path(sys.executable).with_name("ray")
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen([program, *words], env=env, stdout=log, stderr=log)
    try:
        _wait_for(client, process)
        yield f"ray://127.0.0.1:{client}", token
    finally:
        for one in (process.pid, *below(process.pid)):  # at once; there is nothing to put away
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.wait()
        short.unlink()


def below(root: int) -> list[int]:
    """Return the processes that one has started, and that these have started in turn."""
    found: list[int] = []
    for thread in Path(f"/proc/{root}/task").glob("*"):
        with suppress(OSError):  # it has just ended
            found += map(int, (thread / "children").read_text().split())
    return found + [deeper for one in found for deeper in below(one)]


def working(root: int) -> list[int]:
    """Return Ray's processes below one that work on a part now."""
    names = {}
    for process in below(root):
        with suppress(OSError):
            names[process] = Path(f"/proc/{process}/cmdline").read_bytes()
    return [process for process, name in names.items() if name.startswith(b"ray::Worker.tag")]


def _free_port() -> int:
    """Above those that Ray gives to its workers."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port: int = found.getsockname()[1]
        if port > 20_000:
            return port


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("Ray did not start")
