"""Gains by factors of unaries and couplings on photos that did not choose them.

python -m experiments.calibration.tempering [--quick] [--label-sets 14 24 38] [--photos 4000]

Training chooses them by its validation photos; here each finished run is judged on test photos with
them, and without: its potentials divided by the factors that its record names. Models that training
left alone are judged on the first 2,000 photos, with the factors that the other photos ask for.
"""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import frame
from experiments.frame import gain, percent
from mlcrf.checkpoint import Run
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Split
from mlcrf.inference import Independent, InferenceMethod, log_mass
from mlcrf.metrics import Predictions, Statistics, bootstrap_differences, gather_statistics
from mlcrf.reliability import measure_reliability
from mlcrf.tempering import Factors, choose_factors

MODELS = {"independent": "independent", "crf": "CRF"}
MEASURES = {
    "nll": "nll per photo",
    "hamming": "wrong labels, %",
    "subset_accuracy": "sets right, %",
    "example_f1": "F1 of a photo, %",
    "macro_f1": "macro F1, %",
    "calibration_error": "error of labels, %",
}
KINDS = {"labels": "labels", "pairs": "pairs, both present", "sets": "most probable set"}


def main() -> None:
    """Judge every run, keep the figures beside those of `run`, and print them."""
    more = {
        "label_sets": {"nargs": "+", "type": int, "default": [14, 24, 38]},
        "photos": {"type": int, "default": 4000},
    }
    arguments = frame.read_options(__doc__, "calibration", **more)
    rows: frame.Rows = []
    for label_set in [14] if arguments.quick else arguments.label_sets:
        data = frame.photos(arguments, label_set)
        settings = TrainSettings(**(frame.QUICK if arguments.quick else {}))
        # as `mlcrf train` does it by default; `frame.trained` learns jointly
        run = frame.trained(
            data,
            arguments.runs / f"tempered{label_set}",
            settings,
            as_fitted=False,
        )
        test = data.part(Split.TEST)
        test = test.rows(np.arange(len(test))[: arguments.photos])
        targets = torch.from_numpy(test.targets.astype(np.int64))
        for row in judge(run, frame.features_of(run, test), targets, arguments.resamples):
            rows.append({"labels": label_set} | row)
            print(row, flush=True)
    out, results = arguments.out, {}
    if out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))
    results["tempering"] = {"photos": arguments.photos, "commit": frame.commit(), "rows": rows}
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join(tables(results).values()))


@torch.no_grad()
def judge(run: Run, features: Tensor, targets: Tensor, resamples: int) -> frame.Rows:
    """A row for each model: its factors, what they change, and reliability before and after."""
    fits = frame.record_of(run)["fits"]
    rows = []
    for model in MODELS:
        fit = fits[model]
        method = run.make_inference() if model == "crf" else Independent()
        potentials = (run.crf if model == "crf" else run.independent)(features)
        truth, is_kept = targets, "unary_factor" in fit
        if is_kept:
            factors = Factors(fit["unary_factor"], fit["pairwise_factor"])
            before = potentials.scaled(1 / factors.unary, 1 / factors.pairwise)
        else:
            before, truth = potentials.rows(slice(0, 2000)), targets[:2000]
            others = potentials.rows(slice(2000, None))
            factors = choose_factors(others, targets[2000:], method).found
        after = before.scaled(factors.unary, factors.pairwise)
        ours, theirs = (statistics(one, truth, method) for one in (after, before))
        gains = bootstrap_differences(ours, theirs, resamples=resamples)
        rows.append(
            {
                "model": model,
                "kept": is_kept,
                "photos": len(truth),
                "unary": factors.unary,
                "pairwise": factors.pairwise,
                "gains": {name: gains[name] for name in MEASURES},
                "reliability": {
                    when: {
                        kind: [one.mean_probability, one.mean_frequency, one.error]
                        for kind, one in measure_reliability(potentials, truth, method).items()
                    }
                    for when, potentials in (("before", before), ("after", after))
                },
            }
        )
    return rows


def statistics(potentials: Potentials, targets: Tensor, method: InferenceMethod) -> Statistics:
    """Return the statistics that the measures are made of."""
    posterior = method(potentials)
    nll = posterior.log_partition - log_mass(method, potentials, targets)
    predictions = Predictions(
        posterior.marginals.double().numpy(),
        method.map_states(potentials).numpy(),
        nll.double().numpy(),
    )
    return gather_statistics(predictions, targets.numpy().astype(np.int8))


def _in_nats(interval: list[float]) -> str:
    value, low, high = interval
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`factors`: what they are and what they change; `tempered`: reliability before and after."""
    changes, reliable = [], []
    for row in results["tempering"]["rows"]:
        about = [str(row["labels"]), MODELS[row["model"]]]
        factors = [f"{row['unary']:.3f}", f"{row['pairwise']:.3f}" if row["model"] == "crf" else ""]
        kept = "yes" if row["kept"] else "no"
        changes.append(
            about
            + [kept, str(row["photos"]), *factors]
            + [_in_nats(row["gains"]["nll"])]
            + [gain(row["gains"][name]) for name in MEASURES if name != "nll"]
        )
        for kind, title in KINDS.items():
            said, was, error = row["reliability"]["before"][kind]
            said_then, was_then, error_then = row["reliability"]["after"][kind]
            values = (said, was, error, said_then, was_then, error_then)
            reliable.append([*about, kept, title, *map(percent, values)])
    head = ["labels", "model", "kept", "photos", "unaries x", "couplings x", *MEASURES.values()]
    of = ["labels", "model", "kept", "of", "said, %", "was, %", "error, %"]
    return {
        "factors": frame.table(changes, head),
        "tempered": frame.table(reliable, [*of, "said after", "was after", "error after"]),
    }


if __name__ == "__main__":
    main()
