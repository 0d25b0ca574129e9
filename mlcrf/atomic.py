"""Atomic file writes: write a temporary file in the target folder, then rename it."""

import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from mlcrf.errors import MlcrfError, RunError

_PREFIX, _SUFFIX = ".mlcrf-", ".part"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(rf"{re.escape(_PREFIX)}{_HOST}-(\d+)-\w+{re.escape(_SUFFIX)}")
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the same folder; rename it to `path` on success.

    If the body raises, the temporary file is removed and any existing file at `path` is left
    unchanged. The content is synced to disk before the rename, so a crash leaves the old or the new
    file. The next process that writes to the folder removes temporary files left by killed
    processes. Symbolic links are followed.

    Raises:
        MlcrfError: the folder cannot be written or the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        name = f"{_PREFIX}{_HOST}-{os.getpid()}-{token_hex(8)}{_SUFFIX}"
        created = target.parent / name
        handle = os.open(created, os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
        temporary = created
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException as error:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise MlcrfError(
                f"{path}: cannot be written: {error.strerror or error}. "
                "Check free space and permissions, or choose another folder."
            ) from error
        raise


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a run directory that is to be made; remove it at the end.

    What was made in it is renamed to `out` by the body, as a whole or not at all.

    Raises:
        RunError: a folder or file cannot be made or renamed.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be made: {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Delete temporary files of killed processes of this machine."""
    if os.name != "posix":  # only POSIX lets us test whether a process exists without affecting it
        return
    with suppress(OSError):  # leftover files do no harm
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and not _is_alive(int(match[1])):
                path.unlink(missing_ok=True)


def _sweep_once(folder: Path) -> None:
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # owned by another user
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file atomically, with the SHA-256 of its content first."""
    write_bytes(path, hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes | None:
    """Read the content written by `write_sealed`; None if the file is missing or damaged."""
    content = path.read_bytes() if path.is_file() else b""
    digest, content = content[:32], content[32:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically, as UTF-8 with line feeds."""
    write_bytes(path, content.encode("utf-8"))


def remove(path: Path) -> None:
    """Delete a file, if it exists.

    Raises:
        MlcrfError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MlcrfError(f"{path}: cannot be deleted: {error.strerror or error}") from error


def require_ending(path: Path, endings: tuple[str, ...]) -> None:
    """Check the path of an output before the work starts.

    Raises:
        MlcrfError: another ending, the path is a folder, or no file can be made there.
    """
    if path.suffix.lower() not in endings:
        raise MlcrfError(f"{path}: unknown ending; name the file with one of {', '.join(endings)}")
    if path.is_dir():
        raise MlcrfError(f"{path}: is a folder; choose another name")
    above = next(one for one in Path(os.path.realpath(path)).parents if one.exists())
    if not above.is_dir():
        raise MlcrfError(f"{path}: cannot be written: {above} is a file; choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise MlcrfError(
            f"{path}: cannot be written: no file can be made in {above}; choose another folder"
        )
