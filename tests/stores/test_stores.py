"""Photos and tables in object stores: as those on a disk, but by their URLs."""

import os
import socket
import tempfile
from importlib.util import find_spec as find_module
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import typer

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.choices import EngineName
from mlcrf.cli.sources import ImageSource
from mlcrf.errors import DataError, MlcrfError
from mlcrf.images import ListedImages, as_image, list_images
from mlcrf.images.file_kinds import is_image_name
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Part, PredictionWriter, Tagger
from mlcrf.stores import Stored, parse_place, parse_target, replacing, write_text
from mlcrf.stores.drivers import system
from tests.program import run_program
from tests.review.conftest import make_folder, small_run
from tests.stores.conftest import S3Bucket, bucket

__all__ = ["bucket", "small_run"]

NAMES = ["b ü.png", "a/2.png", "a/10.png", "a.png", "a/b/3.png", ".hidden.png", ".dot/4.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos, of which five are to be seen, two that are broken, and what is no photo."""
    folder = make_folder(tmp_path / "photos", NAMES)
    (folder / "a" / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture(params=["memory", "file", "s3"])
def place(request: pytest.FixtureRequest, photos: Path) -> str:
    """The URL of the same photos in each store."""
    match request.param:
        case "memory":
            memory = fsspec.filesystem("memory")
            memory.store.clear()
            memory.put(str(photos), "/here", recursive=True)
            return "memory://here/photos" if memory.exists("/here/photos") else "memory://here"
        case "file":
            return f"file://{photos}"
        case _:
            held: S3Bucket = request.getfixturevalue("bucket")
            return held.upload(photos)


def test_photos_are_listed_and_tagged_as_on_a_disk(
    place: str, photos: Path, small_run: Path, tmp_path: Path
) -> None:
    """In the same order, with the same probabilities and errors; nothing is fetched to a disk."""
    tagger = Tagger.load(small_run)
    here = list(tagger.predict_listed(ListedImages(lambda _: list_images([photos]))))
    there = list(tagger.predict_listed(ListedImages(lambda _: list_images([parse_place(place)]))))
    assert len(here) == 7
    for ours, theirs in zip(there, here, strict=True):
        assert str(ours.image) == str(theirs.image).replace(str(photos), place)
        assert ours.error == theirs.error.replace(str(photos), place)
        assert (ours.labels, ours.marginals) == (theirs.labels, theirs.marginals)
    assert [one.image.file_name for one in there if one.error] == ["empty.jpg", "broken.png"]


def test_a_file_and_a_folder_with_a_slash(place: str) -> None:
    """A file stands for itself; a folder is the same with a slash behind it."""
    assert [str(one) for one in list_images([parse_place(f"{place}/a.png")])] == [f"{place}/a.png"]
    with_slash, without = (
        list(parse_place(one).walk(is_image_name)) for one in (f"{place}/", place)
    )
    assert with_slash == without
    with pytest.raises(DataError, match="none: no such file or folder"):
        list(list_images([parse_place(f"{place}/none")]))


def test_parts_are_cut_by_names_below_the_place(place: str, photos: Path) -> None:
    """So that a folder and its copy in a store are cut alike."""
    stored = parse_place(place)
    for number in (1, 2, 3):
        kept = [
            [str(one).replace(str(root), "") for one in list_images([root]) if has(one)]
            for root in (stored, photos)
            for has in [Part(number, 3).chooser([root], of_folders=False)]
        ]
        assert kept[0] == kept[1]


def test_features_are_found_again_by_content(place: str, photos: Path, tmp_path: Path) -> None:
    """Those of a copy on a disk too."""
    backbone = make_backbone(find_spec("tiny"), seed=0)
    files = [
        one for one in list_images([photos]) if one.file_name not in ("broken.png", "empty.jpg")
    ]
    stored = [as_image(str(one).replace(str(photos), place)) for one in files]
    cached = tmp_path / "cache"
    first = FeatureExtractor(backbone, engine=EngineName.TORCH, cache_dir=cached)
    expected = list(first.stream(stored))
    again = FeatureExtractor(backbone, engine=EngineName.TORCH, cache_dir=cached)
    again._engine = lambda pixels: pytest.fail("was computed again")
    for found in (list(again.stream(files)), list(again.stream(stored))):
        for ours, theirs in zip(found, expected, strict=True):
            assert not isinstance(ours, DataError) and not isinstance(theirs, DataError)
            assert (ours == theirs).all()


def test_a_table_is_there_once_it_is_whole(
    bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the table of errors; none of both after a failure, and none is replaced unasked."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    labels = LabelSpace(("sea", "sky"))
    target = parse_target(f"{bucket.url}/out/tags.csv")
    with pytest.raises(KeyError), PredictionWriter(target, labels):
        raise KeyError
    assert bucket.keys() == []
    tagged = Tagger.load().predict([f"{bucket.url}/none.jpg"])
    with PredictionWriter(target, labels) as writer:
        for one in tagged:
            writer.write(one)
        assert bucket.keys() == []
    assert bucket.keys() == ["out/tags.csv", "out/tags.errors.csv"]
    with pytest.raises(DataError, match=r"out/tags.csv: exists already; choose another --out"):
        PredictionWriter(target, labels)
    with PredictionWriter(target, labels, overwrite=True):
        pass
    assert bucket.keys() == ["out/tags.csv"]
    assert list(tmp_path.rglob("*")) == []


def test_what_cannot_be_sent_is_kept_here(bucket: S3Bucket) -> None:
    """After three tries; the error says where."""
    with pytest.raises(MlcrfError, match=r"cannot be written: .*; the content is in") as at:
        write_text(Stored("s3://missing/a.csv"), "all of it")
    kept = Path(str(at.value).rpartition(" ")[2])
    assert kept.read_text() == "all of it"
    kept.unlink()
    kept.parent.rmdir()


def test_a_full_disk_here_is_named(tmp_path: Path) -> None:
    """As where a table is written beside its place."""
    with (
        pytest.raises(MlcrfError, match=r"cannot be written: No space left on device; set TMPDIR"),
        replacing(Stored("memory://full/a.csv")),
    ):
        raise OSError(28, "No space left on device")


def test_the_command_from_store_to_store(
    bucket: S3Bucket, photos: Path, small_run: Path, tmp_path: Path
) -> None:
    """URLs in the table; a photo that cannot be fetched is one error."""
    place = bucket.upload(photos)
    words = ["--model", small_run, "--engine", "torch", "--out", f"{bucket.url}/out/tags.csv"]
    result = run_program("predict", place, f"{place}/a.png", *words)
    assert result.returncode == 0, result.stderr
    (tmp_path / "tags.csv").write_bytes(bucket.read("out/tags.csv"))
    expected = ["a.png", "b ü.png", "a/10.png", "a/2.png", "a/b/3.png"]
    assert list(pd.read_csv(tmp_path / "tags.csv")["image"]) == [f"{place}/{n}" for n in expected]
    left_out = "1 hidden folder, 1 hidden file, 1 other file (.txt), 1 place or link listed already"
    assert result.stdout.endswith(f"\nleft out: {left_out}\n")
    names = f"{place}/a.png\n{place}/gone.png\n"
    result = run_program("predict", "-", *words, "--overwrite", "--strict", stdin=names)
    assert result.returncode == 1
    assert result.stderr == f"error: {place}/gone.png: cannot be fetched: no such file\n"
    assert bucket.read("out/tags.csv").count(b"\n") == 2


def test_parts_from_store_to_store(bucket: S3Bucket, photos: Path, small_run: Path) -> None:
    """Written there, found finished there, and merged there to what one run writes."""
    place, parts = bucket.upload(photos), f"{bucket.url}/parts"
    words = ["predict", place, "--model", small_run, "--engine", "torch"]
    for number in (1, 3):
        done = run_program(*words, "--shard", f"{number}/3", "--out", parts)
        assert done.returncode == 0, done.stderr
    merging = ["convert", parts, "--out", f"{bucket.url}/all.csv"]
    missing = run_program(*merging)
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"error: {parts}: 1 of 3 parts are missing: 2; ")
    assert run_program(*words, "--shard", "2/3", "--out", parts).returncode == 0
    again = run_program(*words, "--shard", "3/3", "--out", parts)
    assert again.stdout == f"nothing to do: {parts}/part-00003-of-00003.parquet is finished\n"
    other = run_program(*words, "--shard", "3/3", "--out", parts, "--at-least", 1)
    assert other.returncode == 1
    assert f"{parts}/part-00003-of-00003.parquet: was made with another decoder" in other.stderr
    merged = run_program(*merging)
    assert merged.returncode == 0, merged.stderr
    assert run_program(*words, "--out", f"{bucket.url}/one.csv").returncode == 0
    assert bucket.read("all.csv") == bucket.read("one.csv")
    assert bucket.read("all.errors.csv") == bucket.read("one.errors.csv")
    assert bucket.read("all.csv").count(b"\n") == 6
    key = "parts/part-00002-of-00003.parquet"
    bucket.client.put_object(Bucket="photos", Key=key, Body=bucket.read(key)[:-40])
    damaged = run_program(*merging, "--overwrite")
    assert damaged.returncode == 1 and damaged.stderr.count("\n") == 1
    assert (
        f"{bucket.url}/{key}: damaged, or not a part of `mlcrf predict --shard`" in damaged.stderr
    )
    nowhere = run_program("convert", f"{bucket.url}/none", "--out", f"{bucket.url}/b.csv")
    assert nowhere.stderr == f"error: {bucket.url}/none: no such file or folder\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://photos", "gs://photos: this needs gcsfs, not installed here; pip install gcsfs"),
        ("hdfs://a/b", "hdfs://a/b: unknown kind of address; expected a path or one of s3://"),
        ("s3://", "s3://: names no bucket; expected s3://bucket/folder"),
        ("file://photos", "file://photos: is not absolute; expected file:///folder"),
        ("s3://missing/a", "s3://missing/a: there is no bucket 'missing'"),
        ("s3://photos/none", "s3://photos/none: no such file or folder"),
        ("s3://photos/a.tar", "s3://photos/a.tar: tar files can be read from a local disk only"),
    ],
)
def test_places_that_cannot_be(url: str, said: str, bucket: S3Bucket) -> None:
    """One line that says what to do."""
    if url.startswith("gs") and find_module("gcsfs") is not None:
        pytest.skip("gcsfs is installed here")
    bucket.client.put_object(Bucket="photos", Key="a.tar", Body=b"")
    with pytest.raises(DataError) as error:
        list(list_images([parse_place(url)]))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "option", "on_cluster", "said"),
    [
        ("memory://a", "xmp", False, "--xmp is for images on disks, and memory://a is not"),
        ("memory://a", "known_keywords", False, "--known-keywords is for images on disks"),
        ("memory://a", "", True, "memory://a is in this process only, not on a cluster"),
        ("a", "shard", True, "--shard cannot be used with --cluster"),
    ],
)
def test_options_that_do_not_go_with_a_place(
    place: str, option: str, on_cluster: bool, said: str
) -> None:
    """Refused before anything is done."""
    with pytest.raises(typer.BadParameter, match=said):
        source = ImageSource.read([place])
        check = source.require_cluster if on_cluster else source.require_disk
        check(**({option: True} if option else {}))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["s3://photos"], 1, "error: s3://photos: no images found\n"),
        ([".", "--out", "s3://missing/parts", "--shard", "1/2"], 1, "there is no bucket 'missing'"),
        ([".", "--out", "s3://missing/a.csv"], 1, "missing/a.csv: there is no bucket 'missing'"),
    ],
)
def test_the_command_refuses(
    words: list[str], status: int, said: str, bucket: S3Bucket, small_run: Path, tmp_path: Path
) -> None:
    """In one line, with nothing written."""
    out = [] if "--out" in words else ["--out", tmp_path / "tags.csv"]
    result = run_program("predict", *words, *out, "--model", small_run)
    assert result.returncode == status and said in result.stderr
    assert status == 2 or result.stderr.count("\n") == 1
    assert not (tmp_path / "tags.csv").exists() and bucket.keys() == []


def test_a_store_out_of_reach(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, credentials are refused, nobody answers: one line, at last."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", closed)
        monkeypatch.setattr("mlcrf.stores.stored.LONGEST_S", 1.0)
        system.cache_clear()
        with pytest.raises(
            DataError, match=r"s3://photos: cannot be reached: no answer within 1 s"
        ):
            Stored("s3://photos").exists()
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    system.cache_clear()
    with pytest.raises(DataError, match=r"cannot be reached: Could not connect to the endpoint"):
        Stored("s3://photos").exists()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    system.cache_clear()
    with pytest.raises(DataError, match=r"cannot be reached: Unable to locate credentials"):
        Stored("s3://photos").exists()


def test_a_photo_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails twice is fetched; what fails again is an error that names it; a gap is at once."""

    class Flaky:
        def __init__(self, failures: int) -> None:
            self.failures, self.asked = failures, 0

        def cat_file(self, url: str) -> bytes:
            self.asked += 1
            if self.asked <= self.failures:
                raise ConnectionResetError("reset\nby peer")
            return b"content"

    monkeypatch.setattr("mlcrf.stores.stored.PAUSES_S", (0.0, 0.0))
    for failures in range(4):
        driver = Flaky(failures)
        monkeypatch.setattr("mlcrf.stores.stored.system", lambda scheme, driver=driver: driver)
        if failures < 3:
            assert Stored("s3://b/a.jpg").read() == b"content"
        else:
            with pytest.raises(DataError) as error:
                Stored("s3://b/a.jpg").read()
            assert str(error.value) == "s3://b/a.jpg: cannot be fetched: reset by peer"
        assert driver.asked == min(failures + 1, 3)
