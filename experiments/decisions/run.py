"""Which decision is best for which measure? One run, every rule of `--decode`, both models.

    python experiments/decisions/run.py --data data/mirflickr25k --run runs/mir24

Thresholds are those that training tuned on validation images.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.choices import Decision
from mlcrf.cli.console import cache_dir
from mlcrf.datasets.reading import ReadOptions, read_dataset
from mlcrf.datasets.splits import take_split
from mlcrf.decoding import Decoder
from mlcrf.evaluation import evaluate

HERE = Path(__file__).parent
DECODERS = [
    Decoder(Decision.TOP_K, k=3) if rule is Decision.TOP_K else Decoder(rule) for rule in Decision
]
TITLES = {
    "hamming": "wrong, %",
    "chosen_accuracy": "set right, %",
    "example_f1": "F1 of an image, %",
    "example_jaccard": "Jaccard of an image, %",
    "micro_f1": "micro F1, %",
    "macro_f1": "macro F1, %",
}


def main() -> None:
    """Score every rule, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--quick", action="store_true", help="200 photos")
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    data = take_split(read_dataset(arguments.data, ReadOptions(run.label_set)), "test")
    if arguments.quick:
        data = data.rows(np.arange(200))
    extractor = FeatureExtractor(run.make_backbone(), cache_dir=cache_dir(None))
    rows = []
    for decoder in DECODERS:
        result = evaluate(run, data, extractor, split="test", decoder=decoder, resamples=1)
        models = {name: asdict(scores) for name, scores in result.models.items()}
        rows.append(
            {"decision": decoder.signature, "models": models, "signature": result.signature}
        )
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(format_rows(rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, independent before CRF, the best rule of each model in bold."""
    lines = [
        f"| decision | {' | '.join(TITLES.values())} |",
        "|---" * (len(TITLES) + 1) + "|",
    ]
    best = {}
    for name in TITLES:
        for model in ("independent", "crf"):
            values = [row["models"][model][name] for row in rows]
            best[name, model] = min(values) if name == "hamming" else max(values)
    for row in rows:
        cells = [row["decision"]]
        for name in TITLES:
            pair = []
            for model in ("independent", "crf"):
                value = row["models"][model][name]
                mark = "**" if value == best[name, model] else ""
                pair.append(f"{mark}{100 * value:.2f}{mark}")
            cells.append(" -> ".join(pair))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
