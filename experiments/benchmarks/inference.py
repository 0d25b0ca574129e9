"""Inference beside the machine's limits and other programs.

`make bench-inference [DATA=folder RUN=run OUT=file.json]` runs it in about 16 minutes. It prints
every row, then tables, and writes them as JSON, with pictures of the growth beside the file.
Without --data and --run the rows on a learned model are left out.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from approximate import approximate_rows
from exact import exact_rows
from gibbs import gibbs_rows
from growth import growth_rows
from models import learned_model
from plots import plot_growth
from tables import format_tables
from timing import describe_machine

from mlcrf.crf import Potentials

_PARTS: dict[str, Callable[[Potentials | None, bool], Iterable[dict[str, Any]]]] = {
    "exact": lambda learned, quick: exact_rows(learned, quick=quick),
    "approximate": lambda learned, quick: approximate_rows(learned, quick=quick),
    "gibbs": lambda _, quick: gibbs_rows(quick=quick),
    "growth": lambda _, quick: growth_rows(quick=quick),
}
_IMAGES, _QUICK_IMAGES = 10_000, 16


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line a row and then tables, and write the JSON file and pictures."""
    options = _parse(arguments)
    learned = None
    if options.run:
        images = _QUICK_IMAGES if options.quick else _IMAGES
        learned = learned_model(options.data, options.run, images)
    result = _earlier(options.out, {**describe_machine(), "quick": options.quick})
    for name in options.parts:
        part_began = perf_counter()
        result[name] = [_show(name, row) for row in _PARTS[name](learned, options.quick)]
        result["parts_s"][name] = perf_counter() - part_began
    result["seconds"] = sum(result["parts_s"].values())
    print(f"\n{format_tables(result)}")
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    written = [options.out]
    if "growth" in result:
        written += plot_growth(result["growth"], options.out.parent)
    print("wrote", *written)


def _earlier(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Parts of an earlier run on the same machine, versions and sizes, for `--parts` to add to."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if any(known.get(key) != value for key, value in machine.items()):
        known = {}
    parts = {name: known[name] for name in _PARTS if name in known}
    return {**machine, "parts_s": {name: known["parts_s"][name] for name in parts}, **parts}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="data set, as `mlcrf train` takes it")
    parser.add_argument("--run", type=Path, help="run trained on it")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("inference.json"))
    parser.add_argument("--quick", action="store_true", help="try out every part on tiny sizes")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=_PARTS,
        default=list(_PARTS),
        help="what to measure; other parts stay as --out has them, if versions and machine agree",
    )
    options = parser.parse_args(arguments)
    if bool(options.data) != bool(options.run):
        parser.error("--data and --run go together")
    if options.run and not options.run.is_dir():
        parser.error(f"no run at {options.run}; make one by `mlcrf train`, or give RUN=")
    return options


def _show(part: str, row: dict[str, Any]) -> dict[str, Any]:
    """Print a row on one line and return it."""
    cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print(f"{part}: {', '.join(cells)}", flush=True)
    return row


if __name__ == "__main__":
    main()
