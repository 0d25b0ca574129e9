"""Compare decision rules by measure: one run, every rule of `--decode`, both models.

    python -m experiments.decisions.run [--quick]

Thresholds are those that training tuned on validation images.
"""

from dataclasses import asdict
from typing import Any

from experiments import frame
from experiments.frame import percent
from mlcrf.choices import Decision
from mlcrf.data.manifest import Split
from mlcrf.decoding import Decoder
from mlcrf.evaluation import evaluate

DECODERS = [Decoder(rule, k=3 if rule.has_k else None) for rule in Decision]
MEASURES = {
    "hamming": "wrong, %",
    "chosen_accuracy": "set right, %",
    "example_f1": "F1 of an image, %",
    "example_jaccard": "Jaccard of an image, %",
    "micro_f1": "micro F1, %",
    "macro_f1": "macro F1, %",
}
_MODELS = ("independent", "crf")


def main() -> None:
    """Score every rule, and keep the figures."""
    arguments = frame.read_options(__doc__, "decisions")
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    extractor = frame.extractor_of(run)
    rows = []
    for decoder in DECODERS:
        test = data.part(Split.TEST)
        result = evaluate(run, test, extractor, split="test", decoder=decoder, resamples=1)
        models = {name: asdict(scores) for name, scores in result.models.items()}
        rows.append(
            {"decision": decoder.signature, "models": models, "signature": result.signature}
        )
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["rules"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`rules`: independent before CRF, the best rule of each model in bold."""
    rows = results["rows"]
    best = {}
    for name in MEASURES:
        for model in _MODELS:
            values = [row["models"][model][name] for row in rows]
            best[name, model] = min(values) if name == "hamming" else max(values)
    lines = []
    for row in rows:
        cells = [row["decision"]]
        for name in MEASURES:
            values = [(model, row["models"][model][name]) for model in _MODELS]
            marks = ["**" if value == best[name, model] else "" for model, value in values]
            pair = zip(marks, values, strict=True)
            cells.append(" -> ".join(f"{mark}{percent(value)}{mark}" for mark, (_, value) in pair))
        lines.append(cells)
    return {"rules": frame.table(lines, ["decision", *MEASURES.values()])}


if __name__ == "__main__":
    main()
