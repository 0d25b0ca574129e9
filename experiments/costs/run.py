"""Costs of mistakes of the CRF and of independent labels, where missing a label is dear.

python -m experiments.costs.run [--quick] [--data ANY TABLE]
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import frame
from mlcrf.checkpoint import Run
from mlcrf.crf import Potentials
from mlcrf.decoding import Costs, Decoder
from mlcrf.inference import Independent, InferenceMethod
from mlcrf.labels import UNKNOWN
from mlcrf.metrics import COST_MEASURES, Predictions, bootstrap_differences, gather_statistics

MISSED = (1.0, 3.0, 10.0)  # a false label costs 1
ABSTAIN = (None, 0.25)
KNOWN = (0.0, 0.25, 0.5)


def decided(
    method: InferenceMethod, potentials: Potentials, known: Tensor, decoder: Decoder
) -> Predictions:
    """The decision of least cost given what is known, with its marginals."""
    posterior = method(potentials, known=known)
    chosen = decoder(posterior, potentials, method, known=known).numpy()
    assert decoder.costs is not None
    nothing = np.zeros(len(chosen))
    costs = np.array(decoder.costs.rows())
    return Predictions(
        posterior.marginals.double().numpy(), chosen.clip(0), nothing, chosen, costs=costs
    )


@torch.no_grad()
def rows_of(
    run: Run, features: Tensor, targets: Tensor, share: float, resamples: int
) -> list[dict[str, Any]]:
    """A row for each pair of costs, with a share of the labels known, which is not counted."""
    known = torch.from_numpy(run.rules.close(frame.partly_known(targets, share).numpy()))
    counted = torch.where(known == UNKNOWN, targets, UNKNOWN).to(torch.int8).numpy()
    labels, count = run.labels.names, len(run.labels)
    models = {
        "crf": (run.make_inference(), run.crf(features)),
        "independent": (Independent(), run.independent(features)),
    }
    rows = []
    for missed in MISSED:
        for abstain in ABSTAIN:
            costs = Costs(labels, (1.0,) * count, (missed,) * count, (abstain,) * count)
            statistics = {
                model: gather_statistics(decided(*model_of, known, Decoder(costs=costs)), counted)
                for model, model_of in models.items()
            }
            both = statistics["crf"], statistics["independent"]
            difference = bootstrap_differences(*both, resamples=resamples)
            row: dict[str, Any] = {"missed": missed, "abstain": abstain, "known": share}
            for model, one in statistics.items():
                scores = one.measures()
                row[model] = {name: getattr(scores, name) for name in COST_MEASURES}
            rows.append(row | {"difference": difference["cost"]})
    return rows


def main() -> None:
    """Decide each photo at every cost and share of known labels, and keep the figures."""
    arguments = frame.read_options(__doc__, "costs", photos={"type": int, "default": 4000})
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets.astype(np.int64))
    rows: frame.Rows = []
    for share in KNOWN:
        rows += rows_of(run, features, targets, share, arguments.resamples)
        frame.keep(arguments, rows, images=len(test), labels=len(run.labels), run=run.digest)
    print(tables({"rows": rows})["costs"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`costs`: actual and expected cost of both models; `open`: with labels left open."""
    found: dict[str, list[list[str]]] = {"costs": [], "open": []}
    for row in results["rows"]:
        theirs, ours = row["independent"], row["crf"]
        cells = [f"{row['missed']:g}", f"{100 * row['known']:.0f}"]
        cells += [f"{one['cost']:.3f} ({one['expected_cost']:.3f})" for one in (theirs, ours)]
        cells.append(frame.gain(row["difference"], 1))
        if row["abstain"] is None:
            found["costs"].append(cells)
        else:
            counts = [f"{one['open_labels']:.2f}" for one in (theirs, ours)]
            found["open"].append([*cells, " -> ".join(counts)])
    head = ["missed costs", "known, %", "independent (expected)", "CRF (expected)", "difference"]
    return {
        "costs": frame.table(found["costs"], head),
        "open": frame.table(found["open"], [*head, "labels left open"]),
    }


if __name__ == "__main__":
    main()
