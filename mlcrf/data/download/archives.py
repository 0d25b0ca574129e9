"""Unpack untrusted archives: completely or not at all, and never outside the folder."""

import filecmp
import gzip
import io
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from mlcrf.errors import DownloadError

Progress = Callable[[str, int, int | None], None]
"""Called with a description, the bytes done, and the total bytes if known."""

_Opener = Callable[[], IO[bytes] | None]
_TEMPORARY_FOLDER = ".mlcrf-unpacking"
_CHUNK_BYTES = 1 << 18
_TAR_BLOCK_BYTES = 512
_LONGEST_READ_BYTES = 1 << 20  # longer than any header or padding of a valid tar file
_RATIO_FLOOR_BYTES = 1 << 20  # smaller members are safe at any ratio
# RuntimeError includes NotImplementedError, for zip features that Python does not support.
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error)
_UNREADABLE = (*_DAMAGED, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class UnpackLimits:
    """Limits on the unpacked size of an archive.

    Attributes:
        max_files: number of members of any kind.
        max_bytes: total unpacked size; the default is four times the largest known data set.
        max_ratio: unpacked bytes per packed byte, of each member and of the whole.
    """

    max_files: int = 1_000_000
    max_bytes: int = 80 * (1 << 30)
    max_ratio: float = 200.0


@dataclass(frozen=True)
class UnpackReport:
    """The unpacked files: relative path -> size in bytes."""

    archive: Path
    sizes: Mapping[str, int]


def unpack(
    archive: Path,
    into: Path,
    *,
    limits: UnpackLimits = UnpackLimits(),
    replaceable: Container[str] | None = None,
    progress: Progress | None = None,
) -> UnpackReport:
    """Unpack a zip, tar or tar.gz file into a folder that may contain other files.

    All members are checked before the first is written, then written to a temporary folder
    inside `into` (so on the same disk), and moved into place when complete. Only regular files are
    accepted; files of the same name are replaced; permissions, owners and files that macOS adds are
    ignored. A temporary folder of a killed run is removed first, so two runs must not unpack into
    the same folder at once.

    Args:
        replaceable: paths below `into` of files that may be replaced by others; all if None.

    Raises:
        DownloadError: not an archive, damaged, over a limit, a member that is not a plain file, has
            an unsafe or duplicate name or would replace another file, `into` cannot be written, or
            the disk is full. No files are left behind, unless the disk fails while they are moved.

    Cost: reads a zip or tar file once, a tar.gz twice.
    """
    new = not into.exists()
    temporary = into / _TEMPORARY_FOLDER
    try:
        with _opened(archive) as contents:
            plan = _Plan(archive, archive.stat().st_size, limits)
            contents(plan)
            if temporary.exists():
                shutil.rmtree(temporary)
            _make_folder(temporary, into)
            _write_all(plan, temporary, progress)
            _require_replaceable(plan, temporary, into, replaceable)
            _move_all(plan, temporary, into)
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DownloadError(
            f"{archive}: cannot be unpacked: {' '.join(reason.split())}. "
            "Check the free space, or remove the archive and fetch it again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new:
            with suppress(OSError):  # removed only if empty
                into.rmdir()
    return UnpackReport(archive, {member.name: member.size for member in plan.members})


@dataclass(frozen=True)
class _Member:
    """A file to unpack; its name is relative, safe and separated by `/`."""

    name: str
    size: int
    open: _Opener


@dataclass
class _Plan:
    """The members accepted so far, and the state needed to check the next."""

    archive: Path
    packed_bytes: int
    limits: UnpackLimits
    members: list[_Member] = field(default_factory=list)
    count: int = 0
    unpacked_bytes: int = 0
    _seen: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def add(self, name: str, kind: str, size: int, packed: int, opener: _Opener) -> None:
        """Check a member, and add it if it is a file to unpack.

        Args:
            kind: `file`, `folder`, or a description of another type.
            packed: size in the archive.
        """
        if kind not in ("file", "folder"):
            self.refuse(name, f"it is a {kind}, not a plain file")
        parts = self._safe_parts(name)
        if kind == "file" and not parts:
            self.refuse(name, "it has no name")
        self.count += 1
        self.unpacked_bytes += size
        limits = self.limits
        if self.count > limits.max_files:
            self.refuse(name, f"the archive has more than the {limits.max_files} members allowed")
        if self.unpacked_bytes > limits.max_bytes:
            self.refuse(name, f"with it more than {limits.max_bytes} bytes would be unpacked")
        for unpacked, archived in ((size, packed), (self.unpacked_bytes, self.packed_bytes)):
            if unpacked > max(_RATIO_FLOOR_BYTES, limits.max_ratio * archived):
                self.refuse(name, f"it unpacks to over {limits.max_ratio:g} times its length")
        for depth in range(1, len(parts) + 1):
            self._claim(name, "/".join(parts[:depth]), depth < len(parts) or kind == "folder")
        litter = "__MACOSX" in parts or parts[-1:] == [".DS_Store"]
        if kind == "file" and not litter:
            self.members.append(_Member("/".join(parts), size, opener))

    def refuse(self, name: str, reason: str) -> NoReturn:
        raise DownloadError(
            f"{self.archive}: member {name[:200]!r} refused: {reason}. Nothing was unpacked."
        )

    def _safe_parts(self, name: str) -> list[str]:
        if not name.isprintable():  # also false for invalid Unicode
            self.refuse(name, "its name contains control characters")
        if "\\" in name or ":" in name:
            self.refuse(name, "its name contains a backslash or colon")
        if name.startswith("/"):
            self.refuse(name, "its path is absolute")
        parts = [part for part in name.removesuffix("/").split("/") if part != "."]
        for part in parts:
            if part in ("", "..") or part != part.rstrip(" ."):
                self.refuse(name, "its path has an empty part, '..', or a part ending in a dot")
            if part.lower().startswith(".mlcrf-"):
                self.refuse(name, "its name is reserved")
        return parts

    def _claim(self, name: str, path: str, is_folder: bool) -> None:
        # Some systems treat names as equal that differ only in case or composition:
        # canonical caseless matching (Unicode Standard, section 3.13, D145).
        folded = unicodedata.normalize("NFD", path).casefold()
        key = unicodedata.normalize("NFD", folded)
        earlier = self._seen.get(key)
        if earlier is None:
            self._seen[key] = (path, is_folder)
        elif not is_folder or earlier != (path, True):
            self.refuse(name, f"its path meets that of {earlier[0]!r}")


@contextmanager
def _opened(archive: Path) -> Iterator[Callable[[_Plan], None]]:
    """Open an archive by its first bytes; yield a function that adds its members to a plan."""
    with archive.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(stream) as unzipped:
                yield partial(_plan_zip, unzipped)
            return
        zipped = start[:2] == b"\x1f\x8b"
        with gzip.open(stream) if zipped else nullcontext(stream) as inner:
            source = _TarSource(inner)
            with tarfile.open(fileobj=source, mode="r:") as untarred:
                yield partial(_plan_tar, untarred, source)


def _plan_zip(archive: zipfile.ZipFile, plan: _Plan) -> None:
    for info in archive.infolist():
        kind = "file"
        mode = stat.S_IFMT(info.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "symbolic link" if mode == stat.S_IFLNK else "device or the like"
        elif info.is_dir() or mode == stat.S_IFDIR:
            kind = "folder"
        elif info.flag_bits & 1:
            kind = "encrypted file"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = "file of a compression that is not deflate"
        opener = partial(archive.open, info)
        plan.add(info.orig_filename, kind, info.file_size, info.compress_size, opener)


def _plan_tar(archive: tarfile.TarFile, source: "_TarSource", plan: _Plan) -> None:
    for info in archive:
        kind = "device or the like"
        if info.isdir():
            kind = "folder"
        elif info.issym() or info.islnk():
            kind = "symbolic link" if info.issym() else "hard link"
        elif info.isreg():
            kind = "sparse file" if info.issparse() else "file"
        plan.add(info.name, kind, info.size, info.size, partial(archive.extractfile, info))
    # tarfile takes an unreadable header for the end; the real end is a block of zeros, or nothing.
    if source.last.strip(b"\0") or len(source.last) not in (0, _TAR_BLOCK_BYTES):
        raise tarfile.ReadError("damaged header, or cut off in the middle of one")
    padding = 0
    while chunk := source.read(_CHUNK_BYTES):  # the checksum of gzip is at its end
        padding += len(chunk)
        if padding > _LONGEST_READ_BYTES:
            raise tarfile.ReadError("data after its end")


class _TarSource(io.RawIOBase):
    """A source for tarfile that limits the length of headers read into memory."""

    def __init__(self, inner: gzip.GzipFile | io.BufferedReader) -> None:
        self._inner = inner
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._inner.read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell()


def _write_all(plan: _Plan, temporary: Path, progress: Progress | None) -> None:
    done = 0
    for member in plan.members:
        target = temporary / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        assert source is not None, "only regular files are members"
        written = 0
        with source, target.open("xb") as stream:
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > member.size:
                    break
                stream.write(chunk)
        if written != member.size:
            plan.refuse(member.name, f"it is not as long as the {member.size} bytes declared")
        done += written
        if progress:
            progress(f"unpacking {plan.archive.name}", done, plan.unpacked_bytes)


def _make_folder(folder: Path, into: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DownloadError(
            f"{into}: cannot be made or written: {error.strerror}. Choose another folder."
        ) from error


def _require_replaceable(
    plan: _Plan, temporary: Path, into: Path, replaceable: Container[str] | None
) -> None:
    """Refuse to replace files of other content that are not of an earlier download."""
    if replaceable is None:
        return
    for member in plan.members:
        target = into / member.name
        if member.name in replaceable or not target.is_file():
            continue
        if not filecmp.cmp(temporary / member.name, target, shallow=False):
            raise DownloadError(
                f"{target}: is not a file of {plan.archive.name} and would be replaced. Move it "
                "away, or choose another folder."
            )


def _move_all(plan: _Plan, temporary: Path, into: Path) -> None:
    """Move files into place, after checking that none meets a link or a folder."""
    direct = {Path(member.name).parent for member in plan.members}
    folders = {above for folder in direct for above in (folder, *folder.parents)} - {Path()}
    for folder in sorted(folders):
        target = into / folder
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            plan.refuse(str(folder), f"{target} is in the way and is not a folder")
    for member in plan.members:
        target = into / member.name
        if target.is_dir() and not target.is_symlink():
            plan.refuse(member.name, f"{target} is in the way and is a folder")
    for folder in sorted(folders):
        (into / folder).mkdir(exist_ok=True)
    for member in plan.members:
        (temporary / member.name).replace(into / member.name)
