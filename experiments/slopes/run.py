"""Measure whether pseudo-likelihood keeps the size of couplings when labels are unknown.

    python -m experiments.slopes.run [--quick] [--shares 0.1 0.3 0.6]

Label sets are drawn from a known CRF of 8 labels and 2 features, and labels are hidden at random.
The slope of the fitted over the true couplings (least squares through the origin) is 1 if they have
the right size. `before` is the estimator up to November 2026: unknown labels are replaced by their
mean-field marginals given all known labels, the label that they then predict included.
"""

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.frame import Rows
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import MeanField
from mlcrf.model import LabelCrf
from mlcrf.objectives import Objective, pseudo_likelihood_loss
from mlcrf.objectives import pseudo_likelihood as module
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.preconditioner import Penalty

LABELS, FEATURES, STRENGTH = 8, 2, 0.7
PARTS = {750: 8, 3_000: 4, 12_000: 2, 48_000: 1}  # images to a fit: fits on different images
QUICK = {750: 2}


def filled_in_loss(potentials: Potentials, targets: Tensor) -> Tensor:
    """Return the loss as it was: unknown labels are filled in by mean field given all known."""
    observed = targets >= 0
    with torch.no_grad():
        states = MeanField(second_start=False)(potentials, known=targets).marginals
    logits = potentials.conditional_logits(states)
    each = F.binary_cross_entropy_with_logits(
        logits, torch.where(observed, states, 0.0), reduction="none"
    )
    return (each * observed).sum() / len(targets)


def mean_field_loss(potentials: Potentials, targets: Tensor) -> Tensor:
    """Return the loss as it is for images with too many unknown labels to enumerate."""
    limit, module._MAX_TERMS = module._MAX_TERMS, 0
    try:
        return pseudo_likelihood_loss(potentials, targets)
    finally:
        module._MAX_TERMS = limit


OBJECTIVES: dict[str, Objective] = {
    "before": filled_in_loss,
    "now": pseudo_likelihood_loss,
    "now, mean field alone": mean_field_loss,
}


def main() -> None:
    """Draw, fit, and keep the figures."""
    shares: dict[str, Any] = {"type": float, "nargs": "+", "default": [0.1, 0.3, 0.6]}
    arguments = frame.read_options(
        __doc__, "slopes", seed={"type": int, "default": 0}, shares=shares
    )
    parts = QUICK if arguments.quick else PARTS
    num_images = max(size * count for size, count in parts.items())
    features, targets, couplings = draw(num_images, arguments.seed)
    rows: Rows = []
    for share, (size, count) in product(arguments.shares, parts.items()):
        hidden = np.random.default_rng((arguments.seed, 1)).random(targets.shape) < share
        seen = np.where(hidden, np.int8(-1), targets)
        for name, objective in OBJECTIVES.items():
            starts = range(0, size * count, size)
            slopes = [
                slope_of(features[at : at + size], seen[at : at + size], couplings, objective)
                for at in starts
            ]
            rows.append({"hidden": share, "images": size, "objective": name, "slopes": slopes})
            print(rows[-1], flush=True)
            frame.keep(arguments, rows, seed=arguments.seed, labels=LABELS)
    print(tables({"rows": rows})["slopes"])


def draw(
    num_images: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]:
    """Draw features (N, D), label sets (N, L) by enumeration, and the couplings (E,)."""
    rng = np.random.default_rng(seed)
    first, second = full_edges(LABELS).numpy().T
    couplings = STRENGTH * rng.normal(size=len(first))
    weights = rng.normal(size=(FEATURES, LABELS))
    balance = np.zeros(LABELS)  # half of each label's couplings, so that labels are not rare
    np.add.at(balance, first, couplings / 2)
    np.add.at(balance, second, couplings / 2)
    biases = rng.normal(size=LABELS) / 2 - balance
    states = np.array(list(product((0, 1), repeat=LABELS)), dtype=np.int8)
    constant = states @ biases + (states[:, first] * states[:, second]) @ couplings
    features = rng.normal(size=(num_images, FEATURES)).astype(np.float32)
    scores = features @ weights @ states.T + constant
    drawn = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return features, states[drawn], couplings


def slope_of(
    features: NDArray[np.float32],
    targets: NDArray[np.int8],
    couplings: NDArray[np.float64],
    objective: Objective,
) -> float:
    """Return the slope of fitted over true couplings."""
    model, _ = fit(
        FeatureSpace(features, targets), LabelCrf(FEATURES, LABELS), objective,
        Penalty(1e-5, 1e-5), tolerance=1e-5, max_gradients=100,
    )  # fmt: skip
    fitted = model.pairwise.detach().double().numpy()
    return float(fitted @ couplings / (couplings @ couplings))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`slopes`: mean slope, and the standard error of that mean.

    The variance of a fit is taken as c / images, with c pooled over the sizes from 3,000 images on,
    since the largest has one fit alone; smaller sizes have their own.
    """
    rows = results["rows"]
    cells: dict[tuple[float, int], list[str]] = {}
    for row in rows:
        alike = [
            other
            for other in rows
            if (other["hidden"], other["objective"]) == (row["hidden"], row["objective"])
            and (row["images"] == other["images"] or min(row["images"], other["images"]) >= 3_000)
        ]
        squares = sum(r["images"] * np.var(r["slopes"]) * len(r["slopes"]) for r in alike)
        freedom = sum(len(r["slopes"]) - 1 for r in alike)
        error = (squares / freedom / row["images"] / len(row["slopes"])) ** 0.5
        line = cells.setdefault((row["hidden"], row["images"]), [])
        line.append(f"{np.mean(row['slopes']):.3f} ± {error:.3f}")
    lines = [[f"{share:.0%}", f"{size:,d}", *line] for (share, size), line in cells.items()]
    return {"slopes": frame.table(lines, ["hidden", "images", *OBJECTIVES])}


if __name__ == "__main__":
    main()
