"""Summaries of the models that come with the package, read without loading them."""

import json
from pathlib import Path
from typing import Any

from mlcrf.labels import load_labels
from mlcrf.reports.text import format_table
from mlcrf.shipped_models import CONFIG, DEFAULT, LABELS, find_model, names


def models_record() -> list[dict[str, Any]]:
    """Return a record for each shipped model, with the test figures of its recipe."""
    records = []
    for name in names():
        folder = find_model(Path(name))
        config, figures = (
            json.loads((folder / file).read_text(encoding="utf-8"))
            for file in (CONFIG, "metrics.json")
        )
        records.append(
            {
                "model": name,
                "default": name == DEFAULT,
                "labels": list(load_labels(folder / LABELS)),
                "backbone": config["backbone"]["name"],
                "trained_on": f"{figures['images']:,d} photos of {config['data']}",
                "of_its_recipe": figures["recipe"],
                "card": str(folder / "README.md"),
            }
        )
    return records


def format_models(records: list[dict[str, Any]]) -> str:
    """Format the records of `models_record`."""
    rows = [
        [
            record["model"] + (" (default)" if record["default"] else ""),
            str(len(record["labels"])),
            record["backbone"],
            record["trained_on"],
            f"{100 * record['of_its_recipe']['crf']['hamming']:.2f}",
            f"{100 * record['of_its_recipe']['crf']['mean_average_precision']:.1f}",
        ]
        for record in records
    ]
    head = ["model", "labels", "backbone", "trained on", "wrong labels, %", "mAP, %"]
    lines = [format_table(head, rows), ""]
    lines += [f"{record['model']}: {', '.join(record['labels'])}" for record in records]
    lines += [
        "",
        "Scores are of the same recipe trained on half of the photos, tested on the other half.",
    ]
    return "\n".join([*lines, *(f"card: {record['card']}" for record in records)])
