"""The service as a process: it says where it is, answers, and ends once its answers are given."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from mlcrf.cli import app
from mlcrf.errors import MlcrfError
from mlcrf.prediction import Tagger


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_beginning_to_end(
    small_run: Path, photos: list[Path], tagger: Tagger, number: signal.Signals
) -> None:
    """Forty requests at once, each answered; whoever is on the way when it ends is answered too."""
    words = ["serve", small_run, "--port", "0", "--engine", "torch", "--batch", "8"]
    command = [sys.executable, "-m", "mlcrf", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        home = process.stdout.readline().strip()
        assert home.startswith("http://127.0.0.1:"), process.stderr.read()

        def ask(at: int) -> httpx.Response:
            content = photos[at % len(photos)].read_bytes()
            headers = {"Content-Type": "image/png"}
            return httpx.post(f"{home}/tags/image", content=content, headers=headers, timeout=600)

        wanted = [one.labels for one in tagger.predict(photos)]
        with ThreadPoolExecutor(8) as pool:
            for at, reply in enumerate(pool.map(ask, range(40))):
                assert tuple(reply.raise_for_status().json()["labels"]) == wanted[at % len(photos)]
        counts = httpx.get(f"{home}/metrics").text
        assert 'mlcrf_images_total{as="tagged"} 40.0' in counts
        process.send_signal(number)
        assert process.wait(timeout=600) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served(small_run: Path, tmp_path: Path) -> None:
    """One line: a port that is taken, a run that is not there."""
    runner = CliRunner()
    result = runner.invoke(app, ["serve", str(tmp_path / "none")])
    assert isinstance(result.exception, MlcrfError) and "no such run" in str(result.exception)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = runner.invoke(app, ["serve", str(small_run), "--engine", "torch", "--port", port])
    assert isinstance(result.exception, MlcrfError)
    assert f"--port {port}: cannot listen: Address already in use" in str(result.exception)
