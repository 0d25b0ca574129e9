"""Compare objectives and inference: train one run per objective, score each decoding.

    python -m experiments.objectives.run [--label-set 38] [--only NAME ...] [--quick]

Runs that are there already are not trained again, runs that were stopped go on. `results.json` is
rewritten after every row, and keeps what is not done anew.
"""

import argparse
from dataclasses import asdict
from time import perf_counter
from typing import Any

from experiments import frame
from experiments.frame import Rows, gain, percent
from mlcrf.choices import InferenceName, ObjectiveName, Schedule
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Split
from mlcrf.evaluation import evaluate

_SAMPLED: dict[str, Any] = {"objective": ObjectiveName.CONTRASTIVE_DIVERGENCE}
_EXACT: dict[str, Any] = {"objective": ObjectiveName.EXACT_LIKELIHOOD}
_PIECEWISE: dict[str, Any] = {"schedule": Schedule.PIECEWISE}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "exact likelihood": _EXACT,
    "exact likelihood, piecewise": _EXACT | _PIECEWISE,
    "pseudo-likelihood": {"objective": ObjectiveName.PSEUDO_LIKELIHOOD},
    "contrastive divergence": _SAMPLED,
    "contrastive divergence, seed 1": _SAMPLED | {"seed": 1},
    "contrastive divergence, seed 2": _SAMPLED | {"seed": 2},
    "contrastive divergence, piecewise": _SAMPLED | _PIECEWISE,
    "unrolled mean field": {"objective": ObjectiveName.UNROLLED_MEAN_FIELD},
    "blended convex BP": {"objective": ObjectiveName.BLENDED_CONVEX_BP},
}
# beyond the reach of enumeration, and without what needs it or adds nothing
WITHOUT_ENUMERATION = [
    "pseudo-likelihood",
    "contrastive divergence",
    "contrastive divergence, seed 1",
    "contrastive divergence, seed 2",
    "contrastive divergence, piecewise",
]
EXACT_REACH = (
    InferenceName.EXACT,
    InferenceName.MEAN_FIELD,
    InferenceName.PARALLEL_MEAN_FIELD,
    InferenceName.TAP,
    InferenceName.CONVEX_BP,
    InferenceName.GIBBS,
)
STRATEGIES = ("exact likelihood", "contrastive divergence", "unrolled mean field")
MEASURES = {
    "wrong, %": "hamming",
    "subset accuracy, %": "subset_accuracy",
    "mAP, %": "mean_average_precision",
    "macro F1, %": "macro_f1",
    "calibration error, %": "calibration_error",
}


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "objectives",
        label_set={"type": int, "help": "24 (14 with --quick), 14 or 38"},
        only={"nargs": "*", "help": "objectives, by name"},
    )
    everything = [name for name in OBJECTIVES if name != "contrastive divergence, piecewise"]
    arguments.label_set = arguments.label_set or (14 if arguments.quick else 24)
    reached = arguments.label_set <= 24
    names = arguments.only or (everything if reached else WITHOUT_ENUMERATION)
    data = frame.photos(arguments, arguments.label_set)
    test = data.part(Split.TEST)
    rows = _kept(arguments, names)
    for name in names:
        changes = OBJECTIVES[name] | (frame.QUICK if arguments.quick else {})
        folder = f"{arguments.label_set}-{name.replace(',', '').replace(' ', '-')}"
        # splits are made already, so that another seed draws other chains and no more
        run = frame.trained(data, arguments.runs / "objectives" / folder, TrainSettings(**changes))
        own = run.make_inference().name
        extractor = frame.extractor_of(run)
        for inference in EXACT_REACH if reached else (InferenceName.GIBBS,):
            began = perf_counter()
            matched = inference.value == own
            result = evaluate(
                run,
                test,
                extractor,
                split="test",
                inference=inference,
                resamples=arguments.resamples if matched else 1,
            )
            rows.append(
                {
                    "labels": arguments.label_set,
                    "objective": name,
                    "seed": run.settings.seed,
                    "train_seconds": frame.record_of(run)["seconds"]["crf"],
                    "inference": inference.value,
                    "matched": matched,
                    "evaluate_seconds": round(perf_counter() - began, 1),
                    "nll_kind": result.nll_kind,
                    "crf": asdict(result.models["crf"]),
                    "independent": asdict(result.models["independent"]),
                    "difference": result.difference if matched else None,
                    "signature": result.signature,
                }
            )
            frame.keep(arguments, rows)
    print(tables({"rows": rows})[f"own-{arguments.label_set}"])


def _kept(arguments: argparse.Namespace, names: list[str]) -> Rows:
    """Return the results of an earlier call for objectives that are not run again."""
    return [
        row
        for row in frame.earlier(arguments).get("rows", [])
        if row["labels"] != arguments.label_set or row["objective"] not in names
    ]


def tables(results: dict[str, Any]) -> dict[str, str]:
    """For each label set of L, and all where marked:

    `own-L`: each objective decoded as it was trained; `grid-L`: by every inference;
    `strategies`: the lecture's three; `schedules`: the paper's three, of all label sets.
    """
    made = {}
    for labels in {row["labels"] for row in results["rows"]}:
        rows = [row for row in results["rows"] if row["labels"] == labels]
        made[f"own-{labels}"] = _own(rows)
        made[f"grid-{labels}"] = frame.table(
            [_line(row, bold=row["matched"]) for row in rows],
            ["trained by", "decoded by", "nll", *MEASURES, "couplings learned in, s"],
        )
    usual = 24 if "own-24" in made else results["rows"][0]["labels"]
    strategies = [row for row in results["rows"] if row["objective"] in STRATEGIES]
    made["strategies"] = _own([row for row in strategies if row["labels"] == usual])
    made["schedules"] = _schedules(results["rows"])
    return made


def _schedules(rows: Rows) -> str:
    """Unary, piecewise, joint: percent of labels wrong, for each label set."""
    lines = []
    for labels in sorted({row["labels"] for row in rows}):
        own = {row["objective"]: row for row in rows if row["labels"] == labels and row["matched"]}
        found = next(row for row in own.values())
        cells = [str(labels), percent(found["independent"]["hamming"])]
        by = "contrastive divergence" if labels > 24 else "exact likelihood"
        for name in (f"{by}, piecewise", by):
            row = own.get(name)
            cells.append(
                f"{percent(row['crf']['hamming'])}, {gain(row['difference']['hamming'])}"
                if row
                else ""
            )
        lines.append([*cells, by])
    return frame.table(lines, ["labels", "unary", "piecewise", "joint", "learned by"])


def _own(rows: Rows) -> str:
    """Independent labels, then each objective by its own inference beside them."""
    plain = rows[0]["independent"]
    shares = [percent(plain[measure]) for measure in MEASURES.values()]
    lines = [["independent", "", f"{plain['nll']:.3f}", *shares, ""]]
    for row in rows:
        if row["matched"]:
            lines.append([*_line(row)[:-1], gain(row["difference"]["hamming"])])
    head = ["trained by", "decoded by", "nll", *MEASURES, "wrong, % beside independent"]
    return frame.table(lines, head)


def _line(row: dict[str, Any], *, bold: bool = False) -> list[str]:
    crf, name = row["crf"], row["inference"]
    nll = f"{crf['nll']:.3f}" + ("" if row["nll_kind"] == "exact" else f" ({row['nll_kind']})")
    shares = [percent(crf[measure]) for measure in MEASURES.values()]
    inference = f"**{name}**" if bold else name
    return [row["objective"], inference, nll, *shares, f"{row['train_seconds']:.0f}"]


if __name__ == "__main__":
    main()
