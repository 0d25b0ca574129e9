"""Download a known data set, from its publisher or a mirror; resumable and verified."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlcrf.data.download import catalog
from mlcrf.data.download.archives import Progress, unpack
from mlcrf.data.download.file_download import (
    DEFAULT_RETRY_POLICY,
    Part,
    RetryPolicy,
    checked_url,
    fetch,
    fetch_text,
)
from mlcrf.errors import DownloadError

_SUMS = "SHA256SUMS"
_MOVE = "If the file is still there, move it away; then try again, or try another mirror."


@dataclass(frozen=True)
class DownloadReport:
    """The folder of a data set, whether it existed before, and notes for the user."""

    name: str
    dest: Path
    files: int
    bytes: int
    already_there: bool
    notes: tuple[str, ...]


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder, which need not exist."""
    above = folder.absolute().parents
    return shutil.disk_usage(next(path for path in (folder, *above) if path.exists())).free


def download(
    entry: catalog.CatalogEntry,
    dest: Path,
    *,
    mirror: str | Path | None = None,
    progress: Progress | None = None,
    keep_archives: bool = False,
    retries: RetryPolicy = DEFAULT_RETRY_POLICY,
    free: Callable[[Path], int] = free_bytes,
) -> DownloadReport:
    """Download, verify and unpack a data set, unless it is complete already.

    A killed run continues: the part of an archive received so far is in `dest` as NAME.part, with
    its version in NAME.part.json. Only one run at a time may use a folder.

    Args:
        mirror: a folder, or a `file:`, `https:` or (on this computer only) `http:` URL, with
            files of the same names. Files listed in its `SHA256SUMS` are checked against that
            instead of the catalog. Archives in a folder are read in place and never removed.
        keep_archives: keep archives in `dest` after unpacking.
        free: return the free bytes on the disk of a folder.

    Raises:
        DownloadError: too little space, an invalid mirror, a server that fails for longer than
            `retries` allows, a file with wrong content, an unsafe archive, or a file in `dest` that
            is not of an earlier download and would be replaced.
    """
    job = _Job(dest, retries, free, progress or (lambda what, done, total: None))
    try:
        found = catalog.load_unpacked(entry, dest)
        already_there = found is not None
        if found is None:
            found = _fetch_and_unpack(entry, mirror, keep_archives, job)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadError(f"{error.filename or dest}: cannot be used: {reason}") from error
    return DownloadReport(entry.name, dest, found.files, found.bytes, already_there, found.notes)


def _fetch_and_unpack(
    entry: catalog.CatalogEntry, mirror: str | Path | None, keep_archives: bool, job: "_Job"
) -> catalog.Unpacked:
    sources = _locate(entry, mirror, job)
    job.check_space(sum(_needed_bytes(source, job.dest) for source in sources))
    obtained = [(source, *_obtain(source, job)) for source in sources]
    sizes: dict[PurePosixPath, int] = {}
    own = catalog.was_unpacked(job.dest)
    for source, path, _ in obtained:
        below = PurePosixPath(source.archive.folder)
        earlier = {str(name.relative_to(below)) for name in sizes if name.is_relative_to(below)}
        unpacked = unpack(
            path,
            job.dest / source.archive.folder,
            replaceable=None if own else earlier,
            progress=job.progress,
        )
        sizes |= {below / name: size for name, size in unpacked.sizes.items()}
    hashes = {source.archive.name: digests for source, _, digests in obtained}
    notes = tuple(source.note for source in sources if source.note)
    if mirror is None and not entry.tried_at_host:
        notes += (f"{entry.name}: this program was never tested against the real host",)
    result = catalog.Unpacked.of(entry.name, hashes, sizes, notes)
    result.save(job.dest)
    for source, path, _ in obtained:
        if isinstance(source.place, str) and not keep_archives:
            path.unlink()
    return result


@dataclass(frozen=True)
class _Source:
    """The location of an archive, a URL or a file to read in place, and its checksum."""

    archive: catalog.Archive
    place: str | Path
    size: int | None
    checksum: str | None
    note: str


@dataclass(frozen=True)
class _Job:
    """The parameters shared by all steps of a download."""

    dest: Path
    retries: RetryPolicy
    free: Callable[[Path], int]
    progress: Progress

    def check_space(self, needed_bytes: float) -> None:
        there = self.free(self.dest)
        if needed_bytes > there:
            raise DownloadError(
                f"{self.dest}: needs about {needed_bytes / 1e6:.0f} MB, {there / 1e6:.0f} MB are "
                "free. Make room, or choose another folder."
            )


def _locate(entry: catalog.CatalogEntry, mirror: str | Path | None, job: _Job) -> list[_Source]:
    """Return the location and checksum of each archive."""
    base = None if mirror is None else _mirror_base(str(mirror))
    sums: dict[str, str] = {}
    if isinstance(base, Path) and (base / _SUMS).exists():
        text = (base / _SUMS).read_text(encoding="utf-8", errors="replace")
        sums = catalog.read_sums(text, origin=str(base / _SUMS))
    elif isinstance(base, str):
        url = f"{base}/{_SUMS}"
        sums = catalog.read_sums(fetch_text(url, job.retries), origin=url)
    sources = []
    for archive in entry.archives:
        name, size, checksum, note = archive.name, archive.size, archive.checksum, ""
        if name in sums:
            size, checksum = None, sums[name]
            note = f"{name}: checked against the mirror's {_SUMS}, not the catalog"
        elif checksum is None:
            note = f"{name}: no checksum is known, only its length could be checked"
        place: str | Path = archive.url if base is None else f"{base}/{name}"
        if isinstance(base, Path):
            place = base / name
            if not (base / name).is_file():
                raise DownloadError(f"{place}: no such file. The mirror must contain {name}.")
        sources.append(_Source(archive, place, size, checksum, note))
    return sources


def _mirror_base(mirror: str) -> Path | str:
    if "://" in mirror and not mirror.startswith("file:"):
        return str(checked_url(mirror)).rstrip("/")
    folder = Path(mirror)
    if mirror.startswith("file:"):
        parts = urlsplit(mirror)
        if parts.netloc not in ("", "localhost"):
            raise DownloadError(f"{mirror}: a file: mirror must be on this computer")
        folder = Path(url2pathname(parts.path))
    if not folder.is_dir():
        raise DownloadError(f"{mirror}: the mirror is neither a folder nor an https: URL")
    return folder


def _needed_bytes(source: _Source, dest: Path) -> float:
    if isinstance(source.place, Path):
        return source.place.stat().st_size * source.archive.expansion
    path, size = dest / source.archive.name, source.size or 0
    here = path.stat().st_size if path.exists() else Part(path).length()
    return max(0, size - here) + size * source.archive.expansion


def _obtain(source: _Source, job: _Job) -> tuple[Path, dict[str, str]]:
    """Return the path of a verified archive, downloaded if necessary, and its hashes."""
    if isinstance(source.place, Path):
        return source.place, _verify(source, source.place, job)
    path = job.dest / source.archive.name
    if path.exists():
        return path, _verify(source, path, job)
    part = Part(path)
    fetch(
        source.place,
        part,
        size=source.size,
        retries=job.retries,
        check_space=lambda coming, total: job.check_space(
            coming + total * source.archive.expansion
        ),
        progress=partial(job.progress, f"fetching {source.archive.name}"),
    )
    try:
        digests = _verify(source, part.path, job)
    except DownloadError:
        part.forget()
        raise
    part.finish()
    return path, digests


def _verify(source: _Source, path: Path, job: _Job) -> dict[str, str]:
    """Check size and checksum of an archive; return its hashes, SHA-256 always included."""
    size = path.stat().st_size
    if source.size not in (None, size):
        raise DownloadError(f"{path}: expected {source.size} bytes, got {size}. {_MOVE}")
    said = f"checking {source.archive.name}"
    algorithm, _, expected = (source.checksum or "sha256:").partition(":")
    digests = catalog.hash_file(
        path, {"sha256", algorithm}, lambda done: job.progress(said, done, size)
    )
    got = digests[algorithm]
    if expected not in ("", got):
        raise DownloadError(f"{path}: expected {algorithm} {expected}, got {got}. {_MOVE}")
    return digests
