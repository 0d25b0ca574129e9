"""Files that are either whole or absent: written beside their place, then renamed into it."""

import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlcrf.errors import MlcrfError

_PREFIX, _SUFFIX = ".mlcrf-", ".part"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(rf"{re.escape(_PREFIX)}{_HOST}-(\d+)-\w+{re.escape(_SUFFIX)}")
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file in the same folder; rename it to `path` on success.

    The body writes the temporary file by its name. If it raises, the temporary file is removed
    and whatever stood at `path` before is untouched. The content is synced to the disk before
    the rename, so that a crash leaves the old file or the new one. What a killed process left in
    the folder is removed by the next that writes there. Symbolic links are followed.

    Raises:
        MlcrfError: the folder cannot be written or the disk is full; names the path.
    """
    target = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        prefix = f"{_PREFIX}{_HOST}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except BaseException as error:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise MlcrfError(
                f"{path}: cannot be written: {error.strerror or error}. "
                "Check free space and permissions, or choose another place."
            ) from error
        raise


def sweep(folder: Path) -> None:
    """Delete the temporary files that processes of this machine left when they were killed."""
    if os.name != "posix":  # nowhere else can we ask for a process without harm
        return
    with suppress(OSError):  # what cannot be listed or deleted is in nobody's way
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
    except OSError:  # somebody else's
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file at once, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file atomically with the SHA-256 of its content before it."""
    write_bytes(path, hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes | None:
    """Read what `write_sealed` wrote; None if there is nothing, or something else."""
    content = path.read_bytes() if path.is_file() else b""
    digest, content = content[:32], content[32:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_text(path: Path, content: str) -> None:
    """Write a whole text file at once, atomically, as UTF-8 with line feeds."""
    write_bytes(path, content.encode("utf-8"))


def remove(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        MlcrfError: it cannot be deleted; names it.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MlcrfError(f"{path}: cannot be deleted: {error.strerror or error}") from error


def require_ending(path: Path, endings: tuple[str, ...]) -> None:
    """Check a place to write to before the work, not after.

    Raises:
        MlcrfError: the name ends otherwise, or is that of a folder.
    """
    if path.suffix.lower() not in endings:
        raise MlcrfError(f"{path}: unknown ending; name the file with one of {', '.join(endings)}")
    if path.is_dir():
        raise MlcrfError(f"{path}: is a folder; choose another name")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
