"""The tutorial's commands, in its order, on real photos, with a person who knows their tags."""

import json
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest

from tests.mirror import ARCHIVES, MIRROR, ROOT
from tests.program import run_program

pytest.importorskip("sqlalchemy", reason="needs mlcrf[review]")
pytest.importorskip("starlette", reason="needs mlcrf[review]")

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NUMBERS = range(15001, 15041)
ANSWERED = 30
ANSWERED_OF_OWN = 8  # of yes and of no, at most


def commands() -> list[list[str]]:
    return [
        shlex.split(line, comments=True)[1:]
        for line in re.findall(r"^    (mlcrf .*)$", PAGE, re.MULTILINE)
    ]


@dataclass
class Person:
    """Answers through the page's own requests, as somebody would who knows every tag."""

    truth: dict[str, set[int]]
    home: str = ""
    clicks: int = 0
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=600))

    def visit(self, address: str) -> None:
        self.home = address.partition("/?")[0]
        assert self.client.get(address, follow_redirects=True).status_code == 200

    def answer_all(self, number: int) -> None:
        """Correct what is wrong, then accept the rest; the most telling photos first."""
        for photo in self._get(f"/api/photos?limit={number}")["photos"]:
            place = f"/api/photos/{photo['id']}"
            image = _number(photo)
            while (wrong := self._wrong(self._get(place)["photo"], image)) is not None:
                label, value = wrong
                self._act(f"{place}/answer", {"label": label, "value": value})
            self._act(f"{place}/accept", {})

    def teach_one(self, name: str) -> None:
        """Teach a tag to a page without any, write it beside the photos, and save the model."""
        shown = self._get(f"/api/photos?limit={len(NUMBERS)}&order=name")["photos"]
        self._act("/api/tag", {"name": name})
        for value in (0, 1):
            photos = [one["id"] for one in shown if (_number(one) in self.truth[name]) == value]
            about = {"photos": photos[:ANSWERED_OF_OWN], "label": name, "value": value}
            self._act("/api/answer", about)
        while not self.progress()["lessons"]:
            sleep(0.1)
        self._act("/api/write", {"least": 0.9})
        self._act("/api/save", {"name": "mine"})
        for path in ("/api/written", "/api/saved"):
            while self._get(path)["is_running"]:
                sleep(0.1)

    def progress(self) -> dict[str, Any]:
        return self._get("/api/progress")

    def _wrong(self, photo: dict[str, Any], image: int) -> tuple[str, int] | None:
        for label, name in zip(photo["labels"], sorted(self.truth), strict=True):
            value = int(image in self.truth[name])
            if label["known"] < 0 and (label["p"] > 0.5) != bool(value):
                return name, value
        return None

    def _get(self, path: str) -> dict[str, Any]:
        result: dict[str, Any] = self.client.get(self.home + path).raise_for_status().json()
        return result

    def _act(self, path: str, content: dict[str, Any]) -> None:
        self.clicks += 1
        act = {"person": "anna", "request": uuid4().hex} | content
        headers = {"Origin": self.home}
        self.client.post(self.home + path, json=act, headers=headers).raise_for_status()


def _number(photo: dict[str, Any]) -> int:
    return int(re.findall(r"\d+", photo["name"])[0])


def unpack(folder: Path) -> dict[str, set[int]]:
    """The photos, and which of them have each of the 24 labels."""
    if not all((MIRROR / name).exists() for name in ARCHIVES):
        pytest.skip(f"no MIRFLICKR archives in {MIRROR}; set MLCRF_MIRFLICKR_MIRROR")
    folder.mkdir()
    with zipfile.ZipFile(MIRROR / ARCHIVES[0]) as photos:
        for number in NUMBERS:
            name = f"im{number}.jpg"
            (folder / name).write_bytes(photos.read(f"mirflickr/{name}"))
    with zipfile.ZipFile(MIRROR / ARCHIVES[1]) as annotations:
        lists = {Path(name).stem: name for name in annotations.namelist() if name.endswith("txt")}
        return {
            label: set(map(int, annotations.read(name).split()))
            for label, name in lists.items()
            if label != "README" and not label.endswith("_r1")
        }


def test_tutorial(tmp_path: Path) -> None:
    """Every command ends well, and what the page says of it is so."""
    person = Person(unpack(tmp_path / "photos"))
    more = {
        "train": [
            *("--set", "penalties=[1]", "--set", "pairwise_penalties=[0.01]"),
            *("--set", "schedule=joint", "--set", "structure_weights=[1]"),
        ]
    }
    reviews = []
    for words in commands():
        if words[0] == "review":
            reviews.append(_review(words, tmp_path, person, turn=len(reviews)))
            continue
        done = run_program(*words, *more.get(words[0], []), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        _look(words, tmp_path, done.stdout)
    assert [words[0] for words in commands()].count("review") == len(reviews) == 3
    assert reviews[2]["done"] == reviews[1]["done"] == ANSWERED, "answers are there again"
    shown = pd.read_csv(tmp_path / "tags.csv")
    assert len(shown) == len(NUMBERS)
    assert person.clicks < 24 * ANSWERED / 2, "it knew most of the tags"


def _review(words: list[str], folder: Path, person: Person, *, turn: int) -> dict[str, Any]:
    """Start the page, answer, end it with Ctrl-C; how far it was then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlcrf", *words, "--no-browser"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        person.visit(process.stdout.readline().strip())
        if turn == 0:
            person.teach_one("people")
            assert list((folder / "photos").glob("*.xmp"))
        elif turn == 1:
            person.answer_all(ANSWERED)
        progress = person.progress()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 0
    finally:
        process.kill()
    return progress


def _look(words: list[str], folder: Path, printed: str) -> None:
    """What a command has left, where the page says something of it."""
    sidecars = list((folder / "photos").glob("*.xmp"))
    if "--given" in words:
        table = pd.read_csv(folder / "outdoors.csv")
        assert (table["p:indoor"] == 0).all()
    elif words[0] == "predict" and "runs/mine" in words:
        assert pd.read_csv(folder / "mine.csv").columns[2] == "p:people"
    elif "--txt" in words:
        assert not list((folder / "photos").glob("*.txt"))
    elif "--dry-run" in words:
        assert not sidecars and "im15001.jpg.xmp" in printed
    elif "--xmp" in words:
        assert len(sidecars) > ANSWERED / 2
    elif "--undo" in words:
        own_only = not (folder / "tags.csv").exists()
        assert not sidecars if own_only else 0 < len(sidecars) <= ANSWERED, "what was said stays"
    elif words[0] == "report":
        assert "<title>" in (folder / "report.html").read_text(encoding="utf-8")
    elif words[0] == "evaluate":
        assert "wrong labels per image" in printed and "|split:test|" in printed
    elif words[0] == "train":
        splits = pd.read_csv(folder / "runs" / "corrected" / "splits.csv")
        assert set(splits["split"]) == {"train", "validation", "test"}
        assert len(splits) == ANSWERED
        json.loads((folder / "runs" / "corrected" / "metrics.json").read_text())
