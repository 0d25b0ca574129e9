"""Pages of the site that are not in one folder, run by mkdocs (`hooks` in mkdocs.yml).

Every page and picture is in the site's sources at its own path in the project, so a relative link
between two of them is right on a code host and in the site.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mlcrf.config import TrainSettings

ROOT = Path(__file__).parents[2]
_EXPERIMENTS = [
    *("experiments/LOG.md", "experiments/*/README.md", "experiments/benchmarks/*.md"),
    "tests/reliability/*.md",
]
_PAGES = ["docs/*.md", "docs/reference/*.md", "CHANGELOG.md", "CONTRIBUTING.md", *_EXPERIMENTS]
_FILES = [  # what pages show or link to
    *("docs/images/*", "docs/deploy/*", "experiments/*/*.png", "experiments/*/*.json"),
]


def on_config(config: MkDocsConfig) -> None:
    """Add the experiments to the navigation."""
    assert config.nav is not None
    config.nav.append({"Experiments": [_uri(path) for path in _find(_EXPERIMENTS)]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add all pages and the files that they show or link to."""
    for path in _find(_PAGES + _FILES):
        file = File.generated(config, _uri(path), abs_src_path=str(path))
        file.dest_uri = file.dest_uri.removeprefix("docs/")
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the settings of training where a page asks for them."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.description} |"
        for name, field in TrainSettings.model_fields.items()
    ]
    table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
    return markdown.replace("<!-- settings -->", table)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse a page that loads something from the net."""
    if found := re.search(r"<[^a][^<>]* (src|href)=.?(https?:)?//[^ >]+", output):
        raise PluginError(f"{page.file.src_uri} loads from the net: {found[0]}")


def _find(patterns: list[str]) -> list[Path]:
    return list(dict.fromkeys(path for one in patterns for path in sorted(ROOT.glob(one))))


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
