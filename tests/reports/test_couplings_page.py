"""The page to zoom in: what is in it, and what it does in a browser."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlcrf.checkpoint import Run
from mlcrf.reports import couplings_page
from mlcrf.reports.correlations import couplings
from mlcrf.reports.couplings_page import save_couplings_page
from mlcrf.reports.label_order import LabelOrder, order_labels
from tests.reports.making import make_clustered
from tests.reports.webpage.making import HOSTILE_LABELS, OWNED, make_run, taken_apart

LABELS = (*HOSTILE_LABELS, *(f"label {number}" for number in range(300)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    edges, _, _ = make_clustered(len(LABELS), 6)
    folder = tmp_path_factory.mktemp("runs") / f"<script>{OWNED}<|script>"
    return make_run(folder, LABELS, edges=torch.from_numpy(edges), rules=[[20, 30]])


@pytest.fixture(scope="module")
def shown(run: Run) -> LabelOrder:
    return order_labels(*couplings(run.crf), len(LABELS))


@pytest.fixture(scope="module")
def page(run: Run, shown: LabelOrder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "couplings.html"
    assert save_couplings_page(path, run, shown) == len(run.crf.edges)
    return path


def embedded(path: Path) -> tuple[dict[str, Any], Any, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    data = json.loads(found[1])
    ends = np.frombuffer(base64.b64decode(data["ends"]), "<u2").reshape(-1, 2).astype(int)
    return data, ends, np.frombuffer(base64.b64decode(data["values"]), "<i2") * data["unit"]


def test_couplings_come_back(run: Run, shown: LabelOrder, page: Path) -> None:
    """Each pair with its value, from weak to strong; labels as they are ordered."""
    data, ends, values = embedded(page)
    assert data["rules"] == shown.place()[[[20, 30]]].tolist()
    back = {
        tuple(sorted(pair)): value
        for pair, value in zip(shown.order[ends].tolist(), values, strict=True)
    }
    edges, learned = couplings(run.crf)
    assert [back[tuple(pair)] for pair in edges.tolist()] == pytest.approx(learned, abs=1e-3)
    assert (np.diff(np.abs(values)) > -1e-3).all()


def test_only_the_strongest_are_kept(
    run: Run, shown: LabelOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page says of how many."""
    monkeypatch.setattr(couplings_page, "MOST_PAIRS", 100)
    assert save_couplings_page(tmp_path / "a.html", run, shown) == 100
    _, _, values = embedded(tmp_path / "a.html")
    sizes = np.sort(np.abs(couplings(run.crf)[1]))
    assert np.abs(values) == pytest.approx(sizes[-100:], abs=1e-3)
    words = " ".join(taken_apart((tmp_path / "a.html").read_text(encoding="utf-8")).text.split())
    assert f"the 100 strongest of {len(sizes):,} couplings" in words


def test_names_are_text_and_nothing_is_loaded(page: Path) -> None:
    """No tag but ours, and no address."""
    text = page.read_text(encoding="utf-8")
    tags = taken_apart(text).tags
    assert sum(tag == "script" for tag, _ in tags) == 2
    assert {"img", "link", "iframe"}.isdisjoint(tag for tag, _ in tags)
    assert not {"src", "href", "onload", "onerror", "style"} & {key for _, a in tags for key in a}
    assert "http://" not in text and "https://" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here; `make ci-system` installs it")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def test_a_label_is_found_and_its_pairs_are_read_out(run: Run, page: Path, browser: Any) -> None:
    """Search, partners, zoom and tooltip, by hostile names too; no complaint, nothing asked for."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    before = tab.evaluate("document.getElementById('matrix').toDataURL()")
    tab.fill("#find", "<SCRIPT>")
    assert tab.locator("#found button").count() == 2  # the one that begins with it first
    tab.press("#find", "Enter")
    label = HOSTILE_LABELS.index(f"<script>{OWNED}</script>")
    assert tab.inner_text("#chosen") == LABELS[label]
    edges, values = couplings(run.crf)
    its = (edges == label).any(1)
    strongest = np.flatnonzero(its)[np.abs(values[its]).argmax()]
    partner = LABELS[int(edges[strongest].sum()) - label]
    first = tab.locator("#partners button").first
    assert first.locator("span").inner_text() == f"{values[strongest]:+.2f}".replace("-", "\u2212")
    assert first.locator("bdi").inner_text()[:40] == partner[:40]
    first.click()  # which brings the pair to the middle of the plot
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.getElementById('matrix').toDataURL()") != before
    box = tab.locator("#matrix").bounding_box()
    left, top = min(190, box["width"] * 0.3), min(150, box["height"] * 0.25)
    tab.mouse.move(box["x"] + (box["width"] + left) / 2, box["y"] + (box["height"] + top) / 2)
    said = tab.inner_text("#tip")
    assert said.startswith(f"{LABELS[label]} \u00d7 ")
    assert f"{values[strongest]:+.2f}".replace("-", "\u2212") in said
    tab.click("#all")
    tab.focus("#matrix")
    for key in ("+", "ArrowRight", "ArrowDown", "-", "0"):
        tab.press("#matrix", key)
    tab.mouse.wheel(0, -300)
    tab.wait_for_timeout(100)
    assert tab.title() == "learned couplings, data"
    assert (complaints, asked) == ([], [page.as_uri()])
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()
