"""Downloading: from servers that fail in every way, from mirrors, and a second time."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from mlcrf.cli.download import download as command
from mlcrf.data.download.catalog import (
    CATALOG,
    Archive,
    CatalogEntry,
    find_entry,
    hash_file,
    load_unpacked,
    read_sums,
)
from mlcrf.data.download.dataset_download import download
from mlcrf.data.download.file_download import RetryPolicy, checked_url
from mlcrf.errors import DownloadError

from .server import Server, flood, redirect, running, serve, silence, status, trickle

REAL_MIRROR = Path(__file__).parents[3].parent / "shared" / "mirflickr25k"
MARKER = ".mlcrf-download.json"


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


PICTURES = {f"im{i}": random.Random(i).randbytes(100_000) for i in range(4)}
PICTURES_ZIP = zipped(**PICTURES)
OTHER_ZIP = zipped(**{name: content[::-1] for name, content in PICTURES.items()})
LABELS_ZIP = zipped(sea=b"1\r\n2\r\n")


def archive_of(url: str, content: bytes, folder: str = ".") -> Archive:
    digest = hashlib.md5(content).hexdigest()
    return Archive(url, len(content), f"md5:{digest}", folder)


def entry_of(*archives: Archive) -> CatalogEntry:
    return CatalogEntry("test", "A test", "https://example.org", "none", archives)


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as running_server:
        running_server.files["a.zip"] = PICTURES_ZIP
        yield running_server


@pytest.fixture
def entry(server: Server) -> CatalogEntry:
    return entry_of(archive_of(f"{server.url}/a.zip", PICTURES_ZIP))


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def retries(waits: list[float]) -> RetryPolicy:
    return RetryPolicy(attempts=4, sleep=waits.append)


@pytest.fixture
def hasty(retries: RetryPolicy) -> RetryPolicy:
    """For servers that fall silent."""
    return replace(retries, stall_s=1.0)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_whole(dest: Path) -> None:
    """All pictures and the marker are there, and nothing else."""
    assert names(dest) == {*PICTURES, MARKER}
    assert {name: (dest / name).read_bytes() for name in PICTURES} == PICTURES


def assert_nothing_but(dest: Path, *expected: str) -> None:
    assert (names(dest) if dest.exists() else set()) == set(expected)


def test_fetches_verifies_unpacks(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """The plain case: one request, all files, no archive left, the true host never tried."""
    report = download(entry, tmp_path / "d", retries=retries)
    assert_whole(tmp_path / "d")
    assert server.asked == [("a.zip", None)]
    assert (report.files, report.bytes, report.already_there) == (4, 400_000, False)
    assert report.notes == ("test: this program was never tested against the real host",)


def test_files_of_others_are_not_replaced(
    tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A file of the same name and other content ends it before any is written; an equal one not."""
    mine, same = sorted(PICTURES)[:2]
    for name, content in ((mine, b"my own"), (same, PICTURES[same])):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    with pytest.raises(
        DownloadError, match=f"{mine}: is not a file of a.zip and would be replaced"
    ):
        download(entry, tmp_path / "d", retries=retries)
    assert {mine, same} == names(tmp_path / "d") - {"a.zip"}
    assert (tmp_path / "d" / mine).read_bytes() == b"my own"
    (tmp_path / "d" / mine).unlink()
    download(entry, tmp_path / "d", retries=retries)
    assert_whole(tmp_path / "d")


def test_a_file_in_place_of_the_folder(tmp_path: Path, mirror: Path, entry: CatalogEntry) -> None:
    """A file under the folder's name is named, not the archive."""
    (tmp_path / "d").write_text("mine")
    write_sums(mirror)
    with pytest.raises(DownloadError, match=r"d: cannot be made or written: .*another folder"):
        download(entry, tmp_path / "d", mirror=mirror)
    assert (tmp_path / "d").read_text() == "mine"


def test_keeps_archives_if_asked(tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy) -> None:
    """With keep_archives the archive stays, whole and under its name."""
    download(entry, tmp_path, keep_archives=True, retries=retries)
    assert (tmp_path / "a.zip").read_bytes() == PICTURES_ZIP
    assert names(tmp_path) == {*PICTURES, MARKER, "a.zip"}


def test_tells_progress(tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy) -> None:
    """Fetching, checking and unpacking are told, and each ends with all of its bytes."""
    last: dict[str, tuple[int, int | None]] = {}
    download(
        entry,
        tmp_path,
        retries=retries,
        progress=lambda what, done, total: last.update({what: (done, total)}),
    )
    size = len(PICTURES_ZIP)
    assert last == {
        "fetching a.zip": (size, size),
        "checking a.zip": (size, size),
        "unpacking a.zip": (400_000, 400_000),
    }


def test_second_run_does_nothing(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """What is there is found by its marker; no request is made and the notes are said again."""
    first = download(entry, tmp_path, retries=retries)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    server.asked.clear()
    second = download(entry, tmp_path, retries=retries)
    assert second == replace(first, already_there=True)
    assert server.asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps


@pytest.mark.parametrize("harm", ["lost", "shortened", "marker", "other"])
def test_second_run_mends(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy, harm: str
) -> None:
    """A lost or shortened file, a damaged marker or one of another data set: all is fetched."""
    download(entry, tmp_path, retries=retries)
    match harm:
        case "lost":
            (tmp_path / "im2").unlink()
        case "shortened":
            (tmp_path / "im2").write_bytes(b"")
        case "marker":
            (tmp_path / MARKER).write_text('{"name": "test", "folders": {".": 3}}')
        case "other":
            marker = json.loads((tmp_path / MARKER).read_text())
            (tmp_path / MARKER).write_text(json.dumps(marker | {"name": "other"}))
    server.asked.clear()
    assert not download(entry, tmp_path, retries=retries).already_there
    assert_whole(tmp_path)
    assert len(server.asked) == 1


def test_marker_is_content_with_more_files(
    tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A file that the user adds does not cause another download."""
    download(entry, tmp_path, retries=retries)
    (tmp_path / "mine.txt").write_bytes(b"mine")
    assert download(entry, tmp_path, retries=retries).already_there


def test_marker_records_hashes_and_counts(
    tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """The marker has both hashes of the archive and the number of files and bytes."""
    download(entry, tmp_path, retries=retries)
    marker = json.loads((tmp_path / MARKER).read_text())
    assert marker["archives"] == {
        "a.zip": {
            "sha256": hashlib.sha256(PICTURES_ZIP).hexdigest(),
            "md5": hashlib.md5(PICTURES_ZIP).hexdigest(),
        }
    }
    assert (marker["files"], marker["bytes"], marker["folders"]) == (
        4,
        400_000,
        {".": [4, 400_000]},
    )


def test_two_archives_may_share_a_folder(
    tmp_path: Path, server: Server, retries: RetryPolicy
) -> None:
    """Both archives are unpacked, a file that both have is counted once, a second run is idle."""
    server.files["b.zip"] = zipped(im0=b"of b", more=b"more")
    entry = entry_of(
        archive_of(f"{server.url}/a.zip", PICTURES_ZIP, "x"),
        archive_of(f"{server.url}/b.zip", server.files["b.zip"], "x"),
    )
    assert download(entry, tmp_path, retries=retries).files == 5
    assert (tmp_path / "x" / "im0").read_bytes() == b"of b"
    assert (tmp_path / "x" / "im1").read_bytes() == PICTURES["im1"]
    assert download(entry, tmp_path, retries=retries).already_there


@pytest.mark.parametrize("cut", [0, 1, 1000, len(PICTURES_ZIP) - 1])
def test_resumes_after_a_dropped_connection(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
    cut: int,
) -> None:
    """What came before the drop is not asked for again."""
    server.faults.append(serve(stop_after=cut))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None), ("a.zip", f"bytes={cut}-" if cut else None)]
    assert waits == [1.0]


def test_resumes_again_and_again(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
) -> None:
    """Three drops in a row are survived, with waits that double."""
    server.faults.extend(serve(stop_after=50_000) for _ in range(3))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert [asked for _, asked in server.asked] == [
        None,
        "bytes=50000-",
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert waits == [1.0, 2.0, 4.0]


def test_gain_forgives_failures(
    tmp_path: Path, server: Server, retries: RetryPolicy, waits: list[float]
) -> None:
    """More drops than attempts are survived if each attempt brings more than a megabyte."""
    content = zipped(big=random.Random(9).randbytes(7 << 20))
    server.files["a.zip"] = content
    server.faults.extend(serve(stop_after=(1 << 20) + 1) for _ in range(6))
    entry = entry_of(archive_of(f"{server.url}/a.zip", content))
    download(entry, tmp_path, retries=retries)
    assert (tmp_path / "big").stat().st_size == 7 << 20
    assert waits == [1.0] * 6


def test_gives_up_and_goes_on_later(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
) -> None:
    """After the attempts allowed there is an error; the next run asks for the rest only."""
    server.faults.append(serve(stop_after=1000))
    server.faults.extend(status(503) for _ in range(3))
    with pytest.raises(DownloadError, match=r"gave up after 4 failures in a row: .*503"):
        download(entry, tmp_path, retries=retries)
    assert waits == [1.0, 2.0, 4.0]
    assert_nothing_but(tmp_path, "a.zip.part", "a.zip.part.json")
    server.asked.clear()
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", "bytes=1000-")]


def test_waits_are_bounded(tmp_path: Path, server: Server, entry: CatalogEntry) -> None:
    """The doubling ends at the longest wait."""
    waits: list[float] = []
    server.faults.extend(status(503) for _ in range(9))
    download(entry, tmp_path, retries=RetryPolicy(attempts=10, sleep=waits.append))
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_errors_are_retried(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy, code: int
) -> None:
    """A server that is busy or broken for a moment is asked again."""
    server.faults.append(status(code))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize("code", [401, 403, 404, 410, 204])
def test_lasting_errors_are_not_retried(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
    code: int,
) -> None:
    """A file that is not there is told at once."""
    server.faults.append(status(code))
    with pytest.raises(DownloadError, match=f"answered {code}"):
        download(entry, tmp_path, retries=retries)
    assert waits == []
    assert_nothing_but(tmp_path)


@pytest.mark.parametrize("stall", [silence, trickle])
def test_stalls_end(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    hasty: RetryPolicy,
    stall: Callable[..., None],
) -> None:
    """Silence, or bytes that only trickle, are no progress: ask again from there."""
    server.faults.append(serve(stop_after=1000, then=stall))
    download(entry, tmp_path, retries=hasty)
    assert_whole(tmp_path)
    first, second = server.asked[:2]
    assert first == ("a.zip", None)
    assert int(str(second[1]).removeprefix("bytes=").removesuffix("-")) in range(1000, 1100)


def test_total_silence_is_bounded(
    tmp_path: Path, server: Server, entry: CatalogEntry, hasty: RetryPolicy
) -> None:
    """A server that never answers is left after the attempts allowed."""
    server.faults.extend((lambda handler, content: silence(handler)) for _ in range(9))
    with pytest.raises(DownloadError, match="gave up after 4"):
        download(entry, tmp_path, retries=hasty)
    assert len(server.asked) == 4


def test_nobody_listens(tmp_path: Path, retries: RetryPolicy) -> None:
    """A refused connection is retried, then told with the name of the file."""
    with running() as closed:
        url = closed.url
    entry = entry_of(archive_of(f"{url}/a.zip", PICTURES_ZIP))
    with pytest.raises(DownloadError, match=r"a\.zip: gave up after 4"):
        download(entry, tmp_path, retries=retries)


def test_server_without_ranges(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """If the server sends all of it whatever is asked, the part is not put before it."""
    server.faults.extend([serve(stop_after=70_000), serve(ranges=False)])
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked[1] == ("a.zip", "bytes=70000-")


def test_server_without_validators(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """Without an ETag or date nobody knows whether a rest fits: it is fetched afresh."""
    server.faults.append(serve(stop_after=70_000, etag=False))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None), ("a.zip", None)]


def test_weak_validators(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A weak ETag does not promise the same bytes, so nothing is joined on the strength of it."""
    server.etags["a.zip"] = 'W/"1"'
    server.faults.append(serve(stop_after=70_000))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None), ("a.zip", None)]


@pytest.mark.parametrize("if_range", [True, False])
def test_change_between_attempts(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy, if_range: bool
) -> None:
    """The beginning of one version is never joined to the rest of another."""
    server.files["a.zip"], server.etags["a.zip"] = OTHER_ZIP, '"old"'

    def drop_and_change(handler: object) -> None:
        server.files["a.zip"], server.etags["a.zip"] = PICTURES_ZIP, '"new"'

    server.faults.append(serve(stop_after=70_000, then=drop_and_change))
    server.faults.append(serve(if_range=if_range))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    expected = [None, "bytes=70000-"] + ([] if if_range else [None])
    assert [asked for _, asked in server.asked] == expected


def test_part_of_another_address(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A part from another server, or with a damaged note beside it, is not gone on with."""
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    version = {"url": "https://example.org/a.zip", "total": str(len(PICTURES_ZIP))}
    version |= {"etag": '"1"', "last-modified": ""}
    (tmp_path / "a.zip.part.json").write_text(json.dumps(version))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None)]


def test_complete_part_is_only_checked(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A run killed between the last byte and the check needs no request."""
    server.faults.append(serve(stop_after=1000))
    server.faults.extend(status(503) for _ in range(3))
    with pytest.raises(DownloadError):
        download(entry, tmp_path, retries=retries)
    (tmp_path / "a.zip.part").write_bytes(PICTURES_ZIP)
    server.asked.clear()
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == []


def test_wrong_content(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
) -> None:
    """A file of the right length and the wrong hash is removed; both hashes are told."""
    assert len(OTHER_ZIP) == len(PICTURES_ZIP)
    server.files["a.zip"] = OTHER_ZIP
    with pytest.raises(DownloadError) as caught:
        download(entry, tmp_path, retries=retries)
    assert f"expected md5 {hashlib.md5(PICTURES_ZIP).hexdigest()}" in str(caught.value)
    assert f"got {hashlib.md5(OTHER_ZIP).hexdigest()}" in str(caught.value)
    assert waits == []
    assert_nothing_but(tmp_path)


@pytest.mark.parametrize("difference", [-100, 100])
def test_wrong_length_is_told_at_once(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy, difference: int
) -> None:
    """A length that is not the catalog's is told before the body is read."""
    server.files["a.zip"] = (PICTURES_ZIP + bytes(100))[: len(PICTURES_ZIP) + difference]
    sizes = f"expected {len(PICTURES_ZIP)} bytes, the server has {len(PICTURES_ZIP) + difference}"
    with pytest.raises(DownloadError, match=sizes):
        download(entry, tmp_path, retries=retries)
    assert_nothing_but(tmp_path)


@pytest.mark.parametrize("difference", [-100, 100])
def test_false_content_length(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy, difference: int
) -> None:
    """A server whose Content-Length is a lie, always: an error in the end, and no archive."""
    unsized = entry_of(replace(entry.archives[0], size=None))
    server.faults.extend(serve(claim=difference) for _ in range(9))
    with pytest.raises(DownloadError, match=r"expected md5|gave up after 4"):
        download(unsized, tmp_path, retries=retries)
    assert not {"a.zip", *PICTURES} & names(tmp_path)
    assert len(server.asked) == (1 if difference < 0 else 4)


def test_too_long_without_content_length(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """An endless body is cut off at the length that the catalog has, or soon after."""
    server.faults.append(serve(length=False, then=flood))
    with pytest.raises(DownloadError, match=f"more than the {len(PICTURES_ZIP)} bytes"):
        download(entry, tmp_path, retries=retries)
    assert_nothing_but(tmp_path)
    assert server.flooded < 100_000_000  # what the system's buffers take, not all of it


def test_too_short_without_content_length(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A body that just ends is compared with the catalog, and the rest is asked for."""
    server.faults.append(serve(length=False, stop_after=5000))
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None), ("a.zip", "bytes=5000-")]


def test_unknown_length_is_refused(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """If neither catalog nor server has a length, nothing would bound what is written."""
    server.faults.append(serve(length=False))
    unsized = entry_of(replace(entry.archives[0], size=None))
    with pytest.raises(DownloadError, match="does not state the size"):
        download(unsized, tmp_path, retries=retries)
    assert_nothing_but(tmp_path)


def test_unknown_checksum_is_said(
    tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """Where the catalog has no checksum the report says what could be checked."""
    unhashed = entry_of(replace(entry.archives[0], checksum=None))
    report = download(unhashed, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert report.notes[0] == "a.zip: no checksum is known, only its length could be checked"


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://example.org/a.zip",
        "http://10.0.0.1/a.zip",
        "ftp://localhost/a",
    ],
)
def test_unsafe_redirects(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    retries: RetryPolicy,
    waits: list[float],
    location: str,
) -> None:
    """A redirect to a file, or to plain http elsewhere, is refused at once."""
    server.faults.append(redirect(location))
    with pytest.raises(DownloadError, match=r"redirects: only https: is allowed"):
        download(entry, tmp_path, retries=retries)
    assert waits == []
    assert_nothing_but(tmp_path)


def test_redirects_on_this_computer(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """From http on this computer to http on this computer is allowed, but not for ever."""
    server.files["b.zip"] = PICTURES_ZIP
    server.faults.append(redirect("/b.zip"))
    download(entry, tmp_path / "d", retries=retries)
    assert [name for name, _ in server.asked] == ["a.zip", "b.zip"]
    assert_whole(tmp_path / "d")
    server.faults.extend(redirect("/a.zip") for _ in range(20))
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        download(entry, tmp_path / "e", retries=retries)


def test_no_redirect_from_https_to_http() -> None:
    """What came by https: does not go on by http:, not even on this computer."""
    secure, local = httpx.URL("https://example.org/a"), httpx.URL("http://[::1]:80/a")
    for origin, target in [(None, local), (local, local), (local, secure), (secure, secure)]:
        assert checked_url(str(target), origin) == target
    for unsafe in ("http://localhost/a", "http://example.org/a", "file:///a"):
        with pytest.raises(DownloadError, match="only https: is allowed"):
            checked_url(unsafe, secure)


def test_archive_that_is_there(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A good archive in the folder is used; a wrong one is told and left alone."""
    (tmp_path / "a.zip").write_bytes(OTHER_ZIP)
    with pytest.raises(DownloadError, match="expected md5"):
        download(entry, tmp_path, retries=retries)
    assert (tmp_path / "a.zip").read_bytes() == OTHER_ZIP
    (tmp_path / "a.zip").write_bytes(PICTURES_ZIP)
    download(entry, tmp_path, retries=retries)
    assert_whole(tmp_path)
    assert server.asked == []


def test_hostile_archive(tmp_path: Path, server: Server, retries: RetryPolicy) -> None:
    """An archive that is what was expected, and hostile, still unpacks nothing."""
    server.files["a.zip"] = zipped(**{"fine": b"1", "../../evil": b"2"})
    entry = entry_of(archive_of(f"{server.url}/a.zip", server.files["a.zip"]))
    with pytest.raises(DownloadError, match=r"a\.zip: member '\.\./\.\./evil' refused"):
        download(entry, tmp_path / "x" / "y", retries=retries)
    assert names(tmp_path) == {"x/y/a.zip"}


def test_full_disk(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """Too little space is told before a byte is fetched; just enough is enough."""
    enough = int(len(PICTURES_ZIP) * 2.1) + 1
    with pytest.raises(DownloadError, match="Make room"):
        download(entry, tmp_path, retries=retries, free=lambda folder: enough - 2)
    assert server.asked == []
    assert_nothing_but(tmp_path)
    download(entry, tmp_path, retries=retries, free=lambda folder: enough)
    assert_whole(tmp_path)


def test_full_disk_where_only_the_server_knows_the_length(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A length that comes with the answer is held against the free space too."""
    unsized = entry_of(replace(entry.archives[0], size=None))
    with pytest.raises(DownloadError, match="Make room"):
        download(unsized, tmp_path, retries=retries, free=lambda folder: 1000)
    assert len(server.asked) == 1
    assert "a.zip.part" not in names(tmp_path)


def test_dest_that_is_a_file(tmp_path: Path, entry: CatalogEntry, retries: RetryPolicy) -> None:
    """A folder that cannot be made is an error in one line."""
    (tmp_path / "d").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="cannot be used"):
        download(entry, tmp_path / "d", retries=retries)
    assert (tmp_path / "d").read_bytes() == b"mine"


def test_killed_download_resumes(tmp_path: Path, server: Server, entry: CatalogEntry) -> None:
    """A process killed without warning leaves a part, and the next one asks for the rest."""
    server.faults.append(serve(stop_after=300_000, then=silence))
    code = (
        "import sys; from pathlib import Path; from mlcrf.data.download.catalog import *;"
        "from mlcrf.data.download.dataset_download import download;"
        "url, size, checksum, dest = sys.argv[1:];"
        "archive = Archive(url, int(size), checksum);"
        "download(CatalogEntry('test', '', '', '', (archive,)), Path(dest))"
    )
    archive = entry.archives[0]
    arguments = [archive.url, str(archive.size), str(archive.checksum), str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    part = tmp_path / "a.zip.part"
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    download(entry, tmp_path)
    assert_whole(tmp_path)
    assert server.asked == [("a.zip", None), ("a.zip", f"bytes={have}-")]


# Mirrors


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with an archive that is not the one of the catalog."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.zip").write_bytes(OTHER_ZIP)
    return folder


def write_sums(folder: Path, sign: str = " ") -> None:
    digest = hashlib.sha256((folder / "a.zip").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest} {sign}a.zip\n")


VOUCHED = "a.zip: checked against the mirror's SHA256SUMS, not the catalog"


@pytest.mark.parametrize("sign", [" ", "*"])
@pytest.mark.parametrize("form", [str, Path, Path.as_uri])
def test_mirror_that_vouches(
    tmp_path: Path,
    server: Server,
    entry: CatalogEntry,
    mirror: Path,
    form: Callable[[Path], str | Path],
    sign: str,
) -> None:
    """Its SHA256SUMS stands in for the catalog; read in place, not copied; and it is said."""
    write_sums(mirror, sign)
    report = download(entry, tmp_path / "d", mirror=form(mirror))
    assert report.notes == (VOUCHED,)
    assert names(tmp_path / "d") == {*PICTURES, MARKER}
    assert (tmp_path / "d" / "im0").read_bytes() == PICTURES["im0"][::-1]
    assert names(mirror) == {"a.zip", "SHA256SUMS"}
    assert server.asked == []


def test_mirror_that_does_not_vouch(tmp_path: Path, entry: CatalogEntry, mirror: Path) -> None:
    """Without SHA256SUMS, or not listed in it, the file must be that of the catalog."""
    for sums in (None, f"{'0' * 64}  b.zip\n# nothing\n\n"):
        if sums is not None:
            (mirror / "SHA256SUMS").write_text(sums)
        with pytest.raises(DownloadError, match="expected md5"):
            download(entry, tmp_path / "d", mirror=mirror)
        assert_nothing_but(tmp_path / "d")
    (mirror / "a.zip").write_bytes(PICTURES_ZIP)
    report = download(entry, tmp_path / "d", mirror=mirror)
    assert_whole(tmp_path / "d")
    assert report.notes == ()


def test_mirror_that_is_damaged(tmp_path: Path, entry: CatalogEntry, mirror: Path) -> None:
    """A file that is not what SHA256SUMS says is refused and stays where it is."""
    write_sums(mirror)
    (mirror / "a.zip").write_bytes(PICTURES_ZIP)
    with pytest.raises(DownloadError, match="expected sha256"):
        download(entry, tmp_path / "d", mirror=mirror)
    assert_nothing_but(tmp_path / "d")
    assert (mirror / "a.zip").read_bytes() == PICTURES_ZIP


def test_mirror_in_the_folder_itself(tmp_path: Path, entry: CatalogEntry, mirror: Path) -> None:
    """A mirror's archives are never removed, not even if they are unpacked beside themselves."""
    write_sums(mirror)
    download(entry, mirror, mirror=mirror)
    assert names(mirror) == {*PICTURES, MARKER, "a.zip", "SHA256SUMS"}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("http://example.org/mirror", "only https: is allowed"),
        ("http://127.0.0.1.example.org/", "only https: is allowed"),
        ("ftp://localhost/mirror", "only https: is allowed"),
        ("file://elsewhere/mirror", "on this computer"),
        ("file:///no/such/folder", "neither a folder nor"),
        ("/no/such/folder", "neither a folder nor"),
        ("https://localhost:port/", "not a URL"),
    ],
)
def test_unfit_mirrors(tmp_path: Path, entry: CatalogEntry, place: str, reason: str) -> None:
    """A mirror is a folder, https:, file: or http: on this computer; else it is refused."""
    with pytest.raises(DownloadError, match=reason):
        download(entry, tmp_path / "d", mirror=place)
    assert_nothing_but(tmp_path / "d")


def test_mirror_without_the_file(tmp_path: Path, entry: CatalogEntry, mirror: Path) -> None:
    """A folder that lacks the archive is told by the name of the archive."""
    (mirror / "a.zip").unlink()
    with pytest.raises(DownloadError, match=r"a\.zip: no such file"):
        download(entry, tmp_path / "d", mirror=mirror)


def test_web_mirror(
    tmp_path: Path, server: Server, entry: CatalogEntry, mirror: Path, retries: RetryPolicy
) -> None:
    """A mirror on the web vouches in the same way, its list is retried, its file resumed."""
    write_sums(mirror)
    server.files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    server.faults.extend([status(503), serve(), serve(stop_after=1000)])
    report = download(entry, tmp_path / "d", mirror=f"{server.url}/deep/", retries=retries)
    assert report.notes == (VOUCHED,)
    assert (tmp_path / "d" / "im0").read_bytes() == PICTURES["im0"][::-1]
    assert server.asked == [
        ("SHA256SUMS", None),
        ("SHA256SUMS", None),
        ("a.zip", None),
        ("a.zip", "bytes=1000-"),
    ]


def test_web_mirror_that_does_not_vouch(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A mirror on the web without SHA256SUMS must have the catalog's file."""
    download(entry, tmp_path / "d", mirror=server.url, retries=retries)
    assert_whole(tmp_path / "d")
    server.files["a.zip"] = OTHER_ZIP
    with pytest.raises(DownloadError, match="expected md5"):
        download(entry, tmp_path / "e", mirror=server.url, retries=retries)
    assert_nothing_but(tmp_path / "e")


def test_endless_list_of_checksums(
    tmp_path: Path, server: Server, entry: CatalogEntry, retries: RetryPolicy
) -> None:
    """A SHA256SUMS of more than a megabyte is not read."""
    server.files["SHA256SUMS"] = b"# \n" * 1_000_000
    with pytest.raises(DownloadError, match="longer than any list"):
        download(entry, tmp_path, mirror=server.url, retries=retries)


@pytest.mark.parametrize("line", ["<html>", f"{'0' * 63}  a.zip", f"{'0' * 64}", "a.zip"])
def test_checksums_that_are_none(line: str) -> None:
    """A line that is no checksum is told with its number."""
    with pytest.raises(DownloadError, match="SUMS:2: expected"):
        read_sums(f"{'0' * 64}  ok.zip\n{line}\n", origin="SUMS")


@pytest.mark.skipif(
    not REAL_MIRROR.is_dir(), reason="the small MIRFLICKR mirror is not beside the repository"
)
def test_real_mirror(tmp_path: Path) -> None:
    """The annotations of MIRFLICKR come whole from a mirror that vouches for them."""
    full = find_entry("mirflickr25k")
    entry = replace(full, archives=full.archives[1:])
    report = download(entry, tmp_path, mirror=REAL_MIRROR)
    assert report.notes == (
        "mirflickr25k_annotations_v080.zip: "
        "checked against the mirror's SHA256SUMS, not the catalog",
    )
    assert len(list((tmp_path / "annotations").glob("*.txt"))) == report.files == 39
    assert (tmp_path / "annotations" / "sea_r1.txt").read_text().split()[0].isdigit()
    assert load_unpacked(entry, tmp_path) is not None


# The catalog and the command


@pytest.mark.parametrize("name", CATALOG)
def test_catalog_entries_are_sound(name: str) -> None:
    """Names are distinct, addresses https, lengths positive, checksums as long as they must be."""
    entry = find_entry(name)
    assert entry.name == name
    assert len({archive.name for archive in entry.archives}) == len(entry.archives) >= 1
    for archive in entry.archives:
        assert archive.url.startswith("https://")
        assert archive.name.endswith((".zip", ".tar"))
        assert archive.size is not None
        assert archive.size > 0
        algorithm, _, digest = (archive.checksum or "").partition(":")
        assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size


def test_unknown_name_gets_a_suggestion() -> None:
    """A slip of the pen is answered with the name that is closest."""
    with pytest.raises(DownloadError, match="did you mean 'mirflickr25k'"):
        find_entry("mirflickr25")


def test_hash_file(tmp_path: Path) -> None:
    """Several algorithms in one reading give the published hashes of an empty and a short file."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "empty", {"md5"}) == {"md5": "d41d8cd98f00b204e9800998ecf8427e"}
    assert hash_file(tmp_path / "abc", {"md5", "sha256"}) == {
        "md5": "900150983cd24fb0d6963f7d28e17f72",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


def test_command(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints one line on standard output and the notes on standard error."""
    write_sums(mirror)
    entry = entry_of(archive_of("https://example.org/a.zip", PICTURES_ZIP))
    monkeypatch.setattr("mlcrf.data.download.catalog.CATALOG", {"test": entry})
    app = typer.Typer()
    app.command()(command)
    arguments = ["test", "--dest", str(tmp_path / "d"), "--mirror", str(mirror)]
    for state in ("now", "already"):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.stdout == f"test: 4 files, 0.4 MB, {state} in {tmp_path / 'd'}\n"
        assert result.stderr.splitlines()[0] == f"note: {VOUCHED}"
        assert result.exit_code == 0
    with pytest.raises(DownloadError, match="unknown data set 'tset'"):
        CliRunner().invoke(app, ["tset", "--dest", "d"], catch_exceptions=False)
