"""Five labels for every image, measured as image annotation is: which decision finds most labels?

    python -m experiments.annotation.run [--sets FOLDER] [--quick]

Label sets are drawn from a known sparse CRF (`experiments.many_labels.drawn`). With `--sets`, a
folder of data sets of numbers (`experiments.numbers`), corel5k is measured too, and medical, which
gets two labels each. Both models are fitted as `mlcrf train` does, the CRF on a tree, which is
exact; rarity is tuned on a fifth of the images to learn from, and test images are used once.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import frame
from experiments.frame import Rows, percent
from experiments.many_labels.drawn import make_sparse_crf
from experiments.numbers import Arrays, Numbers, read_numbers
from mlcrf.choices import Decision, InferenceName, Structure
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder
from mlcrf.labels import LabelSpace
from mlcrf.metrics import Predictions, gather_statistics
from mlcrf.training.examples import Examples
from mlcrf.training.fitting import fit_features
from mlcrf.training.progress import without_gradients

_SETS = {"corel5k": 5, "medical": 2}  # labels of each image
_DRAWN = {"labels": 374, "features": 256, "train": 4500, "test": 500}
_QUICK = {"labels": 40, "features": 16, "train": 300, "test": 100}
_RULES: dict[str, dict[str, Any]] = {
    "top-k": {"rule": Decision.TOP_K},
    "rarity 1": {"rule": Decision.TOP_K, "rarity": 1.0},
    "rarity auto": {"rule": Decision.TOP_K, "rarity": None},
    "f1-of-means": {"rule": Decision.F1_OF_MEANS},
}


def main() -> None:
    """Fit both models on every data set, and score every decision."""
    arguments = frame.read_options(
        __doc__,
        "annotation",
        sets={"type": Path, "help": "folder of corel5k-train.arff and the others"},
    )
    sizes = _QUICK if arguments.quick else _DRAWN
    data = {"drawn": (_draw(sizes), 5)}
    if arguments.sets is not None:
        data |= {name: (read_numbers(arguments.sets, name), k) for name, k in _SETS.items()}
    settings = TrainSettings(structure=Structure.TREE, **(frame.QUICK if arguments.quick else {}))
    rows: Rows = []
    for name, (numbers, k) in data.items():
        rows += [{"data": name, "k": k} | row for row in measure(numbers, settings, k)]
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["decisions"])


def _draw(sizes: dict[str, int]) -> Numbers:
    crf = make_sparse_crf(sizes["labels"], sizes["features"])
    labels = LabelSpace(tuple(f"label {number}" for number in range(sizes["labels"])))
    return Numbers(labels, crf.draw(sizes["train"], seed=1), crf.draw(sizes["test"], seed=2))


def measure(numbers: Numbers, settings: TrainSettings, k: int) -> Rows:
    """Return the measures at k of both models by every rule, on the test images."""
    parts = _split(numbers.train)
    features, targets = numbers.test
    test = Examples(features, targets)
    log = without_gradients(partial(print, flush=True))
    fitted = fit_features(*parts, numbers.labels, settings, log=log)
    models = {"independent": fitted.independent.model, "crf": fitted.crf.model}
    rows: Rows = []
    for name, model in models.items():
        inference = fitted.plan.inference if name == "crf" else InferenceName.AUTO
        tuned = fitted.decoders[name][-1]
        method = model.make_inference(inference, settings)
        with torch.no_grad():
            potentials = test.potentials(model, slice(None))
            posterior = method(potentials)
        for title, rule in _RULES.items():
            decoder = Decoder(k=k, **rule)
            if not decoder.is_ready:
                decoder = decoder.filled_in(tuned)
            chosen = decoder(posterior, potentials, method).numpy()
            marginals, nothing = posterior.marginals.double().numpy(), np.zeros(len(targets))
            given = Predictions(marginals, chosen, nothing, best=chosen)
            measures = asdict(gather_statistics(given, targets).measures())
            at_k = {key: value for key, value in measures.items() if key.endswith("at_k")}
            labels = measures["labels_with_positives"]
            rarity = decoder.rarity if decoder.rule is Decision.TOP_K else None
            rows.append({"model": name, "rule": title, "rarity": rarity, "labels": labels, **at_k})
    return rows


def _split(given: Arrays) -> tuple[Examples, Examples]:
    """Keep a fifth of the images for validation."""
    features, targets = given
    kept = np.random.default_rng(0).permutation(len(features)) < len(features) // 5
    return Examples(features[~kept], targets[~kept]), Examples(features[kept], targets[kept])


def tables(results: dict[str, Rows]) -> dict[str, str]:
    """`decisions`: the measures at k of both models by every rule; `corel5k`: of that set alone."""
    rows = [_cells(row) for row in results["rows"]]
    head = [
        "data",
        "model",
        "decision",
        "mean precision, %",
        "mean recall, %",
        "F1 of the means, %",
    ]
    head.append("labels found")
    corel5k = [row[1:] for row in rows if row[0].startswith("corel5k")]
    return {
        "decisions": frame.table(rows, head),
        **({"corel5k": frame.table(corel5k, head[1:])} if corel5k else {}),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    tuned = f" ({row['rarity']:g})" if row["rule"] == "rarity auto" else ""
    return [
        f"{row['data']}, {row['k']} each",
        row["model"],
        row["rule"] + tuned,
        *(percent(row[f"{name}_at_k"]) for name in ("precision", "recall", "f1")),
        f"{row['labels_found_at_k']} of {row['labels']}",
    ]


if __name__ == "__main__":
    main()
