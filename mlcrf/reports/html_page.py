"""Write self-contained HTML pages from the templates beside this module."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateNotFound

from mlcrf.atomic import write_text
from mlcrf.version import __version__


def save_page(path: Path, name: str, context: dict[str, Any]) -> None:
    """Fill the template `name`.html and write it as one self-contained file.

    Values may contain any text: they are escaped, and a policy in the page forbids all styles and
    scripts except the template's own.

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
    css, js = (_source(environment, f"{name}.{kind}") for kind in ("css", "js"))
    shared = {
        "version": __version__,
        "css": css,
        "css_hash": _digest(css),
        "js": js,
        "js_hash": _digest(js) if js else "none",
    }
    write_text(path, environment.get_template(f"{name}.html").render(context | shared))


def _source(environment: Environment, name: str) -> str:
    """Return a template's style sheet or script, or an empty text."""
    try:
        return environment.get_template(name).render()
    except TemplateNotFound:
        return ""


def _digest(text: str) -> str:
    """Return the hash by which a content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
