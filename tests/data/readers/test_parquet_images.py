"""Parquet files of pictures and labels: read as they are, to train on and to tag."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions, find_reader, read_dataset
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import LocalImage, as_image
from mlcrf.images.containers import members
from mlcrf.images.listing import list_images
from mlcrf.images.pixels import load_pixels
from mlcrf.labels import LabelSpace
from tests.data.readers.test_webdataset import picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def make_parquet(
    path: Path,
    rows: list[dict[str, Any]],
    *,
    classes: dict[str, list[str]] | None = None,
    kinds: dict[str, pa.DataType] | None = None,
    **options: Any,
) -> Path:
    """A file of these rows, with names of classes where Hugging Face has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) if rows else list(kinds or {})
    columns = {one: pa.array([r[one] for r in rows], (kinds or {}).get(one)) for one in names}
    features = {
        name: {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": found}}
        for name, found in (classes or {}).items()
    }
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, path, **options)
    return path


def struct(seed: int, name: str | None) -> dict[str, Any]:
    return {"bytes": picture(seed), "path": name}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two files as Hugging Face writes them; in one of them pictures have no names."""
    folder = tmp_path / "shards"
    classes = {"labels": ["sea", "sky", "dog"]}
    kinds = {"image": IMAGE, "labels": pa.list_(pa.int64())}
    first = [[struct(1, "b.png"), [0, 1]], [struct(2, "a/a.png"), []], [struct(3, "c.png"), None]]
    second = [[struct(4, None), [1]], [struct(5, None), [1]]]
    for name, rows in (("a.parquet", first), ("b.parquet", second)):
        table = [{"image": image, "labels": labels} for image, labels in rows]
        make_parquet(folder / name, table, classes=classes, kinds=kinds, row_group_size=2)
    return folder


def test_a_folder_of_them(shards: Path) -> None:
    """Classes by their names; pictures by their paths, or by their rows."""
    assert find_reader(shards).name == "parquet-images"
    data = read_dataset(shards)
    assert list(data.labels) == ["sea", "sky"]
    names = [Path(image.name).relative_to(shards).as_posix() for image in data.images]
    numbers = ["b.parquet/0000000.jpg", "b.parquet/0000001.jpg"]
    assert names == ["a.parquet/b.png", "a.parquet/a/a.png", "a.parquet/c.png", *numbers]
    assert data.targets.tolist() == [[1, 1], [0, 0], [-1, -1], [0, 1], [0, 1]]
    assert data.splits is None and data.name == "shards"
    one = read_dataset(shards / "a.parquet", ReadOptions(labels=LabelSpace(("sky", "sea", "dog"))))
    assert one.targets.tolist() == [[1, 1, 0], [0, 0, 0], [-1, -1, -1]]
    assert list(list_images([shards])) == list(data.images)
    with pytest.raises((DataError, LabelsError), match=r"a\.parquet/b\.png: unknown label 'sea'"):
        read_dataset(shards, ReadOptions(labels=LabelSpace(("sky", "dog"))))


def test_pixels_are_those_of_the_files(shards: Path, tmp_path: Path) -> None:
    """Read where they stand; a table may name them, and the cache knows them by their row."""
    images = read_dataset(shards).images
    for seed, image in enumerate(images, start=1):
        (tmp_path / "loose.png").write_bytes(picture(seed))
        assert np.array_equal(
            load_pixels(image, 16), load_pixels(as_image(tmp_path / "loose.png"), 16)
        )
    assert len({image.fingerprint() for image in images}) == 5
    table = tmp_path / "t.csv"
    table.write_text("image,sea\nshards/a.parquet/b.png,1\nshards/a.parquet/0000000.jpg,1\n")
    with pytest.raises(DataError, match=r"t\.csv:3: missing image") as caught:
        read_dataset(table)
    assert "csv:2" not in str(caught.value)
    with pytest.raises(DataError, match=r"b\.parquet/0000002\.jpg: .*no such row in b\.parquet"):
        load_pixels(as_image(shards / "b.parquet" / "0000002.jpg"), 16)
    none = tmp_path / "no.parquet" / "1.png"
    assert as_image(none) == LocalImage(str(none))


LAYOUTS = [
    ({"sea": 1, "sky": None}, {}, [[1, -1]]),
    ({"labels": "sea; sky"}, {}, [[1, 1]]),
    ({"labels": ["sky"], "caption": "x", "size": {"w": 1}}, {}, [[1]]),
    ({"label": 1}, {"label": ["no", "sky"]}, [[1]]),
    ({"label": -1, "thumb": b"x"}, {"label": ["no", "sky"]}, None),
]


@pytest.mark.parametrize(("cells", "classes", "expected"), LAYOUTS)
def test_columns_of_labels(
    tmp_path: Path, cells: dict[str, Any], classes: dict[str, list[str]], expected: object
) -> None:
    """Read as those of any table; what cannot be labels is left out."""
    path = make_parquet(tmp_path / "x.parquet", [{"image": b"x"} | cells], classes=classes)
    if expected is None:
        with pytest.raises(DataError, match="contains no label"):
            read_dataset(path)
        return
    data = read_dataset(path)
    assert data.targets.tolist() == expected
    left_out = any("size" in line for line in (*data.notes, *data.facts))
    assert left_out == ("size" in cells)


def test_splits_by_the_names_of_files(tmp_path: Path) -> None:
    """In the folder `data` of a data set, or by a column; a table of paths beside is none."""
    for name in ("test-0.parquet", "train-00000-of-00001.parquet"):
        make_parquet(tmp_path / "data" / name, [{"image": b"x", "sea": 1}])
    make_parquet(tmp_path / "data" / "tags.parquet", [{"image": "a.jpg", "sea": 1}])
    assert read_dataset(tmp_path).splits == (Split.TEST, Split.TRAIN)
    path = make_parquet(tmp_path / "x.parquet", [{"image": b"x", "sea": 1, "split": "val"}])
    assert read_dataset(path).splits == (Split.VALIDATION,)
    make_parquet(tmp_path / "data" / "more.parquet", [{"image": b"x", "sea": 1}])
    assert read_dataset(tmp_path / "data").splits is None


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", None), ("a", "../b"), ("/a", "b"), ("a", "b//c"), ("a", "b" * 201)]
)
def test_names_that_are_none(tmp_path: Path, names: tuple[str | None, ...]) -> None:
    """Missing, double, or leading out of the file: rows are called by their numbers."""
    rows = [{"image": struct(at, name)} for at, name in enumerate(names)]
    path = make_parquet(tmp_path / "x.parquet", rows, kinds={"image": IMAGE})
    assert [one.file_name for one in members(path)] == ["0000000.jpg", "0000001.jpg"]


WRONG: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"a": 1}], {}, r"has no column of images; found 'a' \(int64\)"),
    ([{"image": 1, "sea": 1}], {}, r"has no column of images; found 'image' \(int64\)"),
    ([{"image": b"x"}], {}, "has no label column"),
    (
        [{"image": b"x", "labels": [7]}],
        {"classes": {"labels": ["a"]}},
        r"/0000000\.jpg: .*no class 7",
    ),
    ([], {"kinds": {"image": IMAGE, "sea": pa.int8()}}, "has no rows"),
    ([{"image": bytes(2**27)}], {"compression": "zstd"}, "a decompression bomb"),
]


@pytest.mark.parametrize(("rows", "options", "message"), WRONG)
def test_what_is_wrong_with_it(
    tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    """Names the file, in one line."""
    make_parquet(tmp_path / "a.parquet", [{"image": b"x", "sea": 1}])
    path = make_parquet(tmp_path / "x.parquet", rows, **options)
    with pytest.raises(DataError, match=rf"x\.parquet.*{message}") as caught:
        if "image" in message or "'a'" in message or "bomb" in message:
            list(members(path))
        else:
            read_dataset(path)
    assert "\n" not in str(caught.value)


def test_files_that_differ(shards: Path) -> None:
    """Other columns, no pictures, or cut short: one line that names the file."""
    path = shards / "b.parquet"
    make_parquet(path, [{"image": b"x", "sea": 1}])
    with pytest.raises(DataError, match=r"b\.parquet: has other columns than a\.parquet: 'labels'"):
        read_dataset(shards)
    make_parquet(path, [{"sea": 1}])
    with pytest.raises(DataError, match=r"b\.parquet: has no column of images"):
        read_dataset(shards)
    for content in (path.read_bytes()[:-20], b"", b"PAR1" + bytes(99)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"b\.parquet: cannot be read as Parquet.*copy it"):
            list(list_images([shards]))
