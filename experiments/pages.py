"""The tables on the pages, made of the `results.json` files, so that none is typed by hand.

    python -m experiments.pages           # puts them in the pages
    python -m experiments.pages --check   # fails if a page has another

A page holds a table between two marks, `<!-- FOLDER/NAME: begin -->` and the same with `end`; the
`tables` function of `experiments.FOLDER.run` makes it of that folder's results. Where FOLDER is a
file of benchmarks instead, that of `experiments.benchmarks.FOLDER` makes it of `FOLDER.json`.
"""

import importlib
import json
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
_MARKED = re.compile(
    r"(?P<begin><!-- (?P<folder>\w+)/(?P<name>[\w-]+): begin -->\n).*?"
    r"(?P<end><!-- (?P=folder)/(?P=name): end -->)",
    re.DOTALL,
)


def main() -> int:
    """Write or check; 1 if a page is out of date."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages += (ROOT / "experiments").glob("*/README.md")
    stale = []
    for page in sorted(pages):
        text = page.read_text(encoding="utf-8")
        filled = _MARKED.sub(_filled, text)
        if filled != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(filled, encoding="utf-8")
    if stale and "--check" in sys.argv:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        print(f"{names}: not what results.json says; run `make docs`", file=sys.stderr)
        return 1
    return 0


def _filled(match: re.Match[str]) -> str:
    tables = _tables(match["folder"])
    if match["name"] not in tables:
        raise SystemExit(f"no table {match['name']!r} of {match['folder']}: {', '.join(tables)}")
    return f"{match['begin']}\n{tables[match['name']]}\n\n{match['end']}"


@cache
def _tables(folder: str) -> dict[str, str]:
    path, name = ROOT / "experiments" / folder / "results.json", f"experiments.{folder}.run"
    benchmark = ROOT / "experiments" / "benchmarks" / f"{folder}.json"
    if benchmark.exists():
        path, name = benchmark, f"experiments.benchmarks.{folder}"
    if not path.exists():
        raise SystemExit(f"{path}: missing; `make experiment-{folder}` makes it")
    results = json.loads(path.read_text(encoding="utf-8"))
    module = importlib.import_module(name)
    tables: dict[str, str] = module.tables(results)
    return tables


if __name__ == "__main__":
    sys.exit(main())
