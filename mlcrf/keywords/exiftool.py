"""Run exiftool (https://exiftool.org), one process for many files."""

import shutil
import subprocess
import weakref

from mlcrf.errors import MlcrfError, SettingsError

_READY = b"{ready}"


class ExifTool:
    """A process of exiftool, started with the first command; it ignores the user's configuration.

    Raises:
        SettingsError: exiftool is not installed.
    """

    def __init__(self) -> None:
        if shutil.which("exiftool") is None:
            raise SettingsError(
                "--embed needs exiftool, which is not installed: apt install "
                "libimage-exiftool-perl, brew install exiftool, or https://exiftool.org"
            )
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> str:
        """Run a command and return all that it prints, errors too.

        Raises:
            MlcrfError: exiftool ended.
            ValueError: a word has a line break, which ends a word for exiftool.
        """
        if any("\n" in word for word in words):
            raise ValueError(f"a word with a line break: {words}")
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("\n".join([*words, "-execute", ""]).encode())
            process.stdin.flush()
        except BrokenPipeError:  # the loop below ends at once
            pass
        printed: list[bytes] = []
        for line in process.stdout:
            if line.strip() == _READY:
                return b"".join(printed).decode("utf-8", "replace")
            printed.append(line)
        self._process = None
        raise MlcrfError("exiftool ended unexpectedly; does `exiftool -ver` print a version?")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    words = ["exiftool", "-config", "", "-stay_open", "True", "-@", "-"]
    process = subprocess.Popen(  # noqa: S603 - fixed words
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    weakref.finalize(process, _end, process).atexit = True
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
