"""The page in a real browser: by keys alone, by clicks, on a phone; nothing from elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import pytest
import torch

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.decoding import Costs, Decoder, Guarantee
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.explaining import Explainer
from mlcrf.review.launch import add_suspects, start_review
from mlcrf.review.model_saving import ModelSaving
from mlcrf.review.promise import Promise
from mlcrf.review.review_app import make_app
from mlcrf.review.safety import Hosts
from mlcrf.review.session import Review
from mlcrf.review.suspects import SuspectRow
from mlcrf.review.tag_writing import TagWriting
from mlcrf.web import listen, make_server
from tests.review.conftest import LABELS, make_folder, new_request

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
PATIENCE_S = 300  # on a machine with other work
MARKUP = "<img src=x onerror=window.fired=1>.png"
NAMES = [MARKUP, "a.png", "b.png", "trip/c.png"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass(frozen=True)
class Place:
    """A page, served by a thread of this process, and the database that it writes to."""

    address: str
    database: ReviewDatabase
    review: Review
    port: int


@contextmanager
def serving(review: Review, database: ReviewDatabase, port: int = 0) -> Iterator[Place]:
    with listen("127.0.0.1", port) as listener:
        port = listener.getsockname()[1]
        hosts = Hosts("127.0.0.1")
        writing = TagWriting(review)
        saving = ModelSaving(review, None, find_spec("tiny"))
        app = make_app(
            review, writing, saving, token="t0ken", person="anna", hosts=hosts, port=port
        )
        server = make_server(app, grace_s=10, lifespan="off")
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Place(f"http://127.0.0.1:{port}/?token=t0ken", database, review, port)
        server.should_exit = True
        thread.join()
        writing.close()
        saving.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ReviewDatabase]:
    opened = ReviewDatabase(str(tmp_path / "tags.db"))
    yield opened
    opened.close()


@pytest.fixture
def review(tmp_path: Path, small_run: Path, database: ReviewDatabase) -> Review:
    run = load_run(small_run)
    folder = make_folder(tmp_path / "photos", NAMES)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    return start_review(folder, run, database, extractor)[0]


@pytest.fixture
def place(review: Review, database: ReviewDatabase) -> Iterator[Place]:
    with serving(review, database) as served:
        yield served


class Visit:
    """One visitor; all complaints of the browser, and every address that it asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_S * 1000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(".tile")

    def chances(self) -> dict[int, float]:
        """Return for each tag how far its chip is filled."""
        chips = self.page.query_selector_all(".chip")
        return {
            int(chip.get_attribute("data-label")): float(
                chip.evaluate("node => parseFloat(node.style.getPropertyValue('--p'))")
            )
            for chip in chips
        }

    def answers(self, number: int) -> None:
        """Wait until so many are counted."""
        words = "1 answer" if number == 1 else f"{number} answers"
        until(
            self.page, f"document.getElementById('progress-text').textContent.endsWith('{words}')"
        )


Visiting = Callable[..., Visit]


@pytest.fixture
def visiting(browser: Any, place: Place) -> Iterator[Visiting]:
    """Opens the page; closes it before its server ends."""
    visits: list[Visit] = []

    def visit(**options: Any) -> Visit:
        visits.append(Visit(browser, place.address, **options))
        return visits[-1]

    yield visit
    for one in visits:
        one.context.close()


def until(page: Any, condition: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something to be true on the page, whose policy forbids the driver's own way."""
    end = monotonic() + timeout_s
    while not page.evaluate(condition):
        assert monotonic() < end, condition
        page.wait_for_timeout(20)


def pressed(page: Any, label: int) -> list[str]:
    return [
        button.get_attribute("data-value")
        for button in page.query_selector_all(f".chip[data-label='{label}'] [aria-pressed=true]")
    ]


def test_by_keys_alone(visiting: Visiting, place: Place) -> None:
    """Start, answer, see other tags change, undo, accept, go on, back, help: no mouse."""
    visit = visiting()
    page = visit.page
    page.keyboard.press("s")
    page.wait_for_selector(".chip.current")
    before = visit.chances()
    asked = int(page.get_attribute(".chip.current", "data-label"))
    assert page.inner_text("#ask-text strong") == LABELS[asked]
    page.keyboard.press("y")
    visit.answers(1)
    after = visit.chances()
    assert after[asked] == 100 and pressed(page, asked) == ["1"]
    assert max(abs(after[label] - before[label]) for label in before if label != asked) > 1
    page.keyboard.press("z")
    visit.answers(0)
    assert visit.chances() == pytest.approx(before, abs=0.02) and pressed(page, asked) == []
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("n")
    visit.answers(1)
    page.keyboard.press("u")
    visit.answers(2)
    page.keyboard.press("a")
    visit.answers(len(LABELS))
    assert page.inner_text("#photo-state") == "Done"
    assert page.inner_text("#ask-text").startswith("Every tag is settled: ")
    assert page.is_visible("#onward") and not page.is_visible(".ask-buttons")
    first, name = page.url, page.inner_text("#photo-name")
    page.keyboard.press("Enter")
    until(page, f"document.getElementById('photo-name').textContent !== {name!r}")
    page.keyboard.press("ArrowLeft")
    until(page, f"document.getElementById('photo-name').textContent === {name!r}")
    assert page.url == first
    page.keyboard.press("?")
    assert page.is_visible("#help")
    shown = page.eval_on_selector("#help", "h => [h.scrollHeight > h.clientHeight, h.scrollTop]")
    assert shown == [True, 0]  # longer than the window, from its beginning
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.keyboard.press("/")
    until(page, "document.activeElement.id === 'name'")
    page.keyboard.type("TRIP/")
    until(page, "document.getElementById('count').textContent === '1 photo'")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#photo-view")  # its name may still be there from an earlier visit
    until(page, "document.getElementById('photo-name').textContent === 'trip/c.png'")
    page.keyboard.press("g")
    page.wait_for_selector(".tile")
    assert visit.complaints == []
    assert {answer.person for answer in place.database.since(0)} == {"anna"}


def test_likely_label_errors_come_first(browser: Any, place: Place, tmp_path: Path) -> None:
    """An answer leads to the next one, in the same photo too; undo comes back."""
    photos = tmp_path / "photos"
    rows = [(photos / "b.png", "sea"), (photos / "b.png", "sky"), (photos / "a.png", "sea")]
    suspects = [SuspectRow("", path, label, 0, 0.98, "beach=1 (+2.0)") for path, label in rows]
    add_suspects(place.review, suspects, "anna")
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(place.address)

    def asks(name: str, tag: str, done: int) -> None:
        progress = f"{done} of 3 suspects"
        until(page, f"document.getElementById('photo-name').textContent === {name!r}")
        until(page, f"document.querySelector('#ask-text strong')?.textContent === {tag!r}")
        until(
            page, f"document.getElementById('progress-text').textContent.startsWith({progress!r})"
        )

    asks("b.png", "sea", 0)
    said = "Annotated as not sea. Likely sea, 98 %, because beach=1 (+2.0)."
    assert page.inner_text("#suspect") == said
    page.keyboard.press("y")
    asks("b.png", "sky", 1)
    page.keyboard.press("n")
    asks("a.png", "sea", 2)
    page.keyboard.press("z")
    asks("b.png", "sky", 1)
    page.keyboard.press("Enter")
    asks("a.png", "sea", 1)
    page.context.close()


def test_why(visiting: Visiting, review: Review) -> None:
    """A key shows parts and a map of the tag asked about, follows to other tags, and hides both."""
    review._explainer = Explainer(review.photos, lambda _: (torch.rand(128, 4, 3),))
    visit = visiting()
    page = visit.page
    page.keyboard.press("s")
    page.wait_for_selector(".chip.current")

    def explained() -> str:
        label = page.inner_text("#ask-text strong")
        title = "document.getElementById('why-title').textContent"
        until(page, f"{title}.startsWith('Why ' + {label!r} + ' is at')")
        until(page, "!document.getElementById('evidence').hidden")
        return page.inner_text("#why-parts")

    page.keyboard.press("i")
    first = explained()
    assert "the picture itself" in first and "together, in log-odds" in first
    ratio = "node => (node.width ?? 0) / node.height"
    size = page.evaluate("(({naturalWidth: w, naturalHeight: h}) => w / h)(photo)")
    assert page.eval_on_selector("#evidence", ratio) == pytest.approx(size, rel=0.01)
    page.keyboard.press("ArrowDown")
    assert explained() != first
    page.click(f".chip[data-label='{LABELS.index('sea')}'] .chip-name")
    page.keyboard.press("y")
    visit.answers(1)
    page.click(f".chip[data-label='{LABELS.index('sky')}'] .chip-name")
    assert "sea (yes)\n+2.00" in explained()
    page.keyboard.press("n")
    visit.answers(2)
    page.keyboard.press("a")  # settles the photo, whose reasons stay
    visit.answers(len(LABELS))
    assert page.inner_text("#ask-text").startswith("Every tag is settled: ")
    title = "document.getElementById('why-title').textContent"
    until(page, f"{title}.startsWith('sky was answered no; without that it would be at ')")
    assert "together, in log-odds" in page.inner_text("#why-parts")
    page.reload()
    page.wait_for_selector(".chip")
    page.keyboard.press("i")
    label = page.locator(".chip-name").first.inner_text()
    said = f"{label} was answered yes; without that it would be at "
    until(page, f"{title}.startsWith({said!r})")
    until(page, "!document.getElementById('evidence').hidden")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    label = page.inner_text("#ask-text strong")
    until(page, f"{title}.startsWith({label!r})")
    page.click("#why-button")
    assert not page.is_visible("#why") and not page.is_visible("#evidence")
    assert visit.complaints == []


# by how much a tag has changed is gone with the next drawing of the page: caught when shown
KEEP_DELTAS = """() => {
  window.deltas = [];
  new MutationObserver(() => document.querySelectorAll(".chip .delta").forEach(
    one => window.deltas.push(`${one.closest(".chip").dataset.label}: ${one.textContent}`)
  )).observe(document.body, {childList: true, subtree: true});
}"""


def test_by_clicks(visiting: Visiting, place: Place) -> None:
    """Open a photo, answer on chips and on the question, change an answer, undo, filter."""
    visit = visiting()
    page = visit.page
    page.select_option("#order", "name")
    first, second = (photo.id for photo in place.review.photos[:2])
    until(page, f"document.querySelector('.tile').dataset.photo === '{first}'")
    page.click(f".tile[data-photo='{second}']")
    page.wait_for_selector(".chip")
    before = visit.chances()
    page.evaluate(KEEP_DELTAS)
    page.click(".chip[data-label='0'] button[data-value='1']")
    visit.answers(1)
    after = visit.chances()
    assert after[0] == 100 and after[2] > before[2] + 3 and after[3] < before[3] - 3
    until(page, "window.deltas.some(text => text.startsWith('2: +'))")
    page.click(".chip[data-label='0'] button[data-value='0']")
    until(
        page,
        "document.querySelector('.chip[data-label=\"0\"]').style.getPropertyValue('--p') === '0%'",
    )
    page.click(".chip[data-label='1'] .chip-name")
    assert page.inner_text("#ask-text strong") == LABELS[1]
    page.click(".ask-buttons .unsure")
    visit.answers(2)
    assert pressed(page, 1) == ["-1"]
    page.click("#undo")
    visit.answers(1)
    page.click("#next")
    until(page, f"!location.hash.endsWith('/{second}')")
    page.click(".brand")
    page.select_option("#state", "begun")
    until(page, "document.getElementById('count').textContent === '1 photo'")
    assert page.inner_text(".tile .badge") == "Begun"
    page.select_option("#state", "conflict")
    until(page, "document.getElementById('count').textContent.startsWith('No photo')")
    assert visit.complaints == []


def test_markup_fires_nothing_and_nothing_comes_from_elsewhere(
    visiting: Visiting, place: Place
) -> None:
    """A file and a label that are markup are read as text, in the list and with their photo."""
    visit = visiting()
    page = visit.page
    page.wait_for_selector(f".tile[title='{MARKUP}']")
    page.click(f".tile[title='{MARKUP}']")
    page.wait_for_selector(".chip")
    assert page.inner_text("#photo-name") == MARKUP
    assert LABELS[4] in [name.inner_text() for name in page.query_selector_all(".chip-name")]
    assert page.evaluate("window.fired") is None and page.query_selector(".chip b") is None
    home = place.address.partition("/?")[0] + "/"
    assert visit.addresses and all(one.startswith(home) for one in visit.addresses)
    assert visit.complaints == []
    page.evaluate(
        "() => { const s = document.createElement('script');"
        " s.textContent = 'window.fired = 1'; document.body.append(s); }"
    )
    assert page.evaluate("window.fired") is None  # the policy of the page forbids it
    assert any("Content Security Policy" in one for one in visit.complaints)


def test_another_persons_answer_is_shown_beside_ones_own(visiting: Visiting, place: Place) -> None:
    """Names, a conflict, and the question moves on; the name stays for the next visit."""
    place.review.answer(0, {0: 0}, "ben <b>", new_request())
    visit = visiting()
    page = visit.page
    page.fill("#person", "carla")
    page.keyboard.press("Tab")
    page.goto(f"{place.address.partition('?')[0]}#/photo/{place.review.photos[0].id}")
    page.wait_for_selector(".chip .votes")
    assert page.inner_text(".chip[data-label='0'] .votes") == "ben <b>: no"
    page.click(".chip[data-label='0'] button[data-value='1']")
    page.wait_for_selector(".chip.conflict[data-label='0']")
    assert page.inner_text(".chip.conflict .votes") == "ben <b>: no · carla: yes"
    assert page.inner_text("#photo-state") == "Conflict"
    page.reload()
    page.wait_for_selector(".chip.conflict")
    assert page.input_value("#person") == "carla"


def test_an_answer_is_sent_again_until_it_is_kept(visiting: Visiting, place: Place) -> None:
    """Where the server cannot be reached the page says so, tries again, and counts it once."""
    visit = visiting()
    page = visit.page
    page.keyboard.press("s")
    page.wait_for_selector(".chip.current")
    failures: list[Any] = []
    is_told: list[bool] = []

    def fail(route: Any) -> None:
        if is_told:
            route.continue_()
        else:
            failures.append(route.fetch())  # it arrives, but the reply is lost
            route.abort()

    page.route("**/answer", fail)
    page.keyboard.press("y")
    until(page, "document.getElementById('notice').textContent.startsWith('Not saved yet')")
    is_told.append(True)
    visit.answers(1)
    assert not page.is_visible("#notice") and failures
    assert len(list(place.database.since(0))) == 1


def test_marks_are_cleared_and_time_goes_both_ways(visiting: Visiting) -> None:
    """A second click clears a mark, and so does Delete; undo and redo, by keys and by buttons."""
    visit = visiting()
    page = visit.page
    page.click("#start")
    page.wait_for_selector(".chip")
    yes = ".chip[data-label='0'] button[data-value='1']"
    page.click(yes)
    visit.answers(1)
    page.click(yes)
    visit.answers(0)
    assert pressed(page, 0) == []
    page.keyboard.press("Control+z")
    visit.answers(1)
    assert page.is_visible("#redo")
    page.keyboard.press("Control+Shift+Z")
    visit.answers(0)
    page.click("#undo")
    visit.answers(1)
    page.click(".chip[data-label='0'] .chip-name")
    page.keyboard.press("Delete")
    visit.answers(0)
    assert not page.is_visible("#redo") and visit.complaints == []


def test_enter_after_a_click_goes_on(visiting: Visiting, place: Place) -> None:
    """It opens the next photo, and does not press the button again, which asks another question."""
    visit = visiting()
    page = visit.page
    page.click("#start")
    page.wait_for_selector(".chip")
    first = page.url
    page.click(".ask-buttons .yes")
    visit.answers(1)
    page.keyboard.press("Enter")
    until(page, f"location.href !== '{first}'")
    assert len(list(place.database.since(0))) == 1


def test_an_open_page_survives_a_restart(
    browser: Any, review: Review, database: ReviewDatabase, tmp_path: Path, small_run: Path
) -> None:
    """An answer that is given meanwhile is kept, and the page goes on with the new server."""
    with serving(review, database) as place:
        visit = Visit(browser, place.address)
        page = visit.page
        page.click("#start")
        page.wait_for_selector(".chip.current")
    page.keyboard.press("y")
    until(page, "document.getElementById('notice').textContent.includes('Start it again')")
    first = page.get_attribute("body", "data-start")
    make_folder(tmp_path / "photos", ["0 a new photo that all numbers come after.png"])
    run = load_run(small_run)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    again, _ = start_review(tmp_path / "photos", run, database, extractor)
    with serving(again, database, place.port), closing(visit.context):
        page.wait_for_selector(f"body:not([data-start='{first}']) .chip")
        (answer,) = database.since(0)
        assert page.url.endswith(f"#/photo/{answer.photo}")


def test_a_photo_is_enlarged(visiting: Visiting) -> None:
    """By click and key, further by wheel; moved by dragging; closed by a click and by Escape."""
    page = visiting().page
    page.click("#start")
    page.wait_for_selector(".chip")
    until(page, "document.getElementById('photo').naturalWidth > 0")
    page.click("#enlarge")
    width = "document.getElementById('enlarged').offsetWidth"
    before = page.evaluate(width)
    assert before > page.evaluate("innerWidth")
    page.mouse.move(400, 300)
    page.mouse.wheel(0, -100)
    until(page, f"{width} > {before}")
    left = page.evaluate("document.getElementById('pan').scrollLeft")
    page.mouse.down()
    page.mouse.move(500, 300, steps=3)
    page.mouse.up()
    assert page.evaluate("document.getElementById('pan').scrollLeft") == pytest.approx(
        left - 100, abs=2
    )
    assert page.is_visible("#zoom")
    page.keyboard.press("Escape")
    assert not page.is_visible("#zoom") and page.is_visible("#photo-view")
    page.keyboard.press("f")
    page.wait_for_selector("#zoom")
    page.mouse.click(500, 300)
    assert not page.is_visible("#zoom")


def test_many_at_once_by_keys(visiting: Visiting, place: Place) -> None:
    """Select with x, Shift and arrows, Ctrl+a; name the tag; yes; one undo for all."""
    visit = visiting()
    page = visit.page
    chosen = "document.querySelectorAll('.tile.chosen').length"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(chosen) == 3
    page.keyboard.press("t")
    page.keyboard.type("BEACH")
    page.keyboard.press("Enter")
    page.keyboard.press("y")
    visit.answers(3)
    assert not page.is_visible("#bulk") and len(list(place.database.since(0))) == 3
    page.keyboard.press("z")
    visit.answers(0)
    assert page.is_visible("#grid-view")
    page.keyboard.press("x")
    page.keyboard.press("o")  # yes to this one, no to the others
    visit.answers(len(NAMES))
    assert [place.review.tags()[2].answers[one] for one in ("yes", "no")] == [1, 3]
    page.keyboard.press("z")
    visit.answers(0)
    page.keyboard.press("Control+a")
    assert page.evaluate(chosen) == len(NAMES) and not page.is_visible("#bulk-others")
    page.keyboard.press("t")
    page.keyboard.type("sky")  # in the place of the tag that was named before
    assert page.input_value("#bulk-label") == "sky"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.evaluate(chosen) == 0 and visit.complaints == []


def test_many_at_once_by_mouse(visiting: Visiting, place: Place) -> None:
    """All that are shown but one that is unmarked; ranges with Shift; a frame that is drawn."""
    visit = visiting()
    page = visit.page
    chosen = "document.querySelectorAll('.tile.chosen').length"
    tiles = page.locator(".tile")
    page.click("#all")
    tiles.nth(1).click()
    page.fill("#bulk-label", "sky")
    page.click(".bulk .yes")
    visit.answers(3)
    answered = {answer.photo for answer in place.database.since(0)}
    assert int(tiles.nth(1).get_attribute("data-photo")) not in answered
    page.click("#undo")
    visit.answers(0)
    tiles.nth(0).hover()
    page.locator(".tick").nth(0).click()
    tiles.nth(2).click(modifiers=["Shift"])
    assert page.evaluate(chosen) == 3
    page.click("#bulk-clear")
    first, second = tiles.nth(0).bounding_box(), tiles.nth(1).bounding_box()
    page.mouse.move(first["x"] + 20, first["y"] + 20)
    page.mouse.down()
    page.mouse.move(second["x"] + 20, second["y"] + 60, steps=5)
    page.mouse.up()
    assert page.evaluate(chosen) == 2 and page.is_visible("#grid-view")
    page.click(".bulk .yes")
    visit.answers(2)
    tiles.nth(0).click()
    page.wait_for_selector(".chip")
    assert visit.complaints == []


def test_all_photos_are_shown_and_answered_at_once(
    browser: Any, tmp_path: Path, small_run: Path, database: ReviewDatabase
) -> None:
    """More than a page of them: shown by one click, answered by one key, undone by one."""
    run = load_run(small_run)
    folder = make_folder(tmp_path / "many", [f"{at}.png" for at in range(70)])
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    review = start_review(folder, run, database, extractor)[0]
    with serving(review, database) as served:
        visit = Visit(browser, served.address)
        page = visit.page
        shown = "document.querySelectorAll('.tile').length"
        assert page.evaluate(shown) == 60
        page.click("text=Show all 70")
        until(page, f"{shown} === 70")
        assert page.is_hidden(".more")
        page.keyboard.press("Control+a")
        page.fill("#bulk-label", "sky")
        page.keyboard.press("Enter")
        page.keyboard.press("n")
        visit.answers(70)
        until(page, "!document.querySelector('.saving')")
        assert page.locator(".tile .badge[data-state=begun]").count() == 70
        page.keyboard.press("z")
        visit.answers(0)
        page.select_option("#label", label="sky")
        page.wait_for_selector(".part-head")
        part = page.locator(".part:has(.more)").first
        count = int(part.locator(".more button").last.inner_text().removeprefix("Show all "))
        part.locator(".more button").last.click()
        name = part.get_attribute("data-part")
        until(page, f"document.querySelectorAll('[data-part={name}] .tile').length === {count}")
        page.click(f"[data-part={name}] .part-head button")
        page.keyboard.press("y")
        visit.answers(count)
        until(page, f"document.getElementById('tag-said').textContent === '{count} yes, 0 no'")
        assert len(list(database.since(0))) == 2 * 70 + count
        assert visit.complaints == []
        visit.context.close()


def test_news_of_before_an_act_are_ignored(visiting: Visiting) -> None:
    """What the server said of its state before an answer does not come after that answer."""
    visit = visiting()
    page = visit.page
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/api/progress", hold)
    page.locator(".tile").first.hover()
    page.locator(".tick").first.click()
    page.fill("#bulk-label", "sky")
    page.keyboard.press("Enter")
    page.keyboard.press("y")
    visit.answers(1)
    end = monotonic() + PATIENCE_S
    while not held:
        assert monotonic() < end
        page.wait_for_timeout(20)
    before = held[0].fetch()
    page.keyboard.press("z")
    visit.answers(0)
    held[0].fulfill(response=before)
    page.wait_for_timeout(300)
    assert page.inner_text("#progress-text").endswith("0 answers")
    page.unroute("**/api/progress")


def test_a_refused_answer_leaves_the_selection(visiting: Visiting, place: Place) -> None:
    """Photos that were selected can be answered about again."""
    visit = visiting()
    page = visit.page
    page.locator(".tile").first.hover()
    page.locator(".tick").first.click()
    page.fill("#bulk-label", "sky")
    page.evaluate("document.getElementById('person').value = '\\u200b'")  # no name
    page.keyboard.press("Enter")
    page.keyboard.press("y")
    page.wait_for_selector("#notice:not([hidden])")
    assert page.locator(".tile.chosen").count() == 1 and page.locator(".saving").count() == 0
    page.fill("#person", "anna")
    page.keyboard.press("Escape")
    page.keyboard.press("y")
    visit.answers(1)
    assert page.locator(".tile.chosen").count() == 0


def test_the_photos_of_a_tag_by_keys(visiting: Visiting, place: Place) -> None:
    """Choose a tag, go to a part, answer for all of it but one; what is most like one photo."""
    visit = visiting()
    page = visit.page
    page.keyboard.press("t")
    page.keyboard.type("sky")
    until(page, "document.title.startsWith('sky')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".part-head")
    page.keyboard.press("1")
    page.keyboard.press("Control+a")
    chosen = page.evaluate("document.querySelectorAll('.tile.chosen').length")
    assert chosen == page.locator(".part").first.locator(".tile").count()
    page.keyboard.press("x")
    page.keyboard.press("y")
    visit.answers(chosen - 1)
    until(page, f"document.getElementById('tag-said').textContent === '{chosen - 1} yes, 0 no'")
    assert page.locator("[data-part=sure] [data-answer='1']").count() == chosen - 1
    assert page.evaluate("document.activeElement.classList.contains('tile')")
    page.keyboard.press("z")
    visit.answers(0)
    until(page, "document.getElementById('tag-said').textContent === '0 yes, 0 no'")
    page.keyboard.press("s")
    page.wait_for_selector(".chip.current")
    assert page.inner_text("#ask-text strong") == "sky"  # it asks about this tag first
    page.keyboard.press("n")
    visit.answers(1)
    name = page.inner_text("#photo-name")
    page.keyboard.press("l")
    until(page, f"document.getElementById('parts').innerText.includes('Most like {name}')")
    page.keyboard.press("g")
    until(page, "document.getElementById('count').textContent === '4 photos'")
    assert visit.complaints == []


def test_the_photos_of_a_new_tag_by_mouse(visiting: Visiting, place: Place) -> None:
    """From the window of tags; nothing is probable, and those like the photos with a yes follow."""
    place.review.change_tag("anna", new_request(), name="my_dog")
    visit = visiting()
    page = visit.page
    page.click("#grid-view .open-tags")
    page.click("[aria-label^='Photos of my_dog']")
    page.wait_for_selector(".part-head")
    assert (
        page.inner_text("#count") == "my dog" and page.inner_text(".part-head h2") == "All photos"
    )
    tile = page.locator(".tile").nth(1)
    tile.hover()
    tile.locator(".tick").click()
    assert page.input_value("#bulk-label") == "my dog" and page.is_visible("#bulk-like")
    page.click(".bulk .yes")
    page.wait_for_selector("[data-part=sure] [data-answer='1']")
    assert page.locator("[data-part=unlikely] .tile").count() == len(NAMES) - 1
    page.click("[data-part=unlikely] .part-head button")
    page.locator("[data-part=unlikely] .tile").first.click()
    page.click(".bulk .no")
    visit.answers(len(NAMES) - 1)
    page.wait_for_selector("[data-part=answered] [data-answer='0']")
    page.click("#undo")
    page.wait_for_selector("[data-part=unlikely] .tile")
    page.click("#redo")
    page.reload()
    page.wait_for_selector("[data-part=answered] [data-answer='0']")
    assert page.inner_text("#tag-said") == f"1 yes, {len(NAMES) - 2} no"
    assert visit.complaints == []


def test_photos_do_not_move_under_somebody_who_looks(visiting: Visiting, place: Place) -> None:
    """Answers of others move them once after an act, and then wait to be asked for."""
    visit = visiting()
    page = visit.page
    page.select_option("#label", label="sky")
    page.wait_for_selector(".part-head")
    tile = page.locator(".tile").first
    tile.hover()
    tile.locator(".tick").click()
    page.click(".bulk .no")
    visit.answers(1)
    answered = int(page.get_attribute("[data-answer='0'] >> xpath=ancestor::button", "data-photo"))
    rows = [row for row, one in enumerate(place.review.photos) if one.id != answered]
    others = [(row, label) for label in (0, 1, 2) for row in rows]
    count = 1
    while page.is_hidden("#news"):  # the first may still be shown by itself, and a second with it
        row, label = others.pop()
        place.review.answer(row, {label: 1}, "ben", new_request())
        count += 1
        visit.answers(count)
    shown = "document.getElementById('parts').innerText"
    before = page.evaluate(shown)
    row, label = others.pop()
    place.review.answer(row, {label: 0}, "ben", new_request())
    visit.answers(count + 1)
    assert page.evaluate(shown) == before
    page.click("#news")
    until(page, f"{shown} !== {before!r}")
    assert page.is_hidden("#news")
    assert visit.complaints == []


def test_tags_are_written_beside_the_photos(visiting: Visiting, tmp_path: Path) -> None:
    """By keys: how many first, then what was done; one that cannot be written is said."""
    visit = visiting()
    page = visit.page
    page.keyboard.press("w")
    until(
        page, "document.getElementById('write-count').textContent.startsWith('No tag is decided')"
    )
    assert page.is_disabled("#write-now")
    page.keyboard.press("Escape")
    (tmp_path / "photos" / "b.png.xmp").mkdir()
    page.keyboard.press("Control+a")
    page.keyboard.press("t")
    page.keyboard.type("beach")
    page.keyboard.press("Enter")
    page.keyboard.press("y")
    visit.answers(len(NAMES))
    page.keyboard.press("w")
    until(page, "document.getElementById('write-count').textContent === '4 tags for 4 photos.'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#write-undo")
    said = page.inner_text("#write-said")
    assert said.startswith("Sidecars: 3 new. 1 sidecar could not be written, the first is ")
    assert "b.png.xmp: cannot be written" in said
    assert page.inner_text("#write-command") == f"mlcrf tag {tmp_path / 'photos'} --undo"
    assert {path.name for path in tmp_path.rglob("*.xmp") if path.is_file()} == {
        f"{Path(name).name}.xmp" for name in NAMES if name != "b.png"
    }
    page.fill("#write-percent", "55")
    until(page, "document.getElementById('write-count').textContent !== '4 tags for 4 photos.'")
    assert page.is_checked("#write-likely") and visit.complaints == []


def test_promised_tags_are_marked_and_written(
    visiting: Visiting, review: Review, tmp_path: Path
) -> None:
    """A mark on each, the tags left out by name, and the choice to write them."""
    tags = torch.zeros(len(NAMES), len(LABELS), dtype=torch.bool)
    tags[:3, 1] = True
    thresholds = (1.0, 0.1, 1.0, 1.0, 1.0)
    promised = Decoder.promising(Guarantee(precision=0.95, calibration="drawn"))
    decoder = replace(promised, threshold=thresholds)
    review.promise = Promise(decoder, tags, 0.0 * tags, LABELS, 100)
    visit = visiting()
    page = visit.page
    assert page.inner_text("#promise summary") == "Promised: precision 95 % for 1 of 5 tags"
    page.click("#promise summary")
    assert "4 of 5 tags" in page.inner_text("#promise-left-out")
    assert "sea, beach, indoor, <b>bird</b>" in page.inner_text("#promise-left-out")
    page.keyboard.press("w")
    until(page, "document.getElementById('write-count').textContent === '3 tags for 3 photos.'")
    assert page.is_checked("#write-promised") and page.query_selector("#write-likely") is None
    page.check("#write-answered")
    until(
        page, "document.getElementById('write-count').textContent.startsWith('No tag is decided')"
    )
    page.check("#write-promised")
    until(page, "!document.getElementById('write-now').disabled")
    page.click("#write-now")
    page.wait_for_selector("#write-undo")
    assert page.inner_text("#write-said").startswith("Sidecars: 3 new.")
    page.keyboard.press("Escape")
    page.select_option("#label", "sky")
    page.wait_for_selector(".part[data-part=sure] .tile")
    assert page.locator(".part[data-part=sure] .tile").count() == 3
    page.select_option("#label", "sea")
    until(page, "document.getElementById('tag-said').textContent.includes('cannot be promised')")
    page.goto(f"{page.url.split('#')[0]}#/photo/{review.photos[0].id}")
    page.wait_for_selector(".chip .promised")
    assert page.locator(".chip .promised").all_inner_texts() == ["sure"]
    assert visit.complaints == []


def test_tags_of_least_cost_are_written(visiting: Visiting, review: Review) -> None:
    """The choice of the page is to write these, or only what was answered yes."""
    costs = Costs.of({"sky": (0, 1), "*": (1, 0)}, LABELS, name="costs.csv")
    review.costs = costs
    visit = visiting()
    page = visit.page
    page.keyboard.press("w")
    said = "document.getElementById('write-count').textContent"
    until(page, f"{said} === '{len(NAMES)} tags for {len(NAMES)} photos.'")
    assert page.is_checked("#write-costs") and page.query_selector("#write-likely") is None
    assert "by costs.csv" in page.inner_text("#write-form")
    page.check("#write-answered")
    until(page, f"{said}.startsWith('No tag is decided')")
    page.check("#write-costs")
    until(page, "!document.getElementById('write-now').disabled")
    page.click("#write-now")
    page.wait_for_selector("#write-undo")
    assert page.inner_text("#write-said").startswith(f"Sidecars: {len(NAMES)} new.")
    assert visit.complaints == []


def test_what_was_learned_is_saved(
    visiting: Visiting, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By keys: nothing to save, then a run; an old one is replaced only after a tick."""
    monkeypatch.chdir(tmp_path)
    visit = visiting()
    page = visit.page

    def said(text: str) -> None:
        until(page, f"document.getElementById('save-said').textContent.startsWith({text!r})")

    page.keyboard.press("m")
    page.keyboard.press("Enter")
    said("nothing is learned yet")
    place.review.answer_many([0, 1], {0: 1}, "anna", new_request())
    assert place.review.learn()
    page.keyboard.press("Enter")
    said("Saved 5 tags, from answers about 2 photos, in runs/mine.")
    assert "--model runs/mine --xmp" in page.inner_text("#save-tag")
    page.keyboard.press("Enter")
    said("runs/mine: exists already; tick Replace it")
    page.check("#save-replace")
    page.click("#save-now")
    said("Saved")
    assert len(load_run(Path("runs/mine")).labels) == len(LABELS)


def test_tags_of_ones_own(visiting: Visiting, place: Place) -> None:
    """Added to a photo by a key, renamed and retired in the window, taken up by another page."""
    visit, other = visiting(), visiting()
    page = visit.page
    page.keyboard.press("s")
    page.wait_for_selector(".chip.current")
    page.keyboard.press("+")
    page.keyboard.type("my_dog")
    page.keyboard.press("Enter")
    visit.answers(1)
    page.wait_for_selector(".chip.present[data-label='5']")
    assert page.inner_text(".chip[data-label='5'] .chip-name") == "my dog"
    other.page.select_option("#order", "name")  # a page that was opened before
    until(other.page, "document.getElementById('parts').textContent.includes('my dog')")
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("e")
    page.fill("#tag-list li:nth-child(6) input", "Rex")
    page.keyboard.press("Enter")
    page.wait_for_selector("[aria-label='Name of Rex']")
    page.click("[aria-label='Retire indoor']")
    until(page, "document.querySelectorAll('#tag-list li').length === 5")
    page.fill("[aria-label='Merge sky into']", "BEACH")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#tag-list li').length === 4")
    page.fill("#tag-new", "Rex")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('notice').textContent.includes('already')")
    page.click("#tags-close")
    until(page, "document.querySelectorAll('.chip').length === 4")
    assert page.inner_text(".chip[data-label='5'] .chip-name") == "Rex"
    other.page.click("#start")
    other.page.wait_for_selector(".chip[data-label='5']")
    assert other.page.query_selector(".chip[data-label='3']") is None
    other.page.keyboard.press("g")
    other.page.wait_for_selector(".tile")
    other.page.keyboard.press("Control+a")
    other.page.fill("#bulk-label", "new for all")
    other.page.click(".bulk .yes")
    other.answers(1 + len(NAMES))
    assert [tag.name for tag in place.review.tags()][5:] == ["Rex", "new for all"]
    assert len(visit.complaints) == 1 and "422" in visit.complaints[0]
    assert other.complaints == []


def test_a_folder_is_a_filter(visiting: Visiting) -> None:
    page = visiting().page
    page.select_option("#folder", "trip")
    until(page, "document.getElementById('count').textContent === '1 photo'")
    assert page.get_attribute(".tile", "title") == "trip/c.png"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(
    visiting: Visiting, place: Place, tmp_path: Path, width: int, scheme: str
) -> None:
    """Nothing sticks out to the side; text stands out from its ground; targets are large enough."""
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    visit = visiting(**options, has_touch=width < 500)
    page = visit.page
    for name in ("grid", "tag", "photo"):
        if name == "tag":
            page.click("#bulk-clear")
            page.select_option("#label", "sky")
            page.wait_for_selector(".part-head")
        if name == "photo":
            page.click("#start")
            page.wait_for_selector(".chip")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        if name != "photo":
            assert page.locator(".tile").first.bounding_box()["x"] < 30  # over the whole width
        if name == "grid":
            page.click("#all")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        low = page.evaluate(_LOW_CONTRAST)
        assert low == [], name
        page.screenshot(path=tmp_path / f"{name}.png")
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
        ".map(b => [b.textContent, b.offsetWidth, b.offsetHeight])"
        ".filter(([, w, h]) => Math.min(w, h) < 34)"
    )
    assert small == []
    box = page.locator("#accept").bounding_box()
    assert box["y"] + box["height"] < 844


# Texts whose contrast to the ground behind them is below 4.5 (WCAG 2, AA), disabled ones aside.
_LOW_CONTRAST = """() => {
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *:not(kbd)")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !node.offsetParent || node.closest(":disabled, .spoken")) continue;
    const ink = rgba(getComputedStyle(node).color);
    if (ink[3] === 0) continue;
    const [a, b] = [light(ink), light(ground(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([node.className, node.textContent.trim(), contrast]);
  }
  return found;
}"""
