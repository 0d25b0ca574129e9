"""Files that are whole or absent: whatever happens, the old one or the new one stands."""

import os
from pathlib import Path

import pytest

from mlcrf.atomic import (
    folder_beside,
    replacing,
    require_ending,
    write_bytes,
    write_text,
)
from mlcrf.errors import MlcrfError, RunError


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_the_content_appears_when_the_body_is_done(tmp_path: Path) -> None:
    """Until then the old file stands, beside a temporary one in the same folder."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary != path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failing_body_leaves_everything_as_it_was(
    tmp_path: Path, exists: bool, error: type[BaseException]
) -> None:
    """The old file is intact, or still absent, no temporary is left, and the error goes on."""
    path = tmp_path / "file.txt"
    if exists:
        path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    assert names(tmp_path) == (["file.txt"] if exists else [])
    assert not exists or path.read_text() == "old"


def test_folders_are_made(tmp_path: Path) -> None:
    """A file in folders that are not there yet brings them with it."""
    write_text(tmp_path / "a" / "b" / "file.txt", "x")
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "x"


def test_text_is_utf8_with_line_feeds(tmp_path: Path) -> None:
    """What is written is what was given, byte for byte."""
    write_text(tmp_path / "text", "été\n海\n")
    assert (tmp_path / "text").read_bytes() == "été\n海\n".encode()
    write_bytes(tmp_path / "bytes", b"\r\n\x00\xff")
    assert (tmp_path / "bytes").read_bytes() == b"\r\n\x00\xff"
    write_bytes(tmp_path / "bytes", b"")
    assert (tmp_path / "bytes").read_bytes() == b""


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    """The file behind a link is replaced, the link stays."""
    (tmp_path / "behind").mkdir()
    target, link = tmp_path / "behind" / "file.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names(tmp_path / "behind") == ["file.txt"]


def test_permissions_are_those_of_any_other_file(tmp_path: Path) -> None:
    """An old file keeps its permissions; a new one has those that the umask leaves."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("x")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_text(old, "y")
        write_text(new, "y")
        assert os.umask(0o027) == 0o027  # left as it was found
    finally:
        os.umask(before)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o640


def test_the_content_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is synced, whole, while the old file still stands."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    synced: list[tuple[int, str]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((os.fstat(handle).st_size, path.read_text()))
    )
    write_text(path, "newer")
    assert synced[0] == (5, "old")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A file for a folder, and a folder in the file's place, are errors that name the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(MlcrfError, match=r"file/below\.txt: cannot be written: .*or choose anoth"):
        write_text(tmp_path / "file" / "below.txt", "y")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MlcrfError, match="folder: cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "y")
    assert names(tmp_path) == ["file", "folder"]


def test_a_full_disk(tmp_path: Path) -> None:
    """An error of the system's while writing is told with the path; the old file is intact."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fill() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(MlcrfError, match=r"file\.txt: cannot be written: No space left on device"):
        fill()
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "name", ["x" * 255, "海" * 85, "\N{GRINNING FACE}" * 63], ids=["1", "3", "4"]
)
def test_long_names(tmp_path: Path, name: str) -> None:
    """Any name that the file system takes will do, with 1, 3 or 4 bytes a character."""
    (tmp_path / name).write_text("old")
    write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"


def test_a_folder_is_made_beside_and_leaves_nothing(tmp_path: Path) -> None:
    """What the body moves to its place stays; the rest goes, after an error too."""
    out = tmp_path / "runs" / "run"
    with folder_beside(out) as place:
        assert place.parent == out.parent
        (place / "new").mkdir()
        (place / "rest").touch()
        (place / "new").rename(out)
    assert names(out.parent) == ["run"]
    with pytest.raises(ValueError, match="stop"), folder_beside(out):
        raise ValueError("stop")
    assert names(out.parent) == ["run"]
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"file/run: cannot be made"),
        folder_beside(tmp_path / "file" / "run"),
    ):
        pytest.fail("there is no place for it")


def test_an_output_that_cannot_be_made_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing folders are made later; a file in the place of one, and a closed one, are told."""
    require_ending(tmp_path / "new" / "folder" / "out.csv", (".csv",))
    (tmp_path / "file").touch()
    with pytest.raises(MlcrfError, match=r"cannot be written: .*file is a file; choose another"):
        require_ending(tmp_path / "file" / "out.csv", (".csv",))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(MlcrfError, match="cannot be written: no file can be made in"):
        require_ending(tmp_path / "out.csv", (".csv",))
    assert names(tmp_path) == ["file"]
