"""Run exiftool (https://exiftool.org), one process for many files."""

import os
import shutil
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event, Timer

from mlcrf.errors import MlcrfError, SettingsError

_CONFIG = Path(__file__).with_name("exiftool.config")
_ENGLISH = {"LC_ALL": "C", "PERL_BADLANG": "0"}  # file names and keywords are UTF-8 in any case


class ExifToolError(MlcrfError):
    """An exiftool that fails, or does what was not asked for."""


class ExifTool:
    """A process of exiftool, started with the first command; it ignores the user's configuration.

    It ends with this object, and soon after this process, even if that is killed
    (`exiftool.config`).

    Args:
        limit_s: time for one command. After two commands in a row without an answer, further ones
            fail at once.

    Raises:
        SettingsError: exiftool is not installed.
    """

    def __init__(self, limit_s: float = 120) -> None:
        if shutil.which("exiftool") is None:
            raise SettingsError(
                "--embed needs exiftool, which is not installed: apt install "
                "libimage-exiftool-perl, brew install exiftool, or https://exiftool.org"
            )
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = count()
        self._unanswered = 0

    def run(self, *words: str) -> str:
        """Run a command and return all that it prints, errors too.

        Raises:
            ExifToolError: exiftool ended, or did not answer in time.
            ValueError: a word has a line break, which ends a word for exiftool.
        """
        if any("\n" in word for word in words):
            raise ValueError(f"a word with a line break: {words}")
        if self._unanswered > 1:
            raise ExifToolError("exiftool has stopped answering; does `exiftool -ver` answer?")
        if self._process is None:
            self._process = _start()
            weakref.finalize(self, _end, self._process)
        process, late = self._process, Event()
        timer = Timer(self._limit_s, _stop, (process, late))
        timer.start()
        try:
            printed = _ask(process, words, next(self._commands))
        except BaseException:  # an interruption: the answer would be taken for the next one's
            self.close()
            raise
        finally:
            timer.cancel()
        if printed is not None:
            self._unanswered = 0
            return printed.decode("utf-8", "replace")
        self.close()
        if late.is_set():
            self._unanswered += 1
            raise ExifToolError(f"exiftool did not answer within {self._limit_s:g} seconds")
        raise ExifToolError("exiftool ended unexpectedly; does `exiftool -ver` print a version?")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    words = ["exiftool", "-config", str(_CONFIG), "-stay_open", "True", "-@", "-"]
    return subprocess.Popen(  # noqa: S603 - fixed words
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **_ENGLISH},
        start_new_session=True,  # so that `_kill` reaches what a script of that name starts
    )


def _ask(process: subprocess.Popen[bytes], words: tuple[str, ...], number: int) -> bytes | None:
    """Return what a command prints; None if the process ends."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):  # the loop below ends at once
        lines = "\n".join([*words, f"-execute{number}", ""])
        process.stdin.write(lines.encode("utf-8", "surrogateescape"))
        process.stdin.flush()
    printed: list[bytes] = []
    for line in process.stdout:
        if line.strip() == f"{{ready{number}}}".encode():
            return b"".join(printed)
        printed.append(line)
    return None


def _stop(process: subprocess.Popen[bytes], late: Event) -> None:
    late.set()
    _kill(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    elif process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
