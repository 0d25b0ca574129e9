"""Features on disk: found by file and by content, whole or not there, damage told."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcrf.backbones.cache import Feature, FeatureCache
from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.images.image import Stamp
from tests.making import images_of

ONE: Feature = np.array([1.5, -0.0, np.inf], dtype=np.float32)
TWO: Feature = np.array([3e-45, 2.0, -1.0], dtype=np.float32)


def stamp_of(path: Path) -> Stamp:
    stamp = as_image(path).stamp()
    assert stamp is not None
    return stamp


def make_file(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


def assert_same(found: Feature | None, expected: Feature) -> None:
    """The same bits, in an array of its own."""
    assert found is not None
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()
    assert found.flags.writeable


def test_finds_what_was_added(tmp_path: Path) -> None:
    """Every bit comes back in the order asked for, also in a later session; others are unknown."""
    paths = [make_file(tmp_path / name, name.encode()) for name in ("a", "b", "c")]
    with FeatureCache(tmp_path / "new" / "cache", "key") as cache:
        cache.add([(stamp_of(paths[0]), b"A", ONE), (stamp_of(paths[1]), b"B", TWO)])
        assert_same(cache.find(images_of(paths))[0], ONE)
    with FeatureCache(tmp_path / "new" / "cache", "key") as cache:
        second, third, first = cache.find(images_of([paths[1], paths[2], paths[0]]))
        assert_same(first, ONE)
        assert_same(second, TWO)
        assert third is None
    with FeatureCache(tmp_path / "new" / "cache", "another") as cache:
        assert cache.find(images_of(paths)) == [None, None, None]


def test_finds_content(tmp_path: Path) -> None:
    """Features are found by the hash of what a file holds, wherever that is now."""
    with FeatureCache(tmp_path, "key") as cache:
        cache.add([(stamp_of(make_file(tmp_path / "a")), b"A", ONE)])
        assert_same(cache.find_content(b"A"), ONE)
        assert cache.find_content(b"B") is None
        assert cache.find_content(b"") is None


def test_changed_files_are_unknown(tmp_path: Path) -> None:
    """Another length, another time, or no file at all: nothing is known of it."""
    path = make_file(tmp_path / "a")
    with FeatureCache(tmp_path, "key") as cache:
        cache.add([(stamp_of(path), b"A", ONE)])
        status = path.stat()
        path.write_bytes(b"longer content")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert cache.find(images_of([path])) == [None]
        path.write_bytes(b"CONTENT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert cache.find(images_of([path])) == [None]
        path.unlink()
        assert cache.find(images_of([path, tmp_path / "nul\0l"])) == [None, None]


def test_later_features_replace_earlier(tmp_path: Path) -> None:
    """A file that is added again has its new features only."""
    path = make_file(tmp_path / "a")
    with FeatureCache(tmp_path, "key") as cache:
        cache.add([(stamp_of(path), b"A", ONE)])
        path.write_bytes(b"new")
        cache.add([(stamp_of(path), b"B", TWO)])
        assert_same(cache.find(images_of([path]))[0], TWO)


def test_relative_and_absolute_paths_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is the same file from wherever it is named, also if its name is not UTF-8."""
    path = make_file(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    with FeatureCache(tmp_path, "key") as cache:
        cache.add([(stamp_of(path), b"A", ONE)])
        monkeypatch.chdir(tmp_path)
        assert_same(cache.find(images_of([Path(path.name)]))[0], ONE)


def test_the_same_size_and_time(tmp_path: Path) -> None:
    """A file that is replaced by one of its size and time is another."""
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"old")
    status = path.stat()
    times = (status.st_atime_ns, status.st_mtime_ns)
    with FeatureCache(tmp_path, "key") as cache:
        cache.add([(stamp_of(path), b"A", ONE)])
        assert_same(cache.find(images_of([path]))[0], ONE)
        other.write_bytes(b"new")
        os.utime(other, ns=times)
        other.replace(path)
        assert stamp_of(path).mtime_ns == status.st_mtime_ns
        assert cache.find(images_of([path])) == [None]


def test_all_or_none(tmp_path: Path) -> None:
    """If one entry of a batch cannot be written, none is."""
    path, other = make_file(tmp_path / "a"), make_file(tmp_path / "b")
    bad: Any = {}  # no digest
    with FeatureCache(tmp_path, "key") as cache:
        with pytest.raises(DataError, match=r"features-key\.sqlite: the feature cache cannot be"):
            cache.add([(stamp_of(path), b"A", ONE), (stamp_of(other), bad, TWO)])
        assert cache.find(images_of([path, other])) == [None, None]
        assert cache.find_content(b"A") is None


@pytest.mark.parametrize("attempt", range(10))
def test_many_writers(tmp_path: Path, attempt: int) -> None:
    """Sessions that make the file and write to it at the same time lose nothing."""
    paths = [make_file(tmp_path / f"{number}") for number in range(20)]

    def write(part: list[Path]) -> None:
        with FeatureCache(tmp_path, "key") as cache:
            for path in part:
                cache.add([(stamp_of(path), path.name.encode(), ONE)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [paths[start::4] for start in range(4)]))
    with FeatureCache(tmp_path, "key") as cache:
        assert all(found is not None for found in cache.find(images_of(paths)))


def fill(folder: Path) -> tuple[Path, Path]:
    """A cache of some pages; the path of it and of a file that it knows."""
    path = make_file(folder / "picture")
    with FeatureCache(folder, "key") as cache:
        for number in range(100):
            cache.add([(stamp_of(path), f"{number}".encode(), np.zeros(500, dtype=np.float32))])
    assert cache.path.stat().st_size > 100_000
    return cache.path, path


@pytest.mark.parametrize("harm", ["rubbish", "header", "pages", "cut", "table", "folder"])
def test_damage_is_told(tmp_path: Path, harm: str) -> None:
    """A file that is no SQLite file, or damaged inside, is named, with what to do about it."""
    database, picture = fill(tmp_path)
    content = database.read_bytes()
    match harm:
        case "rubbish":
            database.write_bytes(b"no database" * 1000)
        case "header":
            database.write_bytes(b"\xff" * 100 + content[100:])
        case "pages":
            database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        case "cut":
            database.write_bytes(content[:5000])
        case "table":
            database.unlink()
            with sqlite3.connect(database) as other:
                other.execute("CREATE TABLE stamps (something)")
            other.close()
        case "folder":
            database.unlink()
            database.mkdir()
    with pytest.raises(DataError) as caught:  # noqa: SIM117
        with FeatureCache(tmp_path, "key") as cache:
            cache.find(images_of([picture]))
    assert str(caught.value).startswith(f"{database}: the feature cache cannot be used: ")
    assert "delete the file" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("vector", [b"\0" * 7, None, "text", 5])
def test_damaged_features_are_told(tmp_path: Path, vector: object) -> None:
    """Features that are no row of float32 are damage, not an error of ours."""
    database, picture = fill(tmp_path)
    with sqlite3.connect(database) as other:
        other.execute("UPDATE features SET vector = ?", (vector,))
    other.close()
    with FeatureCache(tmp_path, "key") as cache, pytest.raises(DataError, match="cannot be used"):
        cache.find(images_of([picture]))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where the folder is to be is told in one line."""
    with pytest.raises(DataError, match="choose another --cache-dir"):
        FeatureCache(make_file(tmp_path / "a") / "cache", "key")
