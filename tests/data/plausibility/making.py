"""Small data sets for the tests of plausibility, in each layout."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from mlcrf.data.manifest import Manifest
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset

NAMES = [f"{number:02}.jpg" for number in range(6)]
Writer = Callable[[Path, list[str], list[list[str]]], Path]


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def make_csv(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    """Quote every cell."""
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (folder / "t.csv").write_text("\n".join([",".join(header), *lines, ""]), encoding="utf-8")
    return folder / "t.csv"


def make_tsv(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    lines = ["\t".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (folder / "t.tsv").write_text("\n".join(["\t".join(header), *lines, ""]), encoding="utf-8")
    return folder / "t.tsv"


def make_jsonl(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    """Leave out the keys of empty cells."""
    objects = [{k: v for k, v in zip(header, row, strict=True) if v != ""} for row in rows]
    text = "".join(json.dumps(one) + "\n" for one in objects)
    (folder / "t.jsonl").write_text(text, encoding="utf-8")
    return folder / "t.jsonl"


def make_parquet(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    columns = {name: [row[at] or None for row in rows] for at, name in enumerate(header)}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


WRITERS = [make_csv, make_tsv, make_jsonl, make_parquet]


def read(path: Path, **options: object) -> Manifest:
    return read_dataset(path, replace(ReadOptions(), **options))  # type: ignore[arg-type]


def cells(*values: str) -> list[list[str]]:
    """Return rows of an image and its cell, the values by turns."""
    return [[name, values[at % len(values)]] for at, name in enumerate(NAMES)]


def make_coco(
    file: Path, boxes: dict[str, list[str]], classes: Sequence[str] = (), **changes: object
) -> Path:
    """Write boxes of categories by the path of an image; ids count from 1."""
    names = list(classes) or sorted({name for own in boxes.values() for name in own})
    content: dict[str, object] = {
        "images": [{"id": at, "file_name": name} for at, name in enumerate(boxes, 1)],
        "annotations": [
            {"id": 1, "image_id": at, "category_id": names.index(name) + 1}
            for at, own in enumerate(boxes.values(), 1)
            for name in own
        ],
        "categories": [{"id": at, "name": name} for at, name in enumerate(names, 1)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content | changes), encoding="utf-8")
    return file


def voc_xml(file_name: str, *classes: str, mark: str = "") -> str:
    """Return an annotation; `mark` is XML inside each object."""
    objects = "".join(f"<object><name>{escape(one)}</name>{mark}</object>" for one in classes)
    name = f"<filename>{escape(file_name)}</filename>" if file_name else ""
    return f"<annotation>{name}{objects}</annotation>"


def make_voc(root: Path, annotations: dict[str, str], images: Sequence[str]) -> Path:
    """Write XML by its name, and empty images."""
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    make_files(root / "JPEGImages", *images)
    for name, text in annotations.items():
        (root / "Annotations" / name).write_text(text, encoding="utf-8")
    return root


def labels_of(manifest: Manifest) -> dict[str, set[str]]:
    """Return the present labels by the name of the image's file."""
    return {
        image.file_name: {
            name for name, code in zip(manifest.labels, row, strict=True) if code == 1
        }
        for image, row in zip(manifest.images, manifest.targets.tolist(), strict=True)
    }
