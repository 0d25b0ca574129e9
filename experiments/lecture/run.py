"""The lecture's claims on differentiation, graphs and inference, each with its check.

    python -m experiments.lecture.run [--quick]

Writes `results.json` and prints its tables.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from experiments.lecture import (
    differentiation,
    formulas,
    graphs,
    messages,
    through_inference,
)

HERE = Path(__file__).parent


def main() -> None:
    """Check everything, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    arguments = parser.parse_args()
    quick = arguments.quick
    result: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "quick": quick,
        "formulas": formulas.check_formulas(),
        "messages": messages.rows(),
        "modes_agree": [differentiation.check()],
        "modes_cost": differentiation.cost_rows(quick=quick),
        "graphs": graphs.exact_rows(),
        "graphs_gibbs": graphs.gibbs_rows(quick=quick),
        "fields": graphs.field_rows(quick=quick),
        "through_exact": [through_inference.exact_gives_expectations()],
        "through_unrolled": through_inference.unrolled_gives_the_gradient_of_what_is_run(),
        "through_samples": through_inference.sampling_slopes(),
        "common_numbers": through_inference.common_random_numbers(20 if quick else 200),
        "features": through_inference.difference_of_features(
            (100, 1_000) if quick else (100, 1_000, 10_000, 100_000)
        ),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, table in tables(result).items():
        print(f"\n{name}\n\n{table}")


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Every list of rows, under its name."""
    return {name: _table(rows) for name, rows in results.items() if isinstance(rows, list)}


def _table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = [_cell(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
