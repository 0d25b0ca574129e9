"""Whatever a table, a folder of data or a list holds, it is read, or refused in one line."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlcrf.config import make_settings
from mlcrf.crf.edges import load_edges
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.readers.table import read_table, save_manifest
from mlcrf.data.rules import load_rules
from mlcrf.errors import MlcrfError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace, load_labels
from mlcrf.prediction.known import read_known
from mlcrf.prediction.selection import load_names
from tests.data.readers.test_mirflickr import make_folder as make_mirflickr
from tests.data.readers.test_tag_files import make_folder as make_tag_folder
from tests.data.readers.test_voc_coco import make_coco, make_voc
from tests.keywords.pictures import iptc_of, make_photo, xmp_of
from tests.reliability.fuzzing import (
    LABEL_SPACE,
    RULES,
    TEXTS,
    VALUES,
    Outcomes,
    fuzz,
    spoilt,
)
from tests.reliability.scale import times

pytestmark = pytest.mark.timeout(0)
PICTURES = ("a.jpg", "b c.jpg", "d,e.png", 'f"g.jpg', "h\ni.jpg", "ä/j.jpg", " k.jpg", "l;m.jpg")
SUFFIXES = ("csv", "tsv", "jsonl", "parquet")


def check_manifest(outcomes: Outcomes, manifest: Manifest, folder: Path) -> None:
    """It keeps its own rules, and unless a name says something else in tables, survives one."""
    assert set(np.unique(manifest.targets)) <= {-1, 0, 1}
    assert all(image.stamp() is not None for image in manifest.images)
    assert all(len(note.splitlines()) == 1 for note in manifest.notes), manifest.notes
    path = folder / "saved.table.csv"
    try:
        save_manifest(path, manifest)
    except MlcrfError as error:
        assert "has another meaning in a table" in str(error)
        outcomes["not saved"] += 1
        return
    again = read_table(path, ReadOptions(labels=manifest.labels))
    assert again.images == manifest.images
    assert again.targets.tolist() == manifest.targets.tolist()
    assert again.splits == manifest.splits
    path.unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in PICTURES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


Row = dict[str, Any]


def write_rows(
    path: Path, rows: list[Row], *, delimiter: str = ",", end: str = "\n", quoting: Any = 0
) -> None:
    """Rows as the suffix says, by what others would use: csv, json, pyarrow."""
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_bytes(b"".join(json.dumps(row).encode() + end.encode() for row in rows))
        case _:
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
            writer.writerow(rows[0])
            writer.writerows([*row.values()] for row in rows)
            path.write_bytes(stream.getvalue().encode("utf-8", "surrogatepass"))


NAMES = (
    st.text(min_size=1, max_size=8)
    .map(str.strip)
    .filter(
        lambda name: (
            name
            and ";" not in name
            and "\0" not in name
            and len(name.splitlines()) == 1
            and not name.startswith(("p:", "independent:", "[", "\ufeff"))
            and name not in ("split", "labels", "tags", "label", "?", "-1", "image")
        )
    )
)


@st.composite
def tables(draw: st.DrawFn) -> Manifest:
    """What a table can say: pictures, labels with ordinary and odd names, splits or none."""
    images = draw(st.lists(st.sampled_from(PICTURES), min_size=1, max_size=5, unique=True))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    values = st.lists(st.sampled_from([-1, 0, 1]), min_size=len(names), max_size=len(names))
    targets = np.array([draw(values) for _ in images], dtype=np.int8)
    splits = tuple(draw(st.sampled_from(Split)) for _ in images) if draw(st.booleans()) else None
    return Manifest(
        tuple(map(as_image, images)), targets, LabelSpace(tuple(names)), splits, "table"
    )


CODES = {
    -1: {"csv": ["", "?", "-1", " -1.0 "], "jsonl": [None, "?", -1, -1.0], "parquet": [None, -1]},
    0: {"csv": ["0", "0.0", "FALSE", " 0"], "jsonl": [0, False, "0", 0.0], "parquet": [0]},
    1: {"csv": ["1", "1.0", "true", "1 "], "jsonl": [1, True, "1", 1.0], "parquet": [1]},
}


@fuzz(3_000, 40)
@given(
    table=tables(),
    suffix=st.sampled_from(SUFFIXES),
    end=st.sampled_from(["\n", "\r\n"]),
    listed=st.booleans(),
    data=st.data(),
)
def test_tables_come_back(
    folder: Path, table: Manifest, suffix: str, end: str, *, listed: bool, data: st.DataObject
) -> None:
    """In all formats and both layouts, with odd names, every way to write a value, any quotes."""
    kind = "csv" if suffix == "tsv" else suffix
    rows: list[Row] = []
    for place, image in enumerate(table.images):
        row: Row = {"image": str(image)}
        if table.splits is not None:
            row["split"] = table.splits[place].value
        values = dict(zip(table.labels, table.targets[place].tolist(), strict=True))
        if listed:
            tags = None if -1 in values.values() else [name for name in values if values[name]]
            row["labels"] = tags if kind != "csv" else "?" if tags is None else json.dumps(tags)
        else:
            row |= {
                name: data.draw(st.sampled_from(CODES[value][kind]))
                for name, value in values.items()
            }
        rows.append(row)
    path = folder / f"t.{suffix}"
    write_rows(
        path,
        rows,
        delimiter="\t" if suffix == "tsv" else data.draw(st.sampled_from([",", ";", "\t"])),
        end=end,
        quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    got = read_dataset(path, ReadOptions(labels=table.labels))
    assert got.images == tuple(as_image(folder / image.name) for image in table.images)
    expected = table.targets.copy()
    if listed:
        expected[(expected == -1).any(axis=1)] = -1
    assert got.targets.tolist() == expected.tolist()
    assert got.splits == table.splits


HEADS = st.sampled_from(["image", "file_name", "split", "labels", "tags", "sea", "p:sea"]) | TEXTS


def test_strange_tables(folder: Path) -> None:
    """Well-formed ones with cells of any kind are read or refused row by row, and stay read."""
    outcomes = Outcomes()

    @fuzz(6_000, 60)
    @given(
        names=st.lists(HEADS, min_size=1, max_size=3, unique=True),
        cells=st.lists(VALUES | st.sampled_from(["1", "train", "a;b"]), min_size=1, max_size=12),
        suffix=st.sampled_from(["csv", "jsonl"]),
        labels=st.none() | st.just(LABEL_SPACE),
    )
    def check(names: list[str], cells: list[Any], suffix: str, labels: LabelSpace | None) -> None:
        path = folder / f"t.{suffix}"
        rows = [
            {name: cells[(row * 7 + at) % len(cells)] for at, name in enumerate(names)}
            | {"image": PICTURES[row]}
            for row in range(3)
        ]
        write_rows(path, rows, quoting=csv.QUOTE_ALL)
        got = outcomes.attempt(
            lambda: read_dataset(path, ReadOptions(labels=labels)), path, lines=21
        )
        if got is not None:
            check_manifest(outcomes, got, folder)

    check()
    outcomes.require_both()


def parquet_of(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": ["a.jpg", "b c.jpg"], **columns}), stream)
    return stream.getvalue()


VALID = {
    "csv": (
        b'image,split,sea,"s k;y"\na.jpg,train,1,0\nb c.jpg,val,0,?\n"h\ni.jpg",test,,1.0\n',
        b"\xef\xbb\xbfimage;labels\r\na.jpg;sea|sky\r\nb c.jpg;[]\r\n",
        b"image,labels\ra.jpg,\"['sea', 'sky']\"\rb c.jpg,?\r",
    ),
    "tsv": (b"image\tsea\tsky\na.jpg\t1\t0\nb c.jpg\ttrue\t-1\n",),
    "jsonl": (
        b'{"image": "a.jpg", "split": "train", "sea": 1}\n{"image": "b c.jpg", "sea": null}\n',
        b'{"image": "a.jpg", "tags": ["sea", "sky"]}\n\n{"tags": [], "image": "b c.jpg"}\n',
        b'{"image": "a.jpg", "sea": 0, "sea": 1, "sky": 1.0, "more": {"a": [1, {"b": null}]}}\n',
    ),
    "parquet": (
        parquet_of(sea=[1, None], sky=[True, False]),
        parquet_of(labels=[["sea", "sky"], []]),
        parquet_of(labels=["sea", "sea;sky"], at=pa.array([0, 1], pa.timestamp("us", tz="UTC"))),
    ),
}


@pytest.mark.parametrize("suffix", VALID)
def test_damaged_tables(folder: Path, suffix: str) -> None:
    """Damaged ones and random bytes are read or refused line by line, each with the file."""
    outcomes, path = Outcomes(), folder / f"t.{suffix}"

    @fuzz(6_000, 60)
    @given(content=spoilt(*VALID[suffix]))
    @example(content=b"image," + b"y" * 140_000 + b"\na.jpg,1\n")
    @example(content=b"image,sea\n" + b"x" * 300 + b",1\n")
    @example(content=b"image,labels\na.jpg,[{[]: 1}]\n")
    @example(content=b'image,labels,"no\nte"\na.jpg,sea,x\n')
    @example(content=b'{"image": "a.jpg", "sea": ' + b"9" * 400 + b"}")
    @example(content=b'{"image": "a.jpg", "labels": ["\\ud800"]}')
    @example(content=b'{"image": "a.jpg", "labels": ["a\\u0000b"]}')
    @example(content=b'{"image": "a.jpg", "labels": ["\\ufeffa"]}')
    def check(content: bytes) -> None:
        path.write_bytes(content)
        got = outcomes.attempt(lambda: read_dataset(path), path, lines=21)
        if got is not None:
            check_manifest(outcomes, got, folder)

    check()
    outcomes.require_both()


ARROW = {
    "not UTF-8": pa.array([b"\xff", b"a"]).cast(pa.binary()).view(pa.string()),
    "far time": pa.array([2**62, 0], pa.timestamp("us")),
    "odd zone": pa.array([0, 1], pa.timestamp("s", tz="Nowhere/None")),
    "far date": pa.array([2**31 - 1, 0], pa.date32()),
    "long": pa.array([2**62, 0], pa.duration("s")),
    "map": pa.array([[(1, 2)], None], pa.map_(pa.int8(), pa.int8())),
    "bytes": pa.array([b"\xff\n", b"1"]),
    "half": pa.array(np.array([0, np.nan], np.float16)),
    "decimal": pa.array([1, 10], pa.decimal256(76)),
    "structs": pa.array([{"a": {"b": [1]}}, None]),
    "dictionary": pa.array(["1", "0"]).dictionary_encode(),
    "double fields": pa.StructArray.from_arrays([pa.array([1, 2])] * 2, names=["a", "a"]),
}


READABLE = {"dictionary", "half"}


@pytest.mark.parametrize("kind", ARROW)
@pytest.mark.parametrize("name", ["sea", "labels", "split", "path"])
def test_parquet_of_every_type(folder: Path, kind: str, name: str) -> None:
    """Types that say nothing of a label, and values that Python cannot hold, are refused."""
    path = folder / "t.parquet"
    path.write_bytes(parquet_of(**{name: ARROW[kind]}))
    outcomes = Outcomes()
    got = outcomes.attempt(lambda: read_dataset(path), path, lines=21)
    is_class_number = (name, kind) == ("labels", "decimal")  # as integers are
    assert (got is not None) is ((name != "split" and kind in READABLE) or is_class_number)


@pytest.mark.parametrize("column", ["sea", "labels", "image", "split"])
def test_nesting(folder: Path, column: str) -> None:
    """Lists in lists in a cell are refused at every depth, also where Python's own limit is."""
    outcomes, path = Outcomes(), folder / "t.jsonl"
    for depth in range(sys.getrecursionlimit() - max(times(600), 200), sys.getrecursionlimit()):
        lists = "[" * depth + "]" * depth
        path.write_text(f'{{"image": "a.jpg", "sea": 0, "{column}": {lists}}}')
        outcomes.attempt(lambda: read_dataset(path), path)
    assert outcomes["taken"] == 0


def make_huggingface(root: Path) -> Path:
    for split, rows in (("train", b"a.jpg,1\n"), ("val", b"b.jpg,0\n")):
        (root / split).mkdir(parents=True)
        (root / split / rows[:5].decode()).touch()
        (root / split / "metadata.csv").write_bytes(b"file_name,sea\n" + rows)
    return root


def make_keyword_folder(root: Path) -> Path:
    make_photo(root / "a.jpg", xmp=xmp_of("sea", "sky"), iptc=iptc_of(b"indoor", utf8=True))
    make_photo(root / "b.jpg")
    (root / "b.jpg.xmp").write_bytes(xmp_of("sea"))
    return root


def make_coco_folder(root: Path) -> Path:
    for split, name in (("train", "a.jpg"), ("val", "b.jpg")):
        make_coco(root / f"annotations/instances_{split}.json", {name: [7]}, root / split)
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "hugging face": make_huggingface,
    "mirflickr": lambda root: make_mirflickr(
        root, [1, 2], {"sea": [1, 2], "sky": [2], "sky_r1": [2], "indoor": [1]}
    ),
    "voc": lambda root: make_voc(
        root, {"1": ["sea", "sky!"], "2": ["indoor"]}, {"train": "1\n", "val": "2\n"}
    ),
    "coco": make_coco_folder,
    "tag files": lambda root: make_tag_folder(root, a="sea, sky\n", b="indoor\n", c="?\n"),
    "keywords": make_keyword_folder,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_folders(tmp_path: Path, layout: str) -> None:
    """In each layout, with any file of it damaged. Of keywords, a damaged image is left out."""
    outcomes, root = Outcomes(), LAYOUTS[layout](tmp_path / "data")
    whole = {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
    written = {file: content for file, content in whole.items() if content}
    images = len(read_dataset(root))

    @fuzz(3_000, 40)
    @given(data=st.data(), labels=st.none() | st.just(LABEL_SPACE))
    def check(data: st.DataObject, labels: LabelSpace | None) -> None:
        file = data.draw(st.sampled_from(list(written)))
        content = data.draw(spoilt(whole[file]))
        options = ReadOptions(labels=labels)
        try:
            file.write_bytes(content)
            got = outcomes.attempt(lambda: read_dataset(root, options), root, lines=21)
            if got is not None:
                check_manifest(outcomes, got, tmp_path)
                outcomes["refused"] += layout == "keywords" and len(got) < images
        finally:
            file.write_bytes(whole[file])

    check()
    outcomes.require_both()


LISTS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "labels": (b"sea\nsky\n\nindoor\n", load_labels),
    "rules": (
        b"child,parent\nsea,sky\nindoor => sea\n",
        lambda path: load_rules(path, LABEL_SPACE, given=RULES),
    ),
    "names": (
        b'label,name\nsea,Meer\n"sky","Him,mel"\n',
        lambda path: load_names(path, LABEL_SPACE),
    ),
    "edges": (
        b"label_a,label_b\nsea,sky\nindoor,sea\n",
        lambda path: load_edges(path, LABEL_SPACE),
    ),
    "settings": (
        b'{"epochs": 3, "penalties": [0.1, 1], "structure": "tree", "edges_file": null}',
        make_settings,
    ),
    "known": (
        b"image,sea,sky\na.jpg,1,\nb c.jpg,0,?\n",
        lambda path: read_known(LABEL_SPACE, RULES, given="indoor=0", table=path),
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_damaged_lists(folder: Path, kind: str) -> None:
    """Files of labels, rules, names, couplings, settings and what is known."""
    content, load = LISTS[kind]
    outcomes, path = Outcomes(), folder / "given.csv"

    @fuzz(6_000, 60)
    @given(raw=spoilt(content))
    @example(raw=b"[" * 2000)
    @example(raw=b'{"epochs": 0}')
    @example(raw=b"image,dog\na.jpg,1\n")
    @example(raw=b'image,sea,sky\n"h\ni.jpg",1,0\n')
    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        outcomes.attempt(lambda: load(path), path, lines=21 if kind == "known" else 1)

    check()
    outcomes.require_both()


def test_long_headers_and_names(folder: Path) -> None:
    """Thousands of labels make a header longer than a cell may be; a label as long is refused."""
    names = [f"label number {number}" for number in range(9_000)]
    (folder / "t.csv").write_text(f"image,{','.join(names)}\na.jpg{',1' * len(names)}\n")
    assert list(read_dataset(folder / "t.csv").labels) == names
    outcomes = Outcomes()
    make_tag_folder(folder / "tags", a="x" * 1_001)
    outcomes.attempt(lambda: read_dataset(folder / "tags"), folder)
    make_tag_folder(folder / "tags", a="x" * 1_000)
    got = outcomes.attempt(lambda: read_dataset(folder / "tags"), folder)
    assert got is not None and outcomes["refused"] == 1
    check_manifest(outcomes, got, folder)


def test_names_that_are_too_long_or_none(tmp_path: Path) -> None:
    """Photos with the longest names have no sidecar, folders are no annotations, zero no name."""
    folder = make_keyword_folder(tmp_path / "keywords")
    make_photo(folder / f"{'n' * 251}.jpg", xmp=xmp_of("long"))
    assert read_dataset(folder).labels.names == ("indoor", "long", "sea", "sky")
    numbered = LAYOUTS["mirflickr"](tmp_path / "mirflickr")
    (numbered / "annotations" / "dog.txt").mkdir()
    assert read_dataset(numbered).labels.names == ("indoor", "sea", "sky")
    outcomes = Outcomes()
    for name in ("a\0b", "a\nb", "\ud800", "n" * 300):
        outcomes.attempt(lambda one=name: load_edges(Path(one), LABEL_SPACE))
    assert outcomes["refused"] == 4
