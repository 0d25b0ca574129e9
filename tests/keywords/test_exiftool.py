"""The process of exiftool: its answers, its time limit, and its end."""

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlcrf.errors import SettingsError
from mlcrf.keywords.exiftool import ExifTool, ExifToolError

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)


def pretend(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name that does something else."""
    program = folder / "exiftool"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@needs_exiftool
def test_answers_belong_to_their_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an interruption, and with a locale that Perl does not know."""
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    tool = ExifTool()
    version = tool.run("-ver")
    assert float(version) > 0
    with monkeypatch.context() as patched:
        patched.setattr("mlcrf.keywords.exiftool._ask", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tool.run("-listx")
    assert tool.run("-ver") == version
    tool.close()


def test_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds the output is a child of the program. From the third command on, none is tried."""
    pretend(tmp_path, "cat; sleep 1000", monkeypatch)
    tool = ExifTool(limit_s=0.1)
    late, at_once = "exiftool did not answer within 0.1 seconds", "exiftool has stopped answering"
    for message in (late, late, at_once, at_once):
        with pytest.raises(ExifToolError, match=message):
            tool.run("-ver")


def test_an_exiftool_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, each time."""
    pretend(tmp_path, "exit 3", monkeypatch)
    tool = ExifTool()
    for _ in range(3):
        with pytest.raises(ExifToolError, match="ended unexpectedly; does `exiftool -ver` print"):
            tool.run("-ver")


def test_without_exiftool(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="--embed needs exiftool, which is not installed"):
        ExifTool()


@needs_exiftool
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process as Linux can")
def test_it_ends_when_its_user_is_killed() -> None:
    """It waits on a closed input for ever, but for our configuration."""
    code = (
        "from mlcrf.keywords.exiftool import ExifTool; tool = ExifTool(); tool.run('-ver'); "
        "print(tool._process.pid, flush=True); input()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as user:
        assert user.stdout is not None
        ending = select.poll()
        ending.register(os.pidfd_open(int(user.stdout.readline())), select.POLLIN)
        user.kill()
    assert ending.poll(60_000)
