"""Tables whose pictures are in object stores, and tables that are there themselves."""

import csv
import json
import shutil
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.readers.table import read_table, save_manifest
from mlcrf.errors import DataError, SettingsError
from mlcrf.images import as_image
from mlcrf.images.albums import find_albums
from mlcrf.reports.names import file_name, shared_folder
from mlcrf.stores import Stored, parse_place
from mlcrf.synthetic.dataset import make_dataset
from tests.program import run_program
from tests.review.conftest import small_run
from tests.stores.conftest import S3Bucket, bucket

__all__ = ["bucket", "small_run"]

pytest.importorskip("s3fs", reason="needs mlcrf[s3]")

QUICK = (
    *("--backbone", "lite0", "--engine", "torch", "--set", "penalties=[0.3]"),
    *("--set", "pairwise_penalties=[0.01]"),
    *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Sixty scenes with their table."""
    return make_dataset(tmp_path / "drawn", seed=0, num_images=60).parent


def put(text: str, name: str = "labels.csv") -> Stored:
    """A table in memory, in a folder of its own."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe(f"/tables/{name}", text.encode())
    place = parse_place(f"memory://tables/{name}")
    assert isinstance(place, Stored)
    return place


def test_trained_and_scored_from_a_store_as_from_a_disk(
    bucket: S3Bucket, drawn: Path, tmp_path: Path
) -> None:
    """A run on all there; scored with the table here and pictures there; the same bits as here."""
    place, there = bucket.upload(drawn), tmp_path / "there"
    for run, table in ((tmp_path / "here", drawn / "labels.csv"), (there, f"{place}/labels.csv")):
        cache = tmp_path / f"cache-{run.name}"
        done = run_program("train", table, "--out", run, *QUICK, "--cache-dir", cache)
        assert done.returncode == 0, done.stderr
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("here", "there")]
    assert weights[0] == weights[1]
    with (there / "splits.csv").open() as stream:
        images = [row["image"] for row in csv.DictReader(stream)]
    assert len(images) == 60
    assert all(image.startswith(f"{place}/images/") for image in images)
    shutil.copy(drawn / "labels.csv", tmp_path)
    tables = []
    for words in ([drawn / "labels.csv"], [tmp_path / "labels.csv", "--image-root", place]):
        out = tmp_path / f"{len(tables)}.csv"
        done = run_program("evaluate", there, *words, "--resamples", 20, "--out", out)
        assert done.returncode == 0, done.stderr
        tables.append(out.read_text())
    assert tables[0] == tables[1]
    page = tmp_path / "page.html"
    done = run_program("report", there, f"{place}/labels.csv", "--resamples", 20, "--out", page)
    assert done.returncode == 0, done.stderr
    assert "data:image/jpeg" in page.read_text() and "s3://" not in page.read_text()


def test_the_network_is_trained_on_pictures_of_a_store(
    bucket: S3Bucket, drawn: Path, tmp_path: Path
) -> None:
    place = bucket.upload(drawn)
    weights = []
    for way, table in (("here", drawn / "labels.csv"), ("there", f"{place}/labels.csv")):
        done = run_program(
            *("train", table, "--out", tmp_path / way, *QUICK, "--backbone", "tiny"),
            *("--finetune", "all", "--epochs", "2", "--cache-dir", tmp_path / "cache"),
        )
        assert done.returncode == 0, done.stderr
        weights.append((tmp_path / way / "best.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_known_tags_of_photos_in_a_store(
    bucket: S3Bucket, drawn: Path, small_run: Path, tmp_path: Path
) -> None:
    """Found by their URLs, whatever way the table names them."""
    place = bucket.upload(drawn / "images", limit=3)
    names = [f"00000{number}.jpg" for number in range(3)]
    label = (small_run / "labels.txt").read_text().split("\n")[0]
    tables = []
    for rows, root, key in (
        ([f"{place}/{names[0]}", f"{place}/{names[1]}"], [], ""),
        (names[:2], ["--image-root", place], ""),
        (names[:2], [], "images/known.csv"),
    ):
        known, out = tmp_path / "known.csv", tmp_path / f"{len(tables)}.csv"
        known.write_text(f"image,{label}\n{rows[0]},1\n{rows[1]},0\n")
        if key:
            bucket.client.put_object(Bucket="photos", Key=key, Body=known.read_bytes())
            known = f"{bucket.url}/{key}"
        done = run_program(
            *("predict", place, "--model", small_run, "--engine", "torch"),
            *("--known", known, *root, "--out", out),
        )
        assert done.returncode == 0, done.stderr
        tables.append(pd.read_csv(out))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert list(tables[0][f"p:{label}"][:2]) == [1, 0]
    assert 0 < tables[0][f"p:{label}"][2] < 1


def test_what_is_missing_is_named_at_once(bucket: S3Bucket, drawn: Path, tmp_path: Path) -> None:
    place = bucket.upload(drawn)
    for name in ("images/000003.jpg", "images/000007.jpg"):
        assert (drawn / name).exists()
        bucket.client.delete_object(Bucket="photos", Key=f"drawn/{name}")
    bucket.client.put_object(Bucket="photos", Key="drawn/images/000009.jpg", Body=b"none")
    out = tmp_path / "run"
    done = run_program(
        *("train", f"{place}/labels.csv", "--out", out, *QUICK, "--cache-dir", tmp_path / "cache")
    )
    assert done.returncode == 1
    for name, said in (("3", "no such file"), ("7", "no such file"), ("9", "as an image")):
        line = next(one for one in done.stderr.splitlines() if f"00000{name}.jpg" in one)
        assert f"{place}/images/00000{name}.jpg: " in line and said in line
        assert "fix it or remove it" in line
    none = run_program("evaluate", "mirflickr24", f"{place}/none.csv")
    assert none.returncode == 1
    assert none.stderr == f"error: {place}/none.csv: cannot be fetched: no such file\n"


def test_paths_and_urls_in_a_table_of_a_store() -> None:
    """Relative ones are below the table, with `..` followed; URLs and absolute ones stay."""
    table = put(
        "image,split,sky\n a/1.jpg ,train,1\n../b/2.jpg,val,0\ns3://else/3.jpg,test,1\n"
        "a//4.jpg,train,0\n"
    )
    manifest = read_dataset(table)
    urls = ["memory://tables/a/1.jpg", "memory://b/2.jpg", "s3://else/3.jpg"]
    assert [str(image) for image in manifest.images] == [*urls, "memory://tables/a/4.jpg"]
    assert manifest.name == "labels"
    other = parse_place("s3://photos/all/")
    images = read_dataset(table, ReadOptions(image_root=other)).images
    assert [str(one) for one in images[:2]] == ["s3://photos/all/a/1.jpg", "s3://photos/b/2.jpg"]


def test_urls_in_a_table_on_a_disk(drawn: Path, tmp_path: Path) -> None:
    """Beside paths, which must be there; they come back from the table that a run saves."""
    table = tmp_path / "table.csv"
    table.write_text(
        f"image,sky\ns3://photos/1.jpg,1\n{drawn}/images/000000.jpg,0\nmemory://a//2.jpg,?\n"
    )
    manifest = read_table(table)
    assert manifest.images == (
        *(as_image("s3://photos/1.jpg"), as_image(drawn / "images" / "000000.jpg")),
        as_image("memory://a//2.jpg"),
    )
    save_manifest(tmp_path / "again.csv", manifest)
    assert read_table(tmp_path / "again.csv").images == manifest.images
    table.write_text("image,sky\ns3://photos/1.jpg,1\ns3://photos/a/../1.jpg,0\nhttp://x/1.jpg,0\n")
    with pytest.raises(DataError) as caught:
        read_table(table)
    assert "table.csv:4: http://x/1.jpg: unknown kind of address; expected" in str(caught.value)
    there = put("image,sky\n1.jpg,1\nhttp://x/1.jpg,0\n")
    with pytest.raises(DataError, match=r"labels.csv:3: http://x/1.jpg: unknown kind of address"):
        read_dataset(there)
    table.write_text("image,sky\ns3://photos/1.jpg,1\ns3://photos/1.jpg,0\n")
    with pytest.raises(DataError, match=r"3: duplicate row: 's3://photos/1.jpg' is on line 2"):
        read_table(table)


def test_a_driver_that_is_not_installed(tmp_path: Path) -> None:
    """Said when the table is read, not when each picture is fetched."""
    if find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed here")
    (tmp_path / "table.csv").write_text("image,sky\ngs://photos/1.jpg,1\n")
    with pytest.raises(DataError, match=r"csv:2: gs://photos/1.jpg: this needs gcsfs, not inst"):
        read_table(tmp_path / "table.csv")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_kind_of_table(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": ["1.jpg", "2.jpg"], "sky": [1, 0], "sea": [0, 1]})
    file = tmp_path / f"labels.{ending}"
    match ending:
        case "csv":
            frame.to_csv(file, index=False)
        case "jsonl":
            frame.to_json(file, orient="records", lines=True)
        case _:
            frame.to_parquet(file)
    place = put("", file.name)
    fsspec.filesystem("memory").pipe(f"/tables/{file.name}", file.read_bytes())
    manifest = read_dataset(place)
    assert manifest.targets.tolist() == [[1, 0], [0, 1]]
    assert [str(one) for one in manifest.images] == [
        "memory://tables/1.jpg",
        "memory://tables/2.jpg",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("labels.csv", r"memory://tables/labels.csv:3: label 'sky' is '7'"),
        ("labels.parquet", r"memory://tables/labels.parquet: cannot be read as Parquet"),
        ("photos.tar", r"only tables can be read \(.arff, .csv, .jsonl, "),
        ("folder", "only tables can be read"),
    ],
)
def test_what_is_wrong_there_is_said_by_its_url(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_dataset(put("image,sky\n1.jpg,1\n2.jpg,7\n", name))


def test_pictures_in_parquet_are_for_disks(tmp_path: Path) -> None:
    pd.DataFrame({"image": [b"\xff\xd8"], "sky": [1]}).to_parquet(tmp_path / "labels.parquet")
    place = put("", "labels.parquet")
    content = (tmp_path / "labels.parquet").read_bytes()
    fsspec.filesystem("memory").pipe("/tables/labels.parquet", content)
    with pytest.raises(DataError, match=r"row 1: column 'image' contains bytes, .* copy a table"):
        read_dataset(place)


def test_coco_wants_its_pictures_on_disks(tmp_path: Path) -> None:
    content = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(SettingsError, match="s3://photos: COCO's images are read from disks"):
        read_dataset(tmp_path / "boxes.json", ReadOptions(image_root=parse_place("s3://photos")))


def test_metadata_with_pictures_in_a_store(tmp_path: Path) -> None:
    """The folders of the paths are the splits, as they are on a disk."""
    (tmp_path / "metadata.csv").write_text("file_name,sky\ntrain/1.jpg,1\ntest/2.jpg,0\n")
    root = parse_place("s3://photos/all")
    manifest = read_dataset(tmp_path, ReadOptions(image_root=root))
    assert [str(one) for one in manifest.images][1] == "s3://photos/all/test/2.jpg"
    assert manifest.splits == ("train", "test")


def test_albums_of_a_store(drawn: Path) -> None:
    """By folder, and by name where no time is known."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a/10.jpg", "a/2.jpg", "b/1.jpg"):
        memory.pipe(f"/{name}", (drawn / "images" / "000000.jpg").read_bytes())
    images = [as_image(f"memory://{name}") for name in ("a/10.jpg", "b/1.jpg", "a/2.jpg")]
    assert find_albums(images, gap=timedelta(hours=1)) == [[2, 0], [1]]


def test_a_page_does_not_tell_where_a_store_is() -> None:
    images = [as_image("s3://secret/a/1.jpg"), as_image("s3://secret/a/b/2.jpg")]
    folder = shared_folder(images)
    assert [file_name(one, folder) for one in images] == ["1.jpg", "b/2.jpg"]
