"""Learn and predict with rules that hold in the training photos, and without.

    python -m experiments.rules.run [--quick] [--test-photos N]

From few training photos one run without rules, and one for each set of rules: the files of this
folder. Every measure of `evaluate` is compared on the same targets, those that keep to the
rules: what a test photo breaks of a hard limit counts as unknown, for both.
"""

import importlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from experiments import frame
from experiments.frame import gain
from mlcrf.checkpoint import Run
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.rules import load_rules, with_rules
from mlcrf.evaluation import answer
from mlcrf.inference import count_states
from mlcrf.metrics import Measures, Predictions, bootstrap_differences, gather_statistics
from mlcrf.rules import Rules

RULES = {
    "implications": ("implications.txt",),
    "and never together": ("implications.txt", "apart.txt"),
    "and soft never together": ("implications.txt", "apart_soft.txt"),
}
SIZES = (300,)  # training photos, and a third as many for validation
MEASURES = {
    "nll": ("nll", 1),
    "hamming": ("wrong, %", 100),
    "subset_accuracy": ("MAP set right, %", 100),
    "chosen_accuracy": ("set right, %", 100),
    "example_f1": ("F1 of an image, %", 100),
    "example_jaccard": ("Jaccard of an image, %", 100),
    "mean_average_precision": ("mAP, %", 100),
    "micro_f1": ("micro F1, %", 100),
    "macro_f1": ("macro F1, %", 100),
    "calibration_error": ("calibration error, %", 100),
}
assert set(MEASURES) <= {one.name for one in fields(Measures)}


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "rules",
        test_photos={"type": int, "default": 10000, "help": "the first so many are scored"},
    )
    data = frame.photos(arguments, 24)
    sizes = (100,) if arguments.quick else SIZES
    test = frame.first_photos(data.part(Split.TEST), {Split.TEST: arguments.test_photos})
    named = list(RULES.items())[: 1 if arguments.quick else None]
    chosen = {name: rules_of(files, data) for name, files in named}
    rows: frame.Rows = []
    for size in sizes:
        part = few_photos(data, size)
        plain = trained_with(arguments, part, Rules(), f"{size}-none")
        for name, rules in chosen.items():
            run = trained_with(arguments, part, rules, f"{size}-{name.replace(' ', '-')}")
            rows.append({"photos": size, "rules": name} | _compared(arguments, run, plain, test))
            frame.keep(arguments, rows)
    print("\n\n".join(tables({"rows": rows}).values()))


def few_photos(data: Manifest, size: int) -> Manifest:
    """Return the first so many training photos, and a third as many for validation."""
    return frame.first_photos(data, {Split.TRAIN: size, Split.VALIDATION: size // 3})


def rules_of(files: tuple[str, ...], data: Manifest) -> Rules:
    """Read the files of this folder as one set of rules."""
    rules = Rules()
    for file in files:
        rules = load_rules(Path(__file__).parent / file, data.labels, given=rules)
    return rules


def trained_with(arguments: Any, data: Manifest, rules: Rules, name: str) -> Run:
    """Return the run of some photos under these rules, trained if it is not there."""
    settings = TrainSettings(**(frame.QUICK if arguments.quick else {}))
    return frame.trained(with_rules(data, rules), arguments.runs / "rules" / name, settings)


def _compared(arguments: Any, run: Run, plain: Run, test: Manifest) -> dict[str, Any]:
    """Return the measures of both runs, their differences, and how often rules were broken."""
    rules = run.rules
    obeying = with_rules(test, rules)
    extractor = frame.extractor_of(run)
    scored, statistics = {}, {}
    for name, one in (("rules", run), ("none", plain)):
        answers = answer(one, obeying, extractor)
        scored[name] = answers.crf
        statistics[name] = gather_statistics(answers.crf, obeying.targets)
    models = {name: asdict(one.measures()) for name, one in statistics.items()}
    difference = bootstrap_differences(
        statistics["rules"], statistics["none"], resamples=arguments.resamples
    )
    return {
        "models": models,
        "difference": difference,
        "violations": {name: _violations(one, rules) for name, one in scored.items()},
        "log2_states": count_states(len(run.labels), rules),
        "unknown_cells": int((obeying.targets < 0).sum() - (test.targets < 0).sum()),
    }


def _violations(predictions: Predictions, rules: Rules) -> int:
    """Count the chosen label sets that break a hard rule."""
    chosen = predictions.chosen
    states = predictions.marginals > 0.5 if chosen is None else chosen
    return int((~rules.obeyed_by(states.astype("uint8"))).sum())


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`rules`: a line a measure, what rules change; `cost`: label sets and broken rules."""
    rows = results["rows"]
    head = ["measure", *(f"{row['photos']} photos, {row['rules']}" for row in rows)]
    lines = []
    for key, (title, factor) in MEASURES.items():
        cells = []
        for row in rows:
            before, after = (factor * row["models"][name][key] for name in ("none", "rules"))
            change = gain(row["difference"][key], factor)
            cells.append(f"{before:.2f} -> {after:.2f} ({change})")
        lines.append([title, *cells])
    costs = [
        [
            str(row["photos"]),
            row["rules"],
            f"{row['log2_states']:.1f}",
            f"{row['violations']['none']} -> {row['violations']['rules']}",
            str(row["unknown_cells"]),
        ]
        for row in rows
    ]
    titles = ["photos", "rules", "log2 of the label sets", "chosen that break one", "unknown cells"]
    return {"rules": frame.table(lines, head), "cost": frame.table(costs, titles)} | _others()


def _others() -> dict[str, str]:
    """Return the tables of `outputs` and `ranking`, whose figures lie beside."""
    found: dict[str, str] = {}
    for name in ("outputs", "ranking"):
        path = Path(__file__).with_name(f"{name}.json")
        if path.exists():
            module = importlib.import_module(f"experiments.rules.{name}")
            found |= module.tables(json.loads(path.read_text(encoding="utf-8")))
    return found


if __name__ == "__main__":
    main()
