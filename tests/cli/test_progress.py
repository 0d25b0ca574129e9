"""Progress: a text with the time to go, a line now and then in a log, a bar in a terminal."""

import contextlib
import os
import pty
import re
import sys
import threading

import pytest

from mlcrf.cli import console
from mlcrf.cli.progress import Progress, _repeating, advance, shown


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_to_go() -> None:
    """In proportion to what is done; a new task begins at its own start."""
    clock = Clock()
    progress = Progress("features", clock=clock, write=lambda line: None)
    assert progress.text() == "features"
    progress.show("features", 0, 4000)
    clock.now = 10
    assert progress.text() == "features: 0 of 4,000, 10 s so far"
    progress.show("features", 40, 4000)
    assert progress.text() == "features: 40 of 4,000, 10 s so far"
    progress.show("features", 1000, 4000)
    assert progress.text() == "features: 1,000 of 4,000, about 30 s to go"
    progress.show("fit 1", 0.0, 1)
    clock.now = 210
    progress.show("fit 1", 0.25, 1)
    assert progress.text() == "fit 1: 25%, about 10 min to go"
    progress.show("fit 1", 1, 1)
    assert progress.text() == "fit 1: 100%"
    progress.show("scores", 0, 0)
    clock.now = 212
    assert progress.text() == "scores: 2 s so far"
    progress.show("scores", 0, 0)
    clock.now = 220
    assert progress.text() == "scores: 10 s so far"
    progress.show("scores", 1, 1000)
    clock.now = 222
    progress.show("scores", 201, 1000)
    assert progress.text() == "scores: 201 of 1,000, about 8 s to go"


def test_a_log_has_a_line_every_half_minute() -> None:
    """None before, and none soon after another line."""
    clock = Clock()
    lines: list[str] = []
    progress = Progress("images", clock=clock, write=lines.append)
    with progress.drawn():
        for now in range(100):
            clock.now = now
            progress.show("images", now, 100)
            if now == 50:
                console.log("a note")
    assert lines == [
        "images: 30 of 100, about 70 s to go",
        "a note",
        "images: 80 of 100, about 20 s to go",
    ]


class Work:
    """A whole of which parts are shown."""

    title, share, seconds = "fit 3 of at most 40", 0.25, 200.0


def test_a_part_of_a_whole() -> None:
    """The time to go is that of the whole, the share that of the part."""
    clock, work = Clock(), Work()
    progress = Progress("features", clock=clock, write=lambda line: None)
    progress.show("fit of couplings", 0.5, 1, whole=work)
    clock.now = 30
    assert progress.text() == "fit 3 of at most 40, about 3 min to go; fit of couplings: 50%"
    progress.show("structure weights", 0, 0, whole=work)
    clock.now = 40
    work.seconds = 0.2
    assert progress.text() == "fit 3 of at most 40; structure weights: 10 s so far"
    progress.show("thresholds", 0, 0)
    assert progress.text() == "thresholds"


def test_a_log_has_lines_while_one_step_takes_long() -> None:
    """From another thread, which ends with the progress."""
    clock, told = Clock(), threading.Event()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        told.set()

    progress = Progress("scores", clock=clock, write=write)
    before = threading.active_count()
    clock.now = 29
    progress.tell_if_due()
    assert lines == []
    clock.now = 31
    with _repeating(progress.tell_if_due, every_s=0):
        told.wait()
    assert lines == ["scores: 31 s so far"]
    assert threading.active_count() == before
    hidden = Progress("scores", hidden=True, clock=Clock(), write=lines.append)
    with hidden.drawn():
        assert threading.active_count() == before
    with progress.drawn():
        assert threading.active_count() == before + 1


def test_hidden_progress_says_nothing() -> None:
    clock = Clock()
    lines: list[str] = []
    progress = Progress("images", hidden=True, clock=clock, write=lines.append)
    clock.now = 100
    progress.show("images", 1, 2)
    assert lines == []


def test_what_is_shown_is_advanced() -> None:
    """Image by image, by who computes them; without progress nothing happens."""
    advance()
    assert shown() is None
    progress = Progress()
    with progress.drawn():
        progress.show("images", 0, 2)
        for _ in range(3):
            advance()
        assert shown() is progress
        assert progress.text().startswith("images: 2 of 2")


def test_in_a_terminal_lines_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with its text, which a logged line does not break, and which is gone at the end."""
    reader, writer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with console.bar("images", then="scores") as show:
            show(1, 4)
            console.log("a line")
            show(4, 4)
            show.show_next(2, 3)
    said = b""
    with contextlib.suppress(OSError):  # which ends the text of a terminal
        while chunk := os.read(reader, 100_000):
            said += chunk
    os.close(reader)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert "images: 1 of 4" in plain
    assert "scores" in plain and "scores: 2 of 3" in plain
    assert "\ra line\r\n" in plain


def test_a_stopped_command_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C and SIGTERM, and no other end."""
    for stop in (KeyboardInterrupt(), SystemExit(143)):
        with pytest.raises(type(stop)), console.bar("images", kept="the features are kept"):
            raise stop
        assert capsys.readouterr().err == "stopped; the features are kept\n"
    with pytest.raises(SystemExit), console.bar("images"):
        raise SystemExit(1)
    assert capsys.readouterr().err == ""
