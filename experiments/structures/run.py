"""Measure gain and cost of fewer couplings and of couplings that vary by image.

    python -m experiments.structures.run [--quick]

One run a structure; the independent baseline is the same in all of them.
"""

from dataclasses import asdict
from time import perf_counter
from typing import Any

from experiments import frame
from experiments.frame import percent
from mlcrf.choices import ObjectiveName, Pairwise, Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Split
from mlcrf.evaluation import evaluate

# Exact likelihood of couplings that vary by image enumerates for each: by pseudo-likelihood here,
# with the penalty on weights that the others chose; a weaker one on couplings does not converge.
STRUCTURES: dict[str, dict[str, Any]] = {
    "tree": {"structure": Structure.TREE},
    "sparse, 2 a label": {"structure": Structure.SPARSE, "edges_per_label": 2},
    "sparse, 4 a label": {"structure": Structure.SPARSE, "edges_per_label": 4},
    "full": {},
    "full, by pseudo-likelihood": {"objective": ObjectiveName.PSEUDO_LIKELIHOOD},
    "varying by image, by pseudo-likelihood": {
        "objective": ObjectiveName.PSEUDO_LIKELIHOOD,
        "pairwise": Pairwise.CONDITIONAL,
        "penalties": (0.1,),
        "pairwise_penalties": (1e-3, 1e-2),
    },
}
_MEASURES = ("hamming", "subset_accuracy", "mean_average_precision")


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(__doc__, "structures")
    data = frame.photos(arguments)
    more = frame.QUICK if arguments.quick else {}
    test = data.part(Split.TEST)
    rows = []
    structures = list(STRUCTURES.items())
    for name, changes in structures[::2] if arguments.quick else structures:
        folder = name.replace(",", "").replace(" ", "-")
        settings = TrainSettings(**(changes | more))
        run = frame.trained(data, arguments.runs / "structures" / folder, settings)
        extractor = frame.extractor_of(run)
        began = perf_counter()
        result = evaluate(run, test, extractor, split="test", resamples=arguments.resamples)
        rows.append(
            {
                "structure": name,
                "edges": len(run.crf.edges),
                "inference": run.make_inference().name,
                "train_seconds": frame.record_of(run)["seconds"]["crf"],
                "evaluate_seconds": round(perf_counter() - began, 1),
                "models": {key: asdict(scores) for key, scores in result.models.items()},
                "difference": result.difference,
                "nll_kind": result.nll_kind,
                "signature": result.signature,
            }
        )
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["structures"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`structures`: independent first, then each with its gain."""
    plain = results["rows"][0]["models"]["independent"]
    shares = [cell for name in _MEASURES for cell in (percent(plain[name]), "")]
    lines = [["none (independent)", "0", "", f"{plain['nll']:.3f}", *shares, "", ""]]
    for row in results["rows"]:
        crf = row["models"]["crf"]
        kind = "" if row["nll_kind"] == "exact" else f" ({row['nll_kind']})"
        cells = [row["structure"], str(row["edges"]), row["inference"], f"{crf['nll']:.3f}{kind}"]
        for name in _MEASURES:
            cells += [percent(crf[name]), frame.gain(row["difference"][name])]
        seconds = [f"{row[key]:.0f}" for key in ("train_seconds", "evaluate_seconds")]
        lines.append([*cells, *seconds])
    heads = [
        head
        for title in ("wrong, %", "subset accuracy, %", "mAP, %")
        for head in (title, "gain [95 %]")
    ]
    head = ["couplings", "edges", "inference", "nll", *heads, "learning, s", "evaluating, s"]
    return {"structures": frame.table(lines, head)}


if __name__ == "__main__":
    main()
