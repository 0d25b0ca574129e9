"""`mlcrf report` as a user meets it: one page, or one line that says why not."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlcrf.cli import app
from mlcrf.errors import MlcrfError
from tests.reports.webpage.making import make_photos, make_run, taken_apart

NAMES = tuple(f"{number}.jpg".encode() for number in range(12))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and a table of twelve photos."""
    folder = tmp_path_factory.mktemp("case")
    make_run(folder / "run", ("sea", "sky", "=1+1"))
    photos = make_photos(folder / "photos", NAMES)
    rows = [
        f"{path.name},test,{number % 2},{number % 3 % 2},1" for number, path in enumerate(photos)
    ]
    table = folder / "photos" / "labels.csv"
    text = "\n".join(["image,split,sea,sky,=1+1", *rows])
    table.write_text(text + "\n", encoding="utf-8")
    return folder / "run", table


def report(case: tuple[Path, Path], *words: str) -> str:
    common = ["--engine", "torch", "--resamples", "5", "--cache-dir", str(case[0].parent / "cache")]
    arguments = ["report", str(case[0]), str(case[1]), *common, *words]
    result = CliRunner().invoke(app, arguments, catch_exceptions=True)
    if isinstance(result.exception, MlcrfError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_one_page_is_written(case: tuple[Path, Path], tmp_path: Path) -> None:
    """It says where; the page is whole, and an existing one is replaced only if asked to."""
    out = tmp_path / "deep" / "page.html"
    said = report(case, "--out", str(out), "--images", "3", "--thumbnail-px", "32")
    assert said.startswith(f"page: {out} (")
    page = taken_apart(out.read_text(encoding="utf-8"))
    assert page.named("main") and 0 < len(page.named("img")) <= 9
    assert "bootstrap:5|seed:0" in page.text and "images:12|labels:3" in page.text
    before = out.read_bytes()
    with pytest.raises(MlcrfError, match="exists already; choose another --out or --overwrite"):
        report(case, "--out", str(out), "--limit", "4")
    assert out.read_bytes() == before
    report(case, "--out", str(out), "--limit", "4", "--overwrite", "--decode", "map", "--at-k", "2")
    text = taken_apart(out.read_text(encoding="utf-8")).text
    assert "images:4" in text
    assert "labels found at k" in text and "exactly its 2 best labels" in text
    assert not list(out.parent.glob(".mlcrf-*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "page.pdf"], r"page\.pdf: unknown ending; name the file with one of \.html"),
        (["--out", "page.html", "--split", "train"], "no image in split 'train'"),
    ],
)
def test_mistakes_are_one_line(
    case: tuple[Path, Path],
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found before the work, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MlcrfError, match=says) as caught:
        report(case, *words)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
