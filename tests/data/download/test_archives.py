"""Unpacking: honest archives whole, hostile ones not at all, and nothing outside."""

import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mlcrf.data.download.archives import UnpackLimits, unpack
from mlcrf.errors import DownloadError

GOOD = {"set/im1.jpg": b"one" * 100, "set/deep/im2.jpg": b"two", "README.txt": b""}
DEFAULTS = UnpackLimits()
NOISE = random.Random(0).randbytes(200_000)

Maker = Callable[[Path, Mapping[str, bytes]], Path]


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def make_tar(path: Path, files: Mapping[str, bytes], mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_tar_gz(path: Path, files: Mapping[str, bytes]) -> Path:
    return make_tar(path, files, "w:gz")


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar, make_tar_gz])


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, links and folders too: those as empty bytes with a sign."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[f"{name}@"] = b""
        elif path.is_dir():
            found[f"{name}/"] = b""
        else:
            found[name] = path.read_bytes()
    return found


def assert_refused(
    tmp_path: Path, archive: Path, reason: str, limits: UnpackLimits = DEFAULTS
) -> None:
    """The archive is refused in one line with that reason, and changes nothing at all."""
    into = tmp_path / "outer" / "into"
    into.mkdir(parents=True)
    (into / "mine.txt").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(DownloadError, match=reason) as caught:
        unpack(archive, into, limits=limits)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)
    assert archive.name in str(caught.value)


@MAKERS
def test_unpacks_every_file(tmp_path: Path, make: Maker) -> None:
    """All files arrive with their content, and the report has their lengths."""
    archive = make(tmp_path / "a", GOOD)
    report = unpack(archive, tmp_path / "into")
    files = {name: data for name, data in contents(tmp_path / "into").items() if name[-1] != "/"}
    assert files == GOOD
    assert report.sizes == {name: len(content) for name, content in GOOD.items()}


@MAKERS
def test_merges_into_what_is_there(tmp_path: Path, make: Maker) -> None:
    """Other files stay, files of the same name are replaced."""
    into = tmp_path / "into"
    (into / "set").mkdir(parents=True)
    (into / "set" / "im1.jpg").write_bytes(b"old")
    (into / "set" / "mine.jpg").write_bytes(b"mine")
    unpack(make(tmp_path / "a", GOOD), into)
    assert (into / "set" / "im1.jpg").read_bytes() == GOOD["set/im1.jpg"]
    assert (into / "set" / "mine.jpg").read_bytes() == b"mine"


@MAKERS
def test_leaves_the_litter_of_macos(tmp_path: Path, make: Maker) -> None:
    """`__MACOSX` and `.DS_Store` are skipped, and the rest is unpacked."""
    litter = {"__MACOSX/set/._im1.jpg": b"x", "set/.DS_Store": b"x"}
    report = unpack(make(tmp_path / "a", GOOD | litter), tmp_path / "into")
    assert set(report.sizes) == set(GOOD)
    assert not {"__MACOSX/", "set/.DS_Store"} & set(contents(tmp_path / "into"))
    assert "set/im1.jpg" in contents(tmp_path / "into")


def test_folders_and_leading_dot(tmp_path: Path) -> None:
    """Members `./` and folders, as tar writes them, are no fault."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in (".", "./set"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("./set/im1.jpg"))
    assert dict(unpack(path, tmp_path / "into").sizes) == {"set/im1.jpg": 0}


def test_tells_progress(tmp_path: Path) -> None:
    """The last call of progress says that all bytes are done."""
    calls: list[tuple[str, int, int | None]] = []
    unpack(
        make_zip(tmp_path / "a.zip", GOOD),
        tmp_path / "into",
        progress=lambda *call: calls.append(call),
    )
    total = sum(map(len, GOOD.values()))
    assert calls[-1] == ("unpacking a.zip", total, total)


@MAKERS
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/evil", "absolute"),
        ("../evil", r"'\.\.'"),
        ("set/../../evil", r"'\.\.'"),
        ("set/..", r"'\.\.'"),
        ("C:/evil", "colon"),
        ("C:evil", "colon"),
        ("..\\evil", "backslash"),
        ("set\\evil", "backslash"),
        ("set//evil", "empty part"),
        ("set/evil.", "dot"),
        ("set/evil ", "dot"),
        ("set/ev\nil", "control"),
        (".mlcrf-download.json", "reserved"),
        ("set/.MLCRF-unpacking/x", "reserved"),
        ("SET/im1.jpg", "meets that of 'set'"),
        ("set/IM1.jpg", "meets that of 'set/im1.jpg'"),
        ("set/im1.jpg/x", "meets that of 'set/im1.jpg'"),
        ("set/deep", "meets that of 'set/deep'"),
    ],
)
def test_refuses_unsafe_names(tmp_path: Path, make: Maker, name: str, reason: str) -> None:
    """A name that could lead outside, or hit another member, ends it all."""
    assert_refused(tmp_path, make(tmp_path / "a", GOOD | {name: b"evil"}), reason)


@MAKERS
@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("\u03b1\u0345\u0301", "\u03b1\u0301\u0345"), ("ß", "SS")],
)
def test_refuses_names_that_differ_in_composition(
    tmp_path: Path, make: Maker, one: str, other: str
) -> None:
    """An accented letter, and a letter with an accent, are one file name to some systems."""
    assert_refused(tmp_path, make(tmp_path / "a", {one: b"1", other: b"2"}), "meets that of")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refuses_exact_duplicates(tmp_path: Path) -> None:
    """The same name twice ends it all, in a zip and in a tar file."""
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as unfinished_zip:
                unfinished_zip.writestr("im1.jpg", b"1")
                unfinished_zip.writestr("im1.jpg", b"2")
        else:
            with tarfile.open(path, "w") as unfinished_tar:
                unfinished_tar.addfile(tarfile.TarInfo("im1.jpg"))
                unfinished_tar.addfile(tarfile.TarInfo("im1.jpg"))
        assert_refused(tmp_path / path.suffix[1:], path, "meets that of 'im1.jpg'")


@pytest.mark.parametrize("suffix", [":", ":gz"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "device"),
        (b"Z", "device"),
    ],
)
def test_refuses_special_tar_members(tmp_path: Path, kind: bytes, reason: str, suffix: str) -> None:
    """Links and devices end it all, also where a later member would go through the link."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w{suffix}") as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, ".."
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("link/evil"))
    assert_refused(tmp_path, path, f"'link' refused: it is a {reason}")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(stat.S_IFLNK, "symbolic link"), (stat.S_IFCHR, "device"), (stat.S_IFIFO, "device")],
)
def test_refuses_special_zip_members(tmp_path: Path, mode: int, reason: str) -> None:
    """Links and devices that a zip file declares end it all."""
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    assert_refused(tmp_path, tmp_path / "a.zip", f"it is a {reason}")


def test_never_follows_links_that_are_there(tmp_path: Path) -> None:
    """A link below the target folder is not written through, even if the user made it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outer" / "into").mkdir(parents=True)
    (tmp_path / "outer" / "into" / "set").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DownloadError, match="in the way"):
        unpack(make_zip(tmp_path / "a.zip", GOOD), tmp_path / "outer" / "into")
    assert contents(tmp_path / "elsewhere") == {}
    assert set(contents(tmp_path / "outer" / "into")) == {"set@"}


@pytest.mark.parametrize("make", [make_zip, make_tar_gz])
def test_refuses_a_bomb(tmp_path: Path, make: Maker) -> None:
    """Zeros that pack a thousandfold are refused, and pass if the ratio allowed is raised."""
    archive = make(tmp_path / "a", {"zeros": bytes(5_000_000)})
    assert_refused(tmp_path, archive, "over 200 times")
    report = unpack(archive, tmp_path / "more", limits=UnpackLimits(max_ratio=2000))
    assert report.sizes == {"zeros": 5_000_000}


def test_refuses_a_bomb_of_many_small_members(tmp_path: Path) -> None:
    """The ratio of the whole counts too, where each member is too small to be looked at."""
    files = {f"{number}": bytes(1_000_000) for number in range(10)}
    assert_refused(tmp_path, make_zip(tmp_path / "a.zip", files), "over 200 times")


@MAKERS
def test_caps_files_and_bytes(tmp_path: Path, make: Maker) -> None:
    """The caps let through what just meets them and refuse one more."""
    archive = make(tmp_path / "a", {"a": NOISE, "b": NOISE})
    assert len(unpack(archive, tmp_path / "x", limits=UnpackLimits(2, 400_000)).sizes) == 2
    assert_refused(tmp_path / "1", archive, "1 members allowed", UnpackLimits(1, 400_000))
    assert_refused(tmp_path / "2", archive, "399999 bytes", UnpackLimits(2, 399_999))


@MAKERS
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_refuses_truncated_archives(tmp_path: Path, make: Maker, share: float) -> None:
    """An archive that is cut off anywhere is refused as a whole."""
    whole = make(tmp_path / "whole", {f"{i}.jpg": NOISE[: 40_000 + i] for i in range(5)})
    data = whole.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    assert_refused(tmp_path, tmp_path / "cut", "cannot be unpacked")


def test_refuses_a_tar_cut_off_in_a_header(tmp_path: Path) -> None:
    """A cut within a later header, which tarfile takes for the end, is seen."""
    data = make_tar(tmp_path / "whole", {"a": bytes(512), "b": bytes(512)}).read_bytes()
    (tmp_path / "cut").write_bytes(data[: 1024 + 200])
    assert_refused(tmp_path, tmp_path / "cut", "cannot be unpacked")


@MAKERS
def test_refuses_damaged_content(tmp_path: Path, make: Maker) -> None:
    """A flipped byte fails the CRC or the header's sum, and nothing is unpacked."""
    archive = make(tmp_path / "a", {"a.jpg": NOISE, "b.jpg": NOISE[::-1]})
    data = bytearray(archive.read_bytes())
    spot = len(data) // 3 if make is not make_tar else 512 + 200_192 + 20  # a tar has no CRC
    data[spot] ^= 0xFF
    archive.write_bytes(data)
    assert_refused(tmp_path, archive, "cannot be unpacked")


@pytest.mark.parametrize(
    ("declared", "reason"), [(100_000, "Bad CRC"), (300_000, "not as long as the 300000 bytes")]
)
def test_refuses_a_false_length(tmp_path: Path, declared: int, reason: str) -> None:
    """A zip member that holds more, or less, than its headers declare is refused."""
    archive = make_zip(tmp_path / "a.zip", {"a.jpg": NOISE})
    true, false = struct.pack("<L", len(NOISE)), struct.pack("<L", declared)
    assert archive.read_bytes().count(true) == 2
    archive.write_bytes(archive.read_bytes().replace(true, false))
    assert_refused(tmp_path, archive, reason)


@pytest.mark.parametrize(
    "content", [b"", b"<html>Not found</html>" * 100, b"PK\x03\x04" + NOISE, gzip.compress(NOISE)]
)
def test_refuses_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    """Empty files, pages of HTML and damaged beginnings are no archives."""
    (tmp_path / "a.zip").write_bytes(content)
    assert_refused(tmp_path, tmp_path / "a.zip", "cannot be unpacked")


def test_refuses_a_missing_archive(tmp_path: Path) -> None:
    """A path that is not there is told, and no folder appears."""
    with pytest.raises(DownloadError, match="No such file"):
        unpack(tmp_path / "none.zip", tmp_path / "into")
    assert contents(tmp_path) == {}


def test_refuses_huge_tar_headers(tmp_path: Path) -> None:
    """A header that unpacks to gigabytes is refused before it is read into memory."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf() + bytes(1024)))
    assert_refused(tmp_path, tmp_path / "a.tar.gz", "a header of 4294967296 bytes")


def test_refuses_data_after_the_end(tmp_path: Path) -> None:
    """Much data behind the end of a tar file, where nobody looks, is refused."""
    archive = make_tar(tmp_path / "a.tar", GOOD)
    archive.write_bytes(archive.read_bytes() + bytes(2 << 20))
    assert_refused(tmp_path, archive, "data after its end")


def test_refuses_encrypted_members(tmp_path: Path) -> None:
    """An encrypted member is named as such."""
    archive = make_zip(tmp_path / "a.zip", {"a.jpg": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    assert_refused(tmp_path, archive, "encrypted")


def test_cleans_up_after_a_killed_run(tmp_path: Path) -> None:
    """What a killed run left in the temporary folder is gone and is not moved into place."""
    stale = tmp_path / "into" / ".mlcrf-unpacking"
    stale.mkdir(parents=True)
    (stale / "half.jpg").write_bytes(b"half")
    unpack(make_zip(tmp_path / "a.zip", {"a.jpg": b"1"}), tmp_path / "into")
    assert contents(tmp_path / "into") == {"a.jpg": b"1"}


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk at the second file removes the first."""
    archive = make_zip(tmp_path / "a.zip", {"a.jpg": b"1", "b.jpg": b"2"})
    open_path = Path.open

    def fail(path: Path, mode: str = "r", *args: object, **named: object) -> object:
        if path.name == "b.jpg":
            raise OSError(28, "No space left on device")
        return open_path(path, mode)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DownloadError, match="No space left"):
        unpack(archive, tmp_path / "into")
    monkeypatch.undo()
    assert set(contents(tmp_path)) == {"a.zip"}


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Damaged archives end in a DownloadError or whole: never in another error, never half."""
    outcomes = set()
    for number in range(300):
        generator = random.Random(number)
        make = (make_zip, make_tar, make_tar_gz)[number % 3]
        archive = make(tmp_path / f"{number}", GOOD)
        data = bytearray(archive.read_bytes())
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(min(len(data), 2048))] = generator.randrange(256)
        archive.write_bytes(data)
        into = tmp_path / "into" / f"{number}"
        try:
            report = unpack(archive, into)
            found = contents(into) if into.exists() else {}
            assert {n for n in found if n[-1] != "/"} == set(report.sizes)
            outcomes.add("unpacked")
        except DownloadError:
            assert not into.exists()
            outcomes.add("refused")
        archive.unlink()
    assert outcomes == {"unpacked", "refused"}
    assert set(contents(tmp_path)) == {n for n in contents(tmp_path) if n.startswith("into/")}
