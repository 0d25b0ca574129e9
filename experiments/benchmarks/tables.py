"""The figures as Markdown, so that none is typed by hand.

python experiments/benchmarks/tables.py FILE.json             # prints the tables
python experiments/benchmarks/tables.py FILE.json README.md   # puts them between its marks

A page with the marks "learned: begin" and "learned: end" gets the approximate methods on the
learned model alone.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BEGIN, _END = "<!-- {}: begin -->", "<!-- {}: end -->"
# title, key in the JSON, then head: key in its rows and format
_TABLES: tuple[tuple[str, str, dict[str, tuple[str, str]]], ...] = (
    (
        "Exact inference",
        "exact",
        {
            "model": ("model", "s"),
            "labels": ("labels", "d"),
            "images": ("images", ",d"),
            "dense, ms an image": ("ms_per_image", ".3g"),
            "10^9 states a second": ("states_per_s", "G"),
            "share of matmul": ("share_of_matmul", ".0%"),
            "shipped, ms an image": ("pruned_ms_per_image", ".3g"),
            "times faster": ("pruned_speedup", ".2f"),
            "gradient / marginals": ("gradient_over_marginals", ".2f"),
            "certified": ("error_bound", ".1e"),
            "error": ("max_error", ".1e"),
        },
    ),
    (
        "Gibbs sampling: million labels redrawn a second",
        "gibbs",
        {
            "model": ("model", "s"),
            "labels": ("labels", "d"),
            "neighbours": ("neighbours", "d"),
            "cores": ("cores", "d"),
            "ours": ("updates_per_s", "M"),
            "ours, no averages": ("states_updates_per_s", "M"),
            "dwave-samplers": ("dwave_updates_per_s", "M"),
            "torch loop": ("torch_updates_per_s", "M"),
            "thrml": ("thrml_updates_per_s", "M"),
            "ours / dwave": ("dwave_ratio", ".1f"),
            "no averages / dwave": ("dwave_states_ratio", ".1f"),
        },
    ),
    (
        "Gibbs sampling: thousand effective samples a second",
        "effective",
        {
            "model": ("model", "s"),
            "labels": ("labels", "d"),
            "cores": ("cores", "d"),
            "chains alone": ("effective_samples_per_s", "k"),
            "`Gibbs`": ("gibbs_effective_samples_per_s", "k"),
            "dwave-samplers": ("dwave_effective_samples_per_s", "k"),
            "chains / dwave": ("effective_ratio", ".1f"),
            "`Gibbs` / dwave": ("gibbs_effective_ratio", ".1f"),
        },
    ),
    (
        "Approximate methods: mean absolute errors against exact",
        "approximate",
        {
            "model": ("model", "s"),
            "method": ("method", "s"),
            "labels": ("labels", "d"),
            "ms an image": ("ms_per_image", ".3g"),
            "marginals": ("marginal_error", ".1e"),
            "pairs": ("pairwise_error", ".1e"),
            "log Z": ("log_partition_error", ".1e"),
            "log Z is": ("log_partition_kind", "s"),
            "converged": ("converged", ".0%"),
            "time / exact one by one": ("over_exact_one_by_one", ".3g"),
        },
    ),
    (
        "Growth: how far each method goes",
        "furthest",
        {
            "grows": ("axis", "s"),
            "method": ("method", "s"),
            "furthest": ("size", ",d"),
            "ms an image": ("ms_per_image", ".3g"),
            "peak memory, MB": ("peak_mb", ".0f"),
            "why no further": ("stopped", "s"),
        },
    ),
    (
        "Parts and programs, photos a second",
        "predict",
        {
            "photos": ("photos", "s"),
            "how many": ("count", ",d"),
            "decoding alone": ("decode_images_per_s", ",.0f"),
            "network alone": ("network_images_per_s", ",.0f"),
            "CRF alone": ("crf_images_per_s", ",.0f"),
            "limit": ("limit_images_per_s", ",.0f"),
            "mlcrf": ("mlcrf_images_per_s", ",.0f"),
            "timm script": ("timm_script_images_per_s", ",.1f"),
            "transformers pipeline": ("hf_pipeline_images_per_s", ",.1f"),
            "mlcrf / limit": ("limit_share", ".0%"),
            "mlcrf / faster script": ("over_scripts", ".1f"),
            "CRF's share of the time": ("crf_share", ".1%"),
        },
    ),
    (
        "Engines: the network alone, batches of 64",
        "engines",
        {
            "engine": ("engine", "s"),
            "photos a second": ("images_per_s", ",.0f"),
            "off from torch, of the largest feature": ("largest_difference", ".1e"),
        },
    ),
    (
        "The whole command",
        "start",
        {
            "photos": ("photos", "s"),
            "first photo, nothing kept, s": ("first_row_s", ".1f"),
            "first photo, network kept, s": ("first_row_warm_s", ".1f"),
            "photos a second": ("images_per_s", ",.0f"),
            "again, unchanged": ("again_images_per_s", ",.0f"),
        },
    ),
    (
        "Memory of the whole command",
        "memory",
        {
            "files": ("count", ",d"),
            "peak, MB": ("peak_mb", ",.0f"),
            "s": ("seconds", ".0f"),
        },
    ),
    (
        "The service's capacity, photos a second",
        "capacity",
        {
            "photos": ("photos", "s"),
            "`Tagger`, offline": ("offline_per_s", ".0f"),
            "served, one a request": ("served_per_s", ".0f"),
            "share of offline": ("share", ".0%"),
            "served, eight a request in JSON": ("json_per_s", ".0f"),
            "share of it": ("json_share", ".0%"),
            "cores that the load itself took": ("generator_cores", ".2f"),
        },
    ),
    (
        "The service under loads that wait for no answer: milliseconds",
        "loads",
        {
            "photos": ("photos", "s"),
            "load, of capacity": ("load", ".0%"),
            "photos a second": ("offered_per_s", ".0f"),
            "requests": ("requests", ",d"),
            "p50": ("latency_p50_ms", ",.0f"),
            "p95": ("latency_p95_ms", ",.0f"),
            "p99": ("latency_p99_ms", ",.0f"),
            "p99.9": ("latency_p99.9_ms", ",.0f"),
            "503": ("refused", ",d"),
            "503, p99": ("refused_p99_ms", ",.0f"),
            "other errors": ("errors", ",d"),
            "worked on together, mean": ("mean_batch", ".1f"),
            "`/health`, p99": ("health_p99_ms", ",.0f"),
            "asked late, p99": ("late_p99_ms", ",.0f"),
        },
    ),
)
_SCALES = {"G": (1e9, ".2f"), "M": (1e6, ".1f"), "k": (1e3, ".0f")}


def format_tables(result: dict[str, Any]) -> str:
    """Return the machine, and a table for every part that was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    size = "at sizes that only try out the scripts" if result["quick"] else "in full"
    parts = [
        f"{result['processor']}, {result['cores']} cores, {result['threads']} threads, "
        f"{result['vector_instructions']}; Python {result['python']}, {versions}. Run {size}, "
        f"{result['seconds'] / 60:.1f} minutes."
    ]
    rows = result | {
        "effective": [row for row in result.get("gibbs", []) if "effective_ratio" in row],
        "furthest": _furthest(result.get("growth", [])),
    }
    for title, key, columns in _TABLES:
        if rows.get(key):
            parts += [f"### {title}", _table(rows[key], columns)]
    return "\n\n".join(parts) + "\n"


def format_learned(result: dict[str, Any]) -> str:
    """Return accuracy and speed of each method on the learned model."""
    title, columns = next((t, columns) for t, key, columns in _TABLES if key == "approximate")
    rows = [row for row in result["approximate"] if row["model"] == "learned"]
    wanted = ("method", "ms an image", "marginals", "pairs", "log Z", "log Z is", "converged")
    return f"{title}:\n\n{_table(rows, {head: columns[head] for head in wanted})}\n"


def fill(page: str, tables: str, mark: str = "tables") -> str:
    """The page with the tables between its marks."""
    begin, end = _BEGIN.format(mark), _END.format(mark)
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def _furthest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last point of every method on every axis, and why it was the last."""
    furthest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["axis"], row["method"]
        if "seconds" in row:
            milliseconds = 1e3 * row["seconds"] / row["images"]
            furthest[key] = row | {"ms_per_image": milliseconds}
        else:
            reason = f"{row['size']:,d} {row['stopped']}"
            furthest[key] = furthest.get(key, row) | {"stopped": reason}
    return list(furthest.values())


def _table(rows: Sequence[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> str:
    cells = [[_cell(row.get(key), form) for key, form in columns.values()] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    scale, form = _SCALES.get(form, (1, form))
    return format(value if scale == 1 else value / scale, form)


def main(arguments: list[str]) -> None:
    """Print the tables, or put them in a page."""
    source, *pages = map(Path, arguments)
    result = json.loads(source.read_text(encoding="utf-8"))
    if not pages:
        print(format_tables(result), end="")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if _BEGIN.format("learned") in text:
            text = fill(text, format_learned(result), "learned")
        else:
            text = fill(text, format_tables(result))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
