"""Files in a person's folders: replaced or deleted only where that loses nothing."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mlcrf import atomic
from mlcrf.errors import MlcrfError, printable


def require_replaceable(path: Path) -> None:
    """Refuse to replace or delete a file that its owner protects, such as one in an annex.

    Raises:
        MlcrfError: it is read-only, or no regular file, or a link to no regular file.
    """
    if not os.path.lexists(path):
        return
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if not stat.S_ISREG(mode):
        what = "a link to no regular file" if path.is_symlink() else "no regular file"
        raise MlcrfError(f"{printable(path)}: cannot be written: it is {what}")
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise MlcrfError(f"{printable(path)}: is read-only and left unchanged")


def rewrite(path: Path, content: bytes) -> None:
    """Write a file atomically; owner, group, mode and extended attributes stay. Links are followed.

    Raises:
        MlcrfError: it cannot be written, or cannot keep its owner; see also `require_replaceable`.
    """
    require_replaceable(path)
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)
        if path.exists():
            old, new = path.stat(), temporary.stat()
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                _keep_owner(path, temporary, old)
            shutil.copystat(path, temporary)  # extended attributes, too
            os.utime(temporary)


def _keep_owner(path: Path, temporary: Path, old: os.stat_result) -> None:
    try:
        os.chown(temporary, old.st_uid, old.st_gid)
    except OSError as error:
        raise MlcrfError(
            f"{printable(path)}: left unchanged: a new file could not belong to its owner and "
            f"group, {old.st_uid} and {old.st_gid}: {error.strerror}"
        ) from error


def keep_earlier(path: Path, kept: Path) -> None:
    """Keep a file as it is under a second name, as a hard link where possible.

    Raises:
        MlcrfError: it cannot be kept.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except OSError:  # a file system without links
            shutil.copy2(path, kept)
    except OSError as error:
        raise MlcrfError(
            f"{printable(path)}: left unchanged, as no copy of it can be kept beside it: "
            f"{error.strerror or error}"
        ) from error


def remove(path: Path) -> None:
    """Delete a file.

    Raises:
        MlcrfError: it cannot be deleted, or is a link; see also `require_replaceable`.
    """
    require_replaceable(path)
    if path.is_symlink():
        raise MlcrfError(f"{printable(path)}: is a link and not deleted; delete it yourself")
    atomic.remove(path)


def walk_folders(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all below it with the names of their files; hidden folders are skipped."""
    for place, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), sorted(names)
