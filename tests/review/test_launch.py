"""The program as it runs: its address, its end by every signal, and what is missing."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from mlcrf.cli import app, console
from mlcrf.errors import MlcrfError
from mlcrf.review.database import ReviewDatabase
from tests.review.conftest import LABELS, make_folder, new_request

Server = tuple["subprocess.Popen[str]", str]


@contextmanager
def serving(folder: Path, run: Path, db: str) -> Iterator[Callable[[], Server]]:
    """The program on a free port; what is called waits for it, and gives its address too."""
    command = [sys.executable, "-m", "mlcrf", "review", folder, "--model", run, "--db", db]
    command += ["--engine", "torch", "--person", "anna", "--no-browser"]
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait() -> Server:
        assert process.stdout is not None and process.stderr is not None
        first, address = process.stdout.readline(), process.stdout.readline().strip()
        assert address.startswith("http://"), first + process.stderr.read()
        return process, address

    try:
        yield wait
    finally:
        process.kill()
        process.communicate()


def answer(address: str, label: str) -> None:
    """As the page does it; returns once the server has said that it is kept."""
    home = re.sub(r"/\?token=.*", "", address)
    with httpx.Client(base_url=home, follow_redirects=True, timeout=600) as client:
        assert client.get(address).status_code == 200
        assert client.get("/health").json()["status"] == "ok"
        content = {"person": "anna", "request": new_request(), "label": label, "value": 1}
        reply = client.post("/api/photos/1/answer", json=content, headers={"Origin": home})
        assert reply.status_code == 200, reply.text


def kept(db: str) -> int:
    database = ReviewDatabase(db)
    try:
        return len(list(database.since(0)))
    finally:
        database.close()


def test_nothing_is_lost_however_it_ends(small_run: Path, tmp_path: Path) -> None:
    """Killed, stopped by Ctrl-C, asked to end: every answer that was confirmed is there."""
    folder = make_folder(tmp_path / "photos", ["a.png", "b.png"])
    ends = ((signal.SIGKILL, -9), (signal.SIGINT, 0), (signal.SIGTERM, 0))
    dbs = [f"sqlite:///{tmp_path / end.name}.db" for end, _ in ends]
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(folder, small_run, db)) for db in dbs]
        for (end, status), db, server in zip(ends, dbs, servers, strict=True):
            process, address = server()
            answer(address, LABELS[1])
            process.send_signal(end)
            _, errors = process.communicate(timeout=600)
            assert process.returncode == status, errors
            assert "Traceback" not in errors
            if status == 0:
                assert f"answers are in {db}" in errors
            assert kept(db) == 1
    # a log beside the database is left by none, since the kill's was cleared when it was read
    assert len(list(tmp_path.glob("*.db*"))) == len(ends)


def test_a_port_that_is_taken(small_run: Path, tmp_path: Path) -> None:
    """One line, status 1, naming the port."""
    folder = make_folder(tmp_path / "photos", ["a.png"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["review", folder, "--model", small_run, "--db", tmp_path / "tags.db"]
        command += ["--engine", "torch", "--cache-dir", tmp_path / "c", "--port", port]
        result = CliRunner().invoke(app, list(map(str, command)))
    assert isinstance(result.exception, MlcrfError)
    assert f"--port {port}: cannot listen: Address already in use" in str(result.exception)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, one line that says how to get it."""
    console.require_extra("review", "json")
    with pytest.raises(MlcrfError, match=r"needs no_such, not installed.*'mlcrf\[review\]'"):
        console.require_extra("review", "json", "no_such")
