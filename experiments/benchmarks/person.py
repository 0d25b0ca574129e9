"""A person's time from a folder of untagged photos to tags of their own in sidecars.

    python experiments/benchmarks/person.py --data data/mirflickr25k [--out file.json]

A simulated person opens `mlcrf review PHOTOS --model none` in Chromium, teaches tags one after the
other and writes them as sidecars, once by keys alone and once by mouse alone (names are typed).
They answer as the data set says, and look at pictures as the page shows them:

1. In the list of all photos they select the first few with the tag, name it, and say yes.
2. In the tag's own view, part by part, they look at all that is shown and has no answer, select
   all and unmark what is wrong, or mark what is right where that is less, and say yes to the
   selected and no to the others by one key or click.
3. They answer single photos that the page asks about.

Their time is reckoned from a stated pace, with what the page itself lets them wait for added as it
is measured.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from playwright.sync_api import sync_playwright
from timing import describe_machine

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.images import as_image
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.xmp import Packet, Property

PHOTOS = 300
TAGS = ("people", "sky", "night", "flower", "indoor")
ANSWER_S, SCAN_S, ACT_S = 1.0, 0.3, 0.5
FIRST = 4  # photos with the tag that are sought in the list
SINGLES = 12  # questions answered one by one, of each tag
ROUNDS = 2  # looks at the parts of a tag's photos
LEAST = 60  # percent of tags without an answer that are written


@dataclass
class Person:
    """A person at a page, and the time that they have taken."""

    page: Any
    truth: dict[str, set[str]]
    spent: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)

    def took(self, what: str, seconds: float, times: int = 1) -> None:
        self.spent[what] += seconds * times
        self.acts[what] += times

    def wait(self, condition: str) -> None:
        """Wait for the page; the wait is the person's."""
        began = perf_counter()
        while not self.page.evaluate(condition):
            if perf_counter() - began > 300:
                raise TimeoutError(condition)
            self.page.wait_for_timeout(20)
        self.took("waiting", perf_counter() - began)
        if perf_counter() - began > 10:
            print(f"{perf_counter() - began:.0f} s: {condition}", file=sys.stderr)

    def key(self, name: str) -> None:
        self.page.keyboard.press(name)
        self.took("keys", ACT_S)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)
        self.took("keys", ACT_S, len(text))

    def click(self, what: Any, **options: Any) -> None:
        (self.page.locator(what).first if isinstance(what, str) else what).click(**options)
        self.took("clicks", ACT_S)

    def scan(self, tiles: list[Any]) -> None:
        """Look at thumbnails."""
        self.took("thumbnails", SCAN_S, len(tiles))

    def tiles(self, which: str = ".tile") -> list[Any]:
        """Return tiles that stay the same photos whatever is marked."""
        photos = self.page.evaluate(
            "which => [...document.querySelectorAll(which)].map(one => one.dataset.photo)", which
        )
        return [self.page.locator(f".tile[data-photo='{photo}']").first for photo in photos]

    def name_of(self, tile: Any) -> str:
        return tile.get_attribute("title")

    def learned(self, lessons: int) -> None:
        """Wait for what was learned, which the page then shows."""
        shown = f"Number(document.body.dataset.lessons ?? 0) > {lessons}"
        self.wait(f"{shown} || !document.getElementById('news').hidden")
        if not self.page.evaluate(shown):
            self.show_news()
            self.wait(shown)

    def lessons(self) -> int:
        return int(self.page.evaluate("document.body.dataset.lessons ?? 0"))


class ByKeys(Person):
    """A person who never touches the mouse."""

    def mark(self, tile: Any) -> None:
        """Go to a tile, row by row, and select it or not."""
        target = self.tiles_at(tile)
        at = self.tiles_at(self.page.locator(".tile:focus"))
        if at is None:
            self.key("ArrowRight")
            at = self.tiles_at(self.page.locator(".tile:focus"))
        while at != target:
            here, there = (
                self.page.locator(".tile").nth(one).bounding_box() for one in (at, target)
            )
            down = there["y"] - here["y"]
            right = there["x"] - here["x"]
            name = "ArrowDown" if down > 1 else "ArrowUp" if down < -1 else ""
            self.key(name or ("ArrowRight" if right > 0 else "ArrowLeft"))
            at = self.tiles_at(self.page.locator(".tile:focus"))
        self.key("x")

    def tiles_at(self, tile: Any) -> int | None:
        if not tile.count():
            return None
        at: int = tile.first.evaluate("one => [...document.querySelectorAll('.tile')].indexOf(one)")
        return at

    def name_selected(self, tag: str) -> None:
        self.key("t")
        self.type(tag)
        self.key("Enter")

    def say(self, value: int) -> None:
        self.key("yn"[1 - value])

    def view(self, tag: str) -> None:
        self.key("t")
        self.type(tag)
        self.key("Enter")

    def say_of_all(self) -> None:
        self.key("o")

    def go_to_part(self, part: str) -> None:
        shown = self.page.evaluate(
            "[...document.querySelectorAll('.part')].map(p => p.dataset.part)"
        )
        self.key(str(shown.index(part) + 1))

    def select_part(self, part: str) -> None:
        self.key("Control+a")

    def begin(self) -> None:
        self.key("s")

    def answer(self, value: int) -> None:
        self.page.keyboard.press("yn"[1 - value])

    def go_on(self) -> None:
        self.key("Enter")

    def leave(self) -> None:
        self.key("g")

    def write(self, least: int) -> None:
        self.key("w")
        self.key("ArrowDown")
        self.key("Tab")  # which selects the number
        self.type(str(least))
        self.key("Enter")

    def show_news(self) -> None:
        self.key("r")

    def close(self) -> None:
        self.key("Escape")


class ByMouse(Person):
    """A person who types names only."""

    def mark(self, tile: Any) -> None:
        tile.hover()
        self.click(tile.locator(".tick"))

    def name_selected(self, tag: str) -> None:
        self.click("#bulk-label")
        self.page.fill("#bulk-label", "")
        self.type(tag)

    def say(self, value: int) -> None:
        self.click(f".bulk [data-value='{value}']")

    def view(self, tag: str) -> None:
        self.page.select_option("#label", label=tag)
        self.took("clicks", ACT_S, 2)

    def say_of_all(self) -> None:
        self.click("#bulk-others")

    def go_to_part(self, part: str) -> None:
        """See it, since nothing needs the focus."""

    def select_part(self, part: str) -> None:
        self.click(f".part[data-part='{part}'] .part-head button")

    def begin(self) -> None:
        self.click("#start")

    def answer(self, value: int) -> None:
        self.page.click(f".ask-buttons [data-value='{value}']")

    def go_on(self) -> None:
        self.click("#next")

    def leave(self) -> None:
        self.click(".brand")

    def write(self, least: int) -> None:
        self.click("#grid-view .open-writing")
        self.click("#write-percent")
        self.page.fill("#write-percent", "")
        self.type(str(least))
        self.click("#write-now")

    def show_news(self) -> None:
        self.page.evaluate("document.getElementById('news').click()")  # it may just have gone
        self.took("clicks", ACT_S)

    def close(self) -> None:
        self.click("#write-close")


def teach(person: Any, tag: str) -> None:
    """Teach one tag, beginning and ending in the grid."""
    lessons = person.lessons()
    looked, chosen = [], 0
    for tile in person.tiles():
        looked.append(tile)
        if person.name_of(tile) in person.truth[tag]:
            person.mark(tile)
            chosen += 1
        if chosen == FIRST:
            break
    person.scan(looked)
    person.name_selected(tag)
    person.say(1)
    person.wait("document.getElementById('bulk').hidden")
    person.view(tag)
    person.wait(f"document.getElementById('count').textContent === '{tag}'")
    person.learned(lessons)
    look_through(person, tag, ("sure", "likely", "uncertain", "unlikely"), most=1)
    ask(person, tag)
    for _ in range(ROUNDS):
        look_through(person, tag, ("sure", "likely"), most=2)
    person.leave()
    person.wait("document.getElementById('count').textContent.endsWith(' photos')")


def look_through(person: Any, tag: str, parts: tuple[str, ...], most: int) -> None:
    """Say of all that is shown of some parts whether it has the tag."""
    done = 0
    for part in parts:
        shown = f".part[data-part='{part}'] .tile:not(:has([data-answer]))"
        if done == most or not person.page.locator(shown).count():
            continue
        lessons = person.lessons()
        person.go_to_part(part)
        tiles = person.tiles(shown)
        person.scan(tiles)
        right = [tile for tile in tiles if person.name_of(tile) in person.truth[tag]]
        wrong = [tile for tile in tiles if tile not in right]
        if len(right) >= len(wrong) or not right:
            person.select_part(part)
            marked = wrong if right else []
        else:
            marked = right
        for tile in marked:
            person.mark(tile)
        if right and wrong:
            person.say_of_all()
        else:
            person.say(int(not wrong))
        person.wait("document.getElementById('bulk').hidden")
        person.learned(lessons)
        done += 1


def ask(person: Any, tag: str) -> None:
    """Answer single photos."""
    page = person.page
    person.begin()
    before = ""
    for _ in range(SINGLES):
        person.wait(
            "!document.getElementById('photo-view').hidden && "
            f"document.getElementById('photo-name').textContent !== {before!r}"
        )
        asked, before = page.inner_text("#ask-text strong"), page.inner_text("#photo-name")
        assert asked == tag, asked
        person.answer(int(before in person.truth[tag]))
        person.took("answers", ANSWER_S)
        person.go_on()
    lessons = person.lessons()
    person.leave()
    person.wait(f"document.getElementById('count').textContent === '{tag}'")
    person.learned(lessons)


def live(person: Any, folder: Path) -> dict[str, Any]:
    """Teach all tags and write them; return the figures."""
    page = person.page
    for tag in TAGS:
        teach(person, tag)
    answers = page.inner_text("#progress-text")
    person.write(LEAST)
    person.wait("!document.getElementById('write-undo').hidden")
    said = page.inner_text("#write-said")
    person.close()
    return {
        "minutes": sum(person.spent.values()) / 60,
        "seconds": dict(person.spent),
        "acts": {name: count for name, count in person.acts.items() if name != "waiting"},
        "progress": answers,
        "said": said,
        "tags": judge(folder, person.truth),
    }


def judge(folder: Path, truth: dict[str, set[str]]) -> dict[str, dict[str, float]]:
    """Compare the sidecars with the data set."""
    subject = Property("dc", "subject")
    written: dict[str, set[str]] = {tag: set() for tag in TAGS}
    for path in folder.glob("*.xmp"):
        for tag in Packet(load_sidecar(path)).values(subject):
            written[tag].add(path.stem)
    return {
        tag: {
            "photos": len(truth[tag]),
            "written": len(names),
            "precision": len(names & truth[tag]) / max(len(names), 1),
            "recall": len(names & truth[tag]) / len(truth[tag]),
        }
        for tag, names in written.items()
    }


@contextmanager
def serving(photos: Path, folder: Path) -> Iterator[str]:
    """Run the program; yield the page's address."""
    words = ["review", photos, "--model", "none", "--db", f"sqlite:///{folder / 'tags.db'}"]
    words += ["--person", "anna", "--no-browser", "--port", 0]
    process = subprocess.Popen(  # our own program
        [sys.executable, "-m", "mlcrf", *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http://"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    """Live both ways, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=("keys", "mouse"))
    arguments = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("no chromium here; `make ci-system` installs it")
    data = read_dataset(arguments.data, ReadOptions(24))
    some = [
        (as_image(image).path, row)
        for image, row in zip(data.images[:PHOTOS], data.targets[:PHOTOS], strict=True)
    ]
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "pace": {"answer": ANSWER_S, "thumbnail": SCAN_S, "key or click": ACT_S},
    }
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for way, kind in (("keys", ByKeys), ("mouse", ByMouse)):
            if arguments.way not in (None, way):
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "photos").mkdir()
                for path, _ in some:
                    os.link(path, folder / "photos" / path.name)
                truth = {
                    tag: {path.name for path, row in some if row[data.labels.index(tag)] == 1}
                    for tag in TAGS
                }
                with serving(folder / "photos", folder) as address:
                    page = browser.new_page(viewport={"width": 1280, "height": 844})
                    page.goto(address)
                    page.wait_for_selector(".tile")
                    record[way] = live(kind(page, truth), folder / "photos")
                    page.close()
        browser.close()
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
