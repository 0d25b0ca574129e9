"""Pages of the site that are not in one folder, run by mkdocs (`hooks` in mkdocs.yml).

Every page and picture is in the site's sources at its own path in the project, so a relative link
between two of them is right on a code host and in the site. Scripts of docs/lecture become pages
with what they print and draw, if the setting run_notebooks is true, else with their text and code.
"""

import html
import re
from base64 import b64decode
from io import StringIO
from pathlib import Path
from textwrap import indent
from typing import Any

import jupytext
import matplotlib as mpl
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from traitlets.config import Config

from mlcrf.config import TrainSettings

ROOT = Path(__file__).parents[2]
_EXPERIMENTS = [
    *("experiments/LOG.md", "experiments/*/README.md", "experiments/benchmarks/*.md"),
    "tests/reliability/*.md",
]
_PAGES = [
    "docs/*.md",
    "docs/lecture/*.md",
    "docs/reference/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *_EXPERIMENTS,
]
_NOTEBOOKS = ["docs/lecture/*.py"]
_FILES = [  # what pages show or link to
    *("docs/images/*", "docs/deploy/*", "experiments/*/*.png", "experiments/*/*.json"),
]


class Notebook(File):
    """A page whose source is a script in cells (`# %%`)."""

    def is_documentation_page(self) -> bool:
        return True


def on_config(config: MkDocsConfig) -> None:
    """Add the experiments to the navigation, and formulas to Markdown (```math, as on GitHub)."""
    assert config.nav is not None
    config.nav.append({"Experiments": [_uri(path) for path in _find(_EXPERIMENTS)]})
    fences = [{"name": "math", "class": "formula", "format": _draw_formulas}]
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": fences}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add all pages and the files that they show or link to."""
    added = [
        File.generated(config, _uri(path), abs_src_path=str(path))
        for path in _find(_PAGES + _FILES)
    ]
    for path in _find(_NOTEBOOKS):
        text, pictures = _read_notebook(path, run=config.extra["run_notebooks"])
        added.append(Notebook.generated(config, _uri(path), content=text))
        for name, picture in pictures.items():
            uri = _uri(path.with_name(name))
            added.append(File.generated(config, uri, content=picture))
    for file in added:
        file.dest_uri = file.dest_uri.removeprefix("docs/")
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the settings of training where a page asks for them."""
    rows = [
        f"| `{name}` | `{getattr(field.default, 'value', field.default)}` | {field.description} |"
        for name, field in TrainSettings.model_fields.items()
    ]
    table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
    return markdown.replace("<!-- settings -->", table)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse a page that loads something from the net."""
    if found := re.search(r"<[^a][^<>]* (src|href)=.?(https?:)?//[^ >]+", output):
        raise PluginError(f"{page.file.src_uri} loads from the net: {found[0]}")


def _read_notebook(path: Path, *, run: bool) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by name.

    A cell with a title draws a picture: the title describes it, and the code is folded. Results
    that are not printed, and standard error, are left out.

    Raises:
        CellExecutionError: a cell failed, such as by an assert.
    """
    notebook = jupytext.read(path)
    if run:
        settings = Config({"KernelManager": {"transport": "ipc"}})
        NotebookClient(notebook, config=settings, resources={"metadata": {"path": ROOT}}).execute()
    parts, pictures = [], {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        code, title = f"```python\n{cell.source}\n```", cell.metadata.get("title")
        parts.append(f'??? note "Code"\n\n{indent(code, "    ")}' if title else code)
        outputs = cell.outputs
        if printed := "".join(one.text for one in outputs if one.get("name") == "stdout"):
            parts.append(f"```{{ .text .output }}\n{printed}```")
        for one in outputs:
            if "image/png" in one.get("data", {}):
                name = f"{path.stem}_{number}.png"
                pictures[name] = b64decode(one.data["image/png"])
                parts.append(f"![{title}]({name})")
    return "\n\n".join(parts), pictures


def _draw_formulas(source: str, *_: Any, **__: Any) -> str:
    """Return a formula a line in TeX, as far as matplotlib reads it, as pictures in the page."""
    drawn = []
    for line in source.splitlines():
        picture = StringIO()
        with mpl.rc_context({"savefig.transparent": True, "mathtext.fontset": "cm"}):
            math_to_image(f"${line}$", picture, FontProperties(size=15), format="svg")
        svg = picture.getvalue()
        svg = svg[svg.index("<svg") :].replace(
            "<svg", f'<svg role="img" aria-label="{html.escape(line)}"', 1
        )
        drawn.append(f'<div class="formula">{svg}</div>')
    return "\n".join(drawn)


def _find(patterns: list[str]) -> list[Path]:
    return list(dict.fromkeys(path for one in patterns for path in sorted(ROOT.glob(one))))


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
