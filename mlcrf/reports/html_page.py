"""Write self-contained HTML pages from the templates beside this module."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateNotFound

from mlcrf.atomic import write_text
from mlcrf.version import __version__


def save_page(path: Path, name: str, context: dict[str, Any]) -> None:
    """Fill the template `name`.html and write it as one file that loads nothing from elsewhere.

    Values may hold anything: they are escaped, and a policy in the page forbids every style and
    script except the template's own, which it names by `css_hash` and `js_hash`.

    Raises:
        MlcrfError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("mlcrf.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared: dict[str, Any] = {"version": __version__}
    for kind in ("css", "js"):
        try:
            text = environment.get_template(f"{name}.{kind}").render()
        except TemplateNotFound:  # a page without a script
            continue
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        shared[f"{kind}_hash"] = f"sha256-{digest}"
    write_text(path, environment.get_template(f"{name}.html").render(context | shared))
