"""Makes the models that come with the package, from all shared photos of MIRFLICKR.

    python -m experiments.pretrained.run [--label-sets 24 38] [--quick]        # or make pretrained

For each label set two runs of one recipe, `mlcrf train` as it is by default: one on im1 to im10000,
scored on im10001 to im20000, whose figures go into the model card; and one on all of them, whose
head and couplings go into the package (into `--package`).
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from string import Template
from typing import Any

from experiments import frame
from experiments.frame import percent
from mlcrf.atomic import write_text
from mlcrf.calibration import CALIBRATION
from mlcrf.checkpoint import CONFIG, LABELS, WEIGHTS, Run
from mlcrf.choices import Finetune
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.evaluation import Evaluation, evaluate

LABEL_SETS = (24, 38)
PACKAGE = frame.ROOT / "mlcrf" / "shipped_models"
MEASURES = {
    "nll": "negative log-likelihood of a label set, nats",
    "hamming": "wrong labels, %",
    "subset_accuracy": "subset accuracy, %",
    "mean_average_precision": "mAP, %",
    "macro_f1": "macro F1, %",
    "calibration_error": "calibration error, %",
}


def main() -> None:
    """Train, score, write."""
    where = {"type": Path, "help": "where the models go; mlcrf/shipped_models"}
    which = {"nargs": "+", "type": int, "choices": LABEL_SETS, "default": LABEL_SETS}
    arguments = frame.read_options(__doc__, "pretrained", package=where, label_sets=which)
    package = arguments.package or (arguments.runs / "package" if arguments.quick else PACKAGE)
    more = frame.QUICK if arguments.quick else {}
    names = {f"mirflickr{label_set}" for label_set in arguments.label_sets}
    kept = [] if arguments.quick else frame.earlier(arguments).get("rows", [])
    rows: frame.Rows = [row for row in kept if row["name"] not in names]
    for label_set in (14,) if arguments.quick else arguments.label_sets:
        data = frame.photos(arguments, label_set)
        tuned = Finetune.NONE if arguments.quick else Finetune.LAST  # the default of as many photos
        settings = TrainSettings(finetune=tuned, **more)
        half = frame.trained(
            data, arguments.runs / f"weighed{label_set}", settings, as_fitted=False
        )
        result = evaluate(half, data.part(Split.TEST), frame.extractor_of(half), split="test")
        folder = arguments.runs / "pretrained" / f"mirflickr{label_set}"
        whole = frame.trained(_with_test_photos(data), folder, settings, as_fitted=False)
        models = {name: asdict(scores) for name, scores in result.models.items()}
        row = {
            "name": folder.name,
            "images": len(data),
            "recipe": models,
            "difference": result.difference,
            "signature": result.signature,
            "digest": whole.digest,
        }
        rows = sorted([*rows, row], key=lambda one: one["name"])
        _ship(whole, package / folder.name, row, result)
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["models"])


def _with_test_photos(data: Manifest) -> Manifest:
    """All photos to learn from; those that settings are chosen on stay the same."""
    splits = [Split.TRAIN if one is Split.TEST else one for one in data.splits or ()]
    return replace(data, splits=tuple(splits))


def _ship(run: Run, out: Path, row: dict[str, Any], result: Evaluation) -> None:
    """The run's files without what training needs, its figures and its card."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, LABELS, WEIGHTS, CALIBRATION):
        shutil.copyfile(run.path / name, out / name)
    figures = {key: row[key] for key in ("images", "recipe", "difference", "signature")}
    write_text(out / "metrics.json", json.dumps(figures, indent=2) + "\n")
    write_text(out / "README.md", _card(run, row, result))


def _card(run: Run, row: dict[str, Any], result: Evaluation) -> str:
    lines = []
    for name, title in MEASURES.items():
        factor = 1 if name == "nll" else 100
        values = [f"{factor * row['recipe'][model][name]:.2f}" for model in ("independent", "crf")]
        lines.append([title, *values, frame.gain(result.difference[name], factor)])
    figures = frame.table(lines, ["", "independent", "CRF", "difference [95 %]"])
    per_label = frame.table(
        [
            [
                name,
                f"{counts['positives']:.0f}",
                percent(counts["independent_average_precision"]),
                percent(counts["crf_average_precision"]),
            ]
            for name, counts in result.per_label.items()
        ],
        ["label", "test photos", "average precision, independent", "CRF"],
    )
    template = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))
    return template.substitute(
        name=row["name"],
        labels=len(run.labels),
        backbone=run.backbone_spec.name,
        objective=run.settings.objective.value,
        images=f"{row['images']:,d}",
        figures=figures,
        signature=result.signature,
        per_label=per_label,
        digest=row["digest"],
    )


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`models`: figures of each recipe."""
    lines = []
    for row in results["rows"]:
        cells = [row["name"], f"{row['images']:,d}"]
        for name in ("hamming", "subset_accuracy", "mean_average_precision"):
            theirs, ours = (row["recipe"][model][name] for model in ("independent", "crf"))
            cells.append(f"{percent(theirs)} -> {percent(ours)}")
        lines.append(cells)
    head = ["model", "photos", "wrong, %", "subset accuracy, %", "mAP, %"]
    return {"models": frame.table(lines, head)}


if __name__ == "__main__":
    main()
