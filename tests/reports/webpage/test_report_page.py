"""The page: whole, bounded, of the figures that `evaluate` prints, and nothing in it acts."""

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcrf.checkpoint import Run
from mlcrf.errors import MlcrfError
from mlcrf.model import no_edges
from mlcrf.reports.score_tables import evaluation_rows
from mlcrf.reports.webpage import Gallery, save_report
from tests.reports.webpage.making import (
    HOSTILE_FILES,
    HOSTILE_LABELS,
    Page,
    ask,
    draw_targets,
    make_photos,
    make_run,
    taken_apart,
    write_page,
)

LABELS = ("sea", "sky", "bird", "indoor", "lonely")
FILES = tuple(f"{number}.jpg".encode() for number in range(24))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_photos(tmp_path_factory.mktemp("photos"), FILES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "run", LABELS, rules=[[2, 1]])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of labels and files whose names are markup, scripts, controls and odd bytes."""
    folder = tmp_path_factory.mktemp("hostile")
    names = (*HOSTILE_FILES, *FILES)
    photos = make_photos(folder / "photos", names)
    made = make_run(folder / "<script>run", HOSTILE_LABELS)
    return taken_apart(write_page(folder / "page.html", made, photos, Gallery(images=40)))


def photos_of(page: Page) -> list[str]:
    return [one["src"] for one in page.named("img") if one["src"].startswith("data:image/jpeg")]


def test_figures_are_those_of_evaluate(run: Run, images: list[Path], tmp_path: Path) -> None:
    """Signature, every measure with its interval, and each label's positives are on the page."""
    answers, result = ask(run, images)
    save_report(tmp_path / "page.html", run, answers, result, Gallery())
    page = taken_apart((tmp_path / "page.html").read_text(encoding="utf-8"))
    words = " ".join(page.text.split())
    assert result.signature in words
    for cells in evaluation_rows(result).values():
        for cell in cells:
            assert cell.replace("-", "\N{MINUS SIGN}") in words
    for name, figures in result.per_label.items():
        precision = 100 * figures["crf_average_precision"]
        assert re.search(rf"{name} {figures['positives']} [\d.]+ {precision:.1f} ", words)
    assert "bird" in words and "⇒" in words


def test_same_answers_same_bytes(run: Run, images: list[Path], tmp_path: Path) -> None:
    """No date and nothing random: two pages of the same answers are equal."""
    answers, result = ask(run, images)
    for name in ("a.html", "b.html"):
        save_report(tmp_path / name, run, answers, result, Gallery())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_hostile_names_are_text_and_nothing_else(hostile: Page) -> None:
    """No tag, attribute, script or style of theirs; but their words can be read."""
    assert [name for name, _ in hostile.code] == ["style"]
    for tag, attributes in hostile.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    for attributes in hostile.named("img"):
        assert re.match(r"data:image/(png|jpeg);base64,[\w+/=]+$", attributes["src"])
    for label in HOSTILE_LABELS[:8]:
        assert label in hostile.text
    assert "gpj.\\u202eexe" in hostile.text and "bell\\x07 and \\x1b[31m" in hostile.text
    assert "x" * 79 + "…" in hostile.text and "x" * 100 not in hostile.text
    alternatives = " ".join(attributes["alt"] for attributes in hostile.named("img"))
    for name in ("two\\nlines.jpg", "\\xff\\xfe.jpg", 'it\'s "quoted".jpg', "=1+1.jpg"):
        assert name in hostile.text and name in alternatives


def test_nothing_is_loaded_from_elsewhere(hostile: Page) -> None:
    """Links lead to places in the page; the policy allows its own style alone."""
    ids = {attributes["id"] for _, attributes in hostile.tags if "id" in attributes}
    links = [attributes["href"] for attributes in hostile.named("a")]
    assert links and {link.removeprefix("#") for link in links} <= ids
    policy = next(one["content"] for one in hostile.named("meta") if "http-equiv" in one)
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, text in hostile.code:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_markup_is_sound(hostile: Page) -> None:
    """One title and one h1, headers of tables with a scope, no id twice, pictures with alt."""
    assert (
        len(hostile.named("title")) == len(hostile.named("h1")) == len(hostile.named("main")) == 1
    )
    assert all(one.get("scope") in ("row", "col") for one in hostile.named("th"))
    assert all(one.get("alt") for one in hostile.named("img"))
    ids = [attributes["id"] for _, attributes in hostile.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    outer = [one for one in hostile.named("svg") if "role" in one]
    assert outer and all(one["aria-label"] for one in outer)


def test_a_page_tells_no_folder_and_no_place(run: Run, tmp_path: Path) -> None:
    """Names are below the folder that all share; EXIF and comments of photos stay behind."""
    photos = make_photos(tmp_path / "private" / "somebody", FILES)
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    with Image.open(photos[0]) as one:
        one.load()
    for path in photos:
        one.save(path, "JPEG", exif=exif, comment=b"secret comment")
    text = write_page(tmp_path / "page.html", run, photos, Gallery(images=24))
    assert "private" not in text and "somebody" not in text
    pictures = photos_of(taken_apart(text))
    assert pictures
    for picture in pictures:
        jpeg = base64.b64decode(picture.partition(",")[2])
        assert b"secret" not in jpeg
        with Image.open(io.BytesIO(jpeg)) as shown:
            assert shown.size == (48, 32)


def test_pictures_that_are_gone_are_said(run: Run, tmp_path: Path) -> None:
    """One removed, one no picture any more: the page is whole and says why for each."""
    photos = make_photos(tmp_path / "photos", FILES)
    answers, result = ask(run, photos)
    for number, path in enumerate(photos):
        path.unlink()
        if number % 2:
            path.write_bytes(b"<b>no picture")
    save_report(tmp_path / "page.html", run, answers, result, Gallery())
    page = taken_apart((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not photos_of(page)
    assert "Not shown: cannot be read as an image: No such file or directory" in page.text
    assert "Not shown: cannot be read as an image: unknown format, or damaged" in page.text
    assert str(tmp_path) not in page.text


def test_the_gallery_bounds_the_page(run: Run, images: list[Path], tmp_path: Path) -> None:
    """So many images a list, or none at all; the counts stay."""
    few = taken_apart(write_page(tmp_path / "few.html", run, images, Gallery(images=2)))
    assert 0 < len(photos_of(few)) <= 6
    none = taken_apart(write_page(tmp_path / "none.html", run, images, Gallery(images=0)))
    assert not photos_of(none)
    assert re.search(r"another label set .* for\s+[1-9]\d* of 24 images", none.text, re.DOTALL)


def test_many_labels_are_cut_and_the_page_says_so(images: list[Path], tmp_path: Path) -> None:
    """Of 100 labels, 80 in the table, 24 curves, and a size that is bounded."""
    labels = tuple(f"label {number}" for number in range(100))
    chain = torch.tensor([[number, number + 1] for number in range(99)])
    run = make_run(tmp_path / "run", labels, edges=chain)
    text = write_page(tmp_path / "page.html", run, images[:4], Gallery(images=2))
    page = taken_apart(text)
    assert "the 80 most frequent of 100 labels" in page.text
    assert "The 24 most frequent of 100 labels" in page.text
    assert "more" in page.text and len(text) < 800_000


def test_a_run_without_couplings_says_so(images: list[Path], tmp_path: Path) -> None:
    """No heatmap, no pairs, and nothing that the CRF changed but what its own head says."""
    run = make_run(tmp_path / "run", LABELS, edges=no_edges())
    mixture = make_run(tmp_path / "mixture", LABELS, edges=no_edges(), scenes=3)
    for made, says in ((run, "its structure is auto"), (mixture, "through 3 latent scenes")):
        page = taken_apart(write_page(tmp_path / "page.html", made, images))
        assert "This run has no couplings between labels" in page.text
        assert says in " ".join(page.text.split())
        assert not [one for one in page.named("img") if one["src"].startswith("data:image/png")]


def test_one_label_one_image(tmp_path: Path) -> None:
    """The smallest data there are: no pair, perhaps no positive, and a page all the same."""
    images = make_photos(tmp_path / "photos", (b"only.jpg",))
    page = taken_apart(
        write_page(tmp_path / "page.html", make_run(tmp_path / "run", ("sea",)), images)
    )
    assert "1 image, 1 label" in " ".join(page.text.split())


def test_labels_without_positives_and_unknown_ones(
    run: Run, images: list[Path], tmp_path: Path
) -> None:
    """What nobody knows is neither right nor wrong, and a figure that is none is said to be."""
    targets = draw_targets(run, images, unknown=0.5)
    targets[targets == 1] = -1
    answers, result = ask(run, images, targets)
    assert np.isnan(result.models["crf"].mean_average_precision)
    save_report(tmp_path / "page.html", run, answers, result, Gallery())
    page = taken_apart((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "no positive" in page.text and "none" in page.text and "nan" not in page.text


def test_a_page_that_cannot_be_written_is_an_error(
    run: Run, images: list[Path], tmp_path: Path
) -> None:
    """The place is named, and nothing is left there."""
    answers, result = ask(run, images)
    (tmp_path / "file").write_text("")
    with pytest.raises(MlcrfError, match=r"page\.html: cannot be written"):
        save_report(tmp_path / "file" / "page.html", run, answers, result, Gallery())
