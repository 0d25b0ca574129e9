"""The page in a real browser: hostile names stay text, nothing sticks out."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlcrf.reports.webpage import Gallery
from tests.reports.webpage.making import (
    HOSTILE_FILES,
    HOSTILE_LABELS,
    OWNED,
    make_photos,
    make_run,
    write_page,
)

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; `make ci-system` installs it"
)


def rendered(page: Path, profile: Path) -> str:
    """What becomes of a page once its scripts have run."""
    assert CHROMIUM is not None
    result = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=3000",
            "--window-size=1280,900",
            "--dump-dom",
            page.absolute().as_uri(),
        ],
        capture_output=True,
        timeout=600,
        check=True,
    )
    return result.stdout.decode("utf-8")


def title(dom: str) -> str:
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    return html.unescape(found[1]) if found else ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose labels and files are named by an enemy."""
    folder = tmp_path_factory.mktemp("hostile")
    photos = make_photos(folder / "photos", HOSTILE_FILES)
    run = make_run(folder / "run", HOSTILE_LABELS)
    write_page(folder / "page.html", run, photos, Gallery(images=6))
    return folder / "page.html"


def test_hostile_names_fire_nothing(page: Path, tmp_path: Path) -> None:
    """The title is ours once all is loaded."""
    assert title(rendered(page, tmp_path / "profile")) == "run on data"


def test_the_policy_holds_where_escaping_would_fail(page: Path, tmp_path: Path) -> None:
    """Markup put into the page by force does nothing; without the policy it would."""
    text = page.read_text(encoding="utf-8")
    attack = f'<script>{OWNED}</script><img src="data:," onerror="{OWNED}">'
    forced = text.replace("<main>", f"<main>{attack}")
    assert forced != text
    (tmp_path / "forced.html").write_text(forced, encoding="utf-8")
    assert title(rendered(tmp_path / "forced.html", tmp_path / "profile")) == "run on data"
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", forced, flags=re.DOTALL)
    (tmp_path / "bare.html").write_text(bare, encoding="utf-8")
    assert title(rendered(tmp_path / "bare.html", tmp_path / "profile")) == "owned"


def test_the_page_never_scrolls_sideways(page: Path, tmp_path: Path) -> None:
    """As wide as a phone and as a desk; in frames, since the page lets no script in."""
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text, flags=re.DOTALL)
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(bare)}"></iframe>'
        for width in (390, 1280)
    )
    script = """
      addEventListener("load", () => {
        const roots = [...document.querySelectorAll("iframe")].map(
          (frame) => frame.contentDocument.documentElement);
        document.title = JSON.stringify(roots.map((root) => root.scrollWidth - root.clientWidth));
      });
    """
    (tmp_path / "frames.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title></title>{frames}<script>{script}</script>',
        encoding="utf-8",
    )
    assert title(rendered(tmp_path / "frames.html", tmp_path / "profile")) == "[0,0]"
