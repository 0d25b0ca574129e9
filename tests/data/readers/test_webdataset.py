"""Tar files of pictures and tags: read as they are, to train on and to tag."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcrf.data.readers import ReadOptions, find_reader, read_dataset
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import LocalImage, as_image
from mlcrf.images.containers import members
from mlcrf.images.listing import list_images
from mlcrf.images.pixels import load_pixels
from mlcrf.labels import LabelSpace


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_tar(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            archive.addfile(info, io.BytesIO(content))
    return path


def tags(*names: str) -> bytes:
    return json.dumps({"labels": names, "url": "https://example.org"}).encode()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tar files, in one of which a picture has no tags and one lies deeper."""
    folder = tmp_path / "shards"
    first = {"001.png": picture(1), "001.json": tags("sea", "sky"), "002.png": picture(2)}
    first |= {"002.txt": b"sky\n", "note": b"x", "003.png": picture(3)}
    second = {"a/001.seg.PNG": picture(4), "a/001.json": tags(), "a/002.json": tags("dog")}
    make_tar(folder / "b.tar", second | {"ü/1.png": picture(5), "ü/1.txt": b"?"})
    make_tar(folder / "a.tar", first)
    return folder


def test_a_folder_of_them(shards: Path) -> None:
    """Tags from JSON and from text, unknown and none at all; what has none is counted."""
    assert find_reader(shards).name == "webdataset"
    data = read_dataset(shards)
    assert list(data.labels) == ["sea", "sky"]
    names = [Path(image.name).relative_to(shards).as_posix() for image in data.images]
    assert names == ["a.tar/001.png", "a.tar/002.png", "b.tar/a/001.seg.PNG", "b.tar/ü/1.png"]
    assert data.targets.tolist() == [[1, 1], [0, 1], [0, 0], [-1, -1]]
    assert data.notes == (
        "1 image without tags is left out",
        "1 file of tags belongs to no image and is not used",
    )
    one = read_dataset(shards / "a.tar", ReadOptions(labels=LabelSpace(("sky", "sea", "dog"))))
    assert one.targets.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_pixels_are_those_of_the_files(shards: Path, tmp_path: Path) -> None:
    """Read where they stand; the cache knows them by the tar's time and their own length."""
    for image in read_dataset(shards).images:
        loose = tmp_path / "loose.png"
        loose.write_bytes(image.read())
        assert np.array_equal(load_pixels(image, 16), load_pixels(as_image(loose), 16))
        stamp = image.stamp()
        assert stamp is not None and stamp.size == loose.stat().st_size
    none = as_image(shards / "a.tar" / "none.png")
    assert none.stamp() is None
    with pytest.raises(DataError, match=r"a\.tar/none\.png: .*no such file in a\.tar"):
        load_pixels(none, 16)
    assert as_image(tmp_path / "no.tar" / "1.png") == LocalImage(str(tmp_path / "no.tar" / "1.png"))


def test_listing(shards: Path) -> None:
    """A tar stands for its pictures, and so does a folder of tars; one among photos does not."""
    listed = list(list_images([shards / "b.tar", shards / "a.tar"]))
    assert [image.file_name for image in listed] == [
        "001.seg.PNG",
        "1.png",
        *("001.png",),
        "002.png",
        "003.png",
    ]
    assert list(list_images([shards])) == [*listed[2:], *listed[:2]]
    (shards / "loose.png").write_bytes(picture(7))
    assert list(list_images([shards])) == [as_image(shards / "loose.png")]


def test_a_tar_that_is_written_anew(shards: Path) -> None:
    """Is read anew."""
    path = shards / "a.tar"
    assert len(list(members(path))) == 6
    make_tar(path, {"x.png": picture(9), "x.txt": b"dog"})
    assert [one.file_name for one in members(path)] == ["x.png", "x.txt"]


WRONG = [
    ({"1.png": b"", "1.json": b"{"}, r"1\.json: cannot be read as JSON"),
    ({"1.png": b"", "1.json": b"[]"}, r"1\.json: has neither"),
    ({"1.png": b"", "1.json": b'{"labels": {}}'}, r"1\.json: cannot be read as JSON with a list"),
    ({"1.png": b"", "1.txt": b"\xff"}, r"1\.txt:1: is not UTF-8 text"),
    ({"1.png": b""}, "no image has tags; expected 1.json or 1.txt"),
    ({"../1.png": b"", "1.txt": b"a"}, r"contains '\.\./1\.png', which leads out of it"),
    ({"/1.png": b"", "1.txt": b"a"}, "which leads out of it"),
    ({"1.png": b"", "./1.png": b"", "1.txt": b"a"}, "twice"),
]


@pytest.mark.parametrize(("files", "message"), WRONG)
def test_what_is_wrong_with_it(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    """Names the file, within the tar where it stands there."""
    path = make_tar(tmp_path / "x.tar", files)
    with pytest.raises(DataError, match=f"x.tar.*{message}"):
        read_dataset(path)


def test_labels_that_were_not_expected(shards: Path) -> None:
    """One line each."""
    with pytest.raises((DataError, LabelsError), match=r"a\.tar/001\.json: unknown label 'sea'"):
        read_dataset(shards, ReadOptions(labels=LabelSpace(("sky", "dog"))))


def test_links_are_no_pictures(tmp_path: Path) -> None:
    """Nor devices; nothing of the tar leads anywhere else."""
    path = tmp_path / "x.tar"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        make_tar(path, {"1.png": b""}, kind)
        assert list(members(path)) == []


@pytest.mark.parametrize("cut", [600, 1024, 1500, -1024])
def test_a_tar_that_ends_too_soon(shards: Path, cut: int) -> None:
    """Damaged, compressed or no tar at all: one line that names it."""
    path = shards / "a.tar"
    content = path.read_bytes()
    path.write_bytes(content[:cut].rstrip(b"\0") if cut < 0 else content[:cut])
    with pytest.raises(DataError, match=r"a\.tar"):
        read_dataset(path)
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DataError, match=r"a\.tar: cannot be read as a tar file"):
        read_dataset(path)
