"""Any folder is safe to walk, and any name of a file comes back as it was."""

import csv
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from mlcrf.images.listing import walk_images
from tests.program import run_program
from tests.reliability.scale import times

ODD = [
    "two\nlines.jpg",
    "tab\t.jpg",
    'quote".jpg',
    "it's.jpg",
    "<img src=x onerror=alert(1)>.jpg",
    "=1+1.jpg",
    "a;b,c.jpg",
    " space .jpg",
    "ö海.jpg",
    "\u202egpj.jpg",
]


def picture(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with path.open("wb") as stream:
        Image.fromarray(noise).save(stream, "JPEG")


def random_name(rng: np.random.Generator) -> bytes:
    """Bytes that a file system takes, most of them no UTF-8."""
    length = int(rng.integers(1, 60))
    name = bytes(byte for byte in rng.integers(1, 256, length).tolist() if byte != ord("/"))
    return name.lstrip(b".") + b".jpg"


def test_links_pipes_and_closed_folders(tmp_path: Path) -> None:
    """Loops end, links do not lead out, what is no file is an error, and nothing hangs."""
    folder, outside = tmp_path / "photos", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    picture(outside / "secret.jpg", 0)
    picture(folder / "a.jpg", 1)
    (folder / "loop").symlink_to(folder)
    (folder / "way out").symlink_to(outside)
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(folder)  # names of sockets may not be long
        server.bind("socket.jpg")
        os.chdir(before)
        listed = {image.file_name for image in walk_images(folder)}
        done = run_program("predict", folder, "--out", tmp_path / "tags.csv", "--known-keywords")
    assert "secret.jpg" not in listed
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "tags.csv").open(encoding="utf-8")))
    assert [Path(row["image"]).name for row in rows] == ["a.jpg"]
    with (tmp_path / "tags.errors.csv").open(encoding="utf-8") as stream:
        errors = {Path(row["image"]).name for row in csv.DictReader(stream)}
    assert errors == {"dangling.jpg", "itself.jpg", "pipe.jpg", "socket.jpg"}


@pytest.mark.timeout(0)
def test_names_come_back(tmp_path: Path) -> None:
    """Names of any bytes, through CSV, JSON lines, Parquet and sidecars."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    names = {os.fsencode(name) for name in ODD}
    names |= {random_name(rng) for _ in range(max(times(200), 20))}
    for seed, name in enumerate(sorted(names)):
        picture(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), seed)
    tables = {ending: tmp_path / f"tags.{ending}" for ending in ("csv", "jsonl", "parquet")}
    for table in tables.values():
        done = run_program("predict", folder, "--out", table, "--strict")
        assert done.returncode == 0, done.stderr
        done = run_program("tag", folder, "--from", table, "--xmp", "--strict")
        assert done.returncode == 0 and done.stderr == "", done.stderr
    with tables["csv"].open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        from_csv = {os.fsencode(Path(row["image"]).name) for row in csv.DictReader(stream)}
    assert from_csv == names
    lines = tables["jsonl"].read_text(encoding="utf-8").splitlines()
    assert {os.fsencode(Path(json.loads(line)["image"]).name) for line in lines} == names
    shown = {
        os.fsencode(name).decode("utf-8", "backslashreplace") for name in map(os.fsdecode, names)
    }
    column = parquet.read_table(tables["parquet"])["image"].to_pylist()
    assert {Path(name).name for name in column} == {Path(name).name for name in shown}
    assert run_program("tag", folder, "--undo", "--strict").returncode == 0
    assert {os.fsencode(path.name) for path in folder.iterdir()} == names
