"""The screenshots in README.md and docs: pages of the program itself, in Debian's Chromium.

    make screenshots [RUN=run] [DATA=folder]

The page for review shows scenes drawn by `mlcrf demo`, since the photos of data sets belong to
those who took them; the report shows a run's figures and none of the photos.
"""

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from mlcrf.data.readers import read_dataset
from mlcrf.images import list_images

IMAGES = Path(__file__).parent / "images"
_SCENES = 300
_TAUGHT, _ANSWERED = "sunset", 6
_MLCRF = [sys.executable, "-m", "mlcrf"]


def main() -> None:
    """Make all of them anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what the report is on")
    parser.add_argument("--data", type=Path, required=True, help="its data set")
    options = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("no chromium here; `make ci-system` installs it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        draw_report(browser, options.run, options.data, Path(folder))
        draw_review(browser, Path(folder))
        browser.close()


def draw_report(browser: Any, run: Path, data: Path, folder: Path) -> None:
    """The head of a report, and the couplings with what is said of a pair."""
    page_file = folder / "report.html"
    _run("report", run, data, "--split", "test", "--images", 0, "--out", page_file)
    page = browser.new_page(viewport={"width": 1100, "height": 760}, device_scale_factor=1.5)
    page.goto(page_file.as_uri())
    page.wait_for_timeout(500)
    _save(page, "report.webp")
    page.close()


def draw_review(browser: Any, folder: Path) -> None:
    """The grid of photos, and one of them after an answer."""
    _run("demo", "--out", folder / "demo")
    (folder / "photos").mkdir()
    for scene in islice(list_images([folder / "demo" / "data"]), _SCENES):
        shutil.copy(scene.name, folder / "photos" / scene.file_name)
    with _review(folder, folder / "demo" / "run") as address:
        page = browser.new_page(viewport={"width": 1100, "height": 760}, device_scale_factor=1.5)
        page.goto(address)
        page.wait_for_selector(".tile")
        page.wait_for_timeout(1000)  # the order settles, small pictures come in
        page.reload()
        page.wait_for_selector(".tile")
        page.wait_for_load_state("networkidle")
        _save(page, "review-grid.webp")
        page.keyboard.press("s")
        page.wait_for_selector(".chip.current")
        page.keyboard.press("y")
        page.wait_for_selector(".chip .delta")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1000)  # bars move to where they belong
        _save(page, "review-photo.webp")
        page.close()
    draw_tag(browser, folder)


def draw_tag(browser: Any, folder: Path) -> None:
    """The photos of a tag of one's own, after a few answers."""
    data = read_dataset(folder / "demo" / "data" / "labels.csv")
    column = data.labels.index(_TAUGHT)
    has = {
        image.file_name: row[column] == 1
        for image, row in zip(data.images, data.targets, strict=True)
    }
    with _review(folder, Path("none")) as address:
        page = browser.new_page(viewport={"width": 1100, "height": 760}, device_scale_factor=1.5)
        page.goto(address)
        page.wait_for_selector(".tile")
        shown = page.locator(".tile").evaluate_all("all => all.map(one => one.title)")
        for value, key in ((True, "y"), (False, "n")):
            for name in [one for one in shown if has[one] == value][:_ANSWERED]:
                page.click(f".tile[title='{name}']", modifiers=["Control"])
            page.keyboard.press("t")
            page.keyboard.type(_TAUGHT)
            page.keyboard.press("Enter")
            page.keyboard.press(key)
            page.wait_for_selector("#bulk", state="hidden")
        page.select_option("#label", label=_TAUGHT)
        page.wait_for_selector("[data-part=likely] .tile, [data-part=uncertain] .tile")
        page.wait_for_timeout(5000)  # estimates and small pictures come in
        _save(page, "review-tag.webp")
        page.close()


@contextmanager
def _review(folder: Path, model: Path) -> Iterator[str]:
    database = f"sqlite:///{folder / model.name}.db"
    words = ["review", folder / "photos", "--model", model, "--db", database]
    words += ["--person", "anna", "--no-browser"]
    process = subprocess.Popen(  # our own program
        [*_MLCRF, *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if re.match("http://", line))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _save(page: Any, name: str) -> None:
    """As WebP, which keeps text sharp in a tenth of the bytes of PNG."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(IMAGES / name, quality=85, method=6)


def _run(*words: object) -> None:
    subprocess.run([*_MLCRF, *map(str, words)], check=True)  # our own program


if __name__ == "__main__":
    main()
