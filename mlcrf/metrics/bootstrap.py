"""Intervals of differences between models, by the bootstrap over images."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from mlcrf.metrics.curves import Floats
from mlcrf.metrics.measures import Measures
from mlcrf.metrics.scoring import Statistics

Interval = tuple[float, float, float]

_COUNT = "labels_found_at_k"
_TOLD = 100  # times that progress is told
_LOWER_IN_RESAMPLES = frozenset(
    {
        "macro_precision",
        "macro_recall",
        "f1_of_means",
        "precision_at_k",
        "recall_at_k",
        "f1_at_k",
        "labels_found_at_k",
    }
)


def bootstrap_differences(
    ours: Statistics,
    theirs: Statistics,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Interval]:
    """Return each measure's difference, ours minus theirs; see `bootstrap_from`."""
    return bootstrap_from(theirs, [ours], resamples=resamples, seed=seed, progress=progress)[0]


def bootstrap_from(
    reference: Statistics,
    models: Sequence[Statistics],
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Interval]]:
    """Return of each model every measure's difference from a reference, with a 95 % interval.

    The percentile bootstrap over images, all models on the same resample (Efron and Tibshirani
    1993, chapter 13). It covers the choice of test images, not that of training images.

    A resample lacks a third of the images, and with them all that was found of some rare labels, so
    that means over labels of precision and recall, also at k, are lower in resamples. Theirs
    are moved by a constant, to have the value as their mean.

    Args:
        progress: called about a hundred times, with the number of resamples that are scored, and of
            all.

    Returns:
        For each model, by measure: (value, low, high); without measures at k if not requested.

    Cost: O(resamples N L) for each model; about 10 s for 1,000 resamples of two models, 10,000
    images and 24 labels, and 100 s for 5,000 images and 374 labels.
    """
    requested = reference.measures()
    names = [one.name for one in fields(Measures) if getattr(requested, one.name) is not None]

    def differences(weights: np.ndarray | None) -> list[list[float]]:
        scored = [one.measures(weights) for one in (reference, *models)]
        first, *others = ([getattr(one, name) for name in names] for one in scored)
        return [[a - b for a, b in zip(other, first, strict=True)] for other in others]

    rng = np.random.default_rng(seed)
    num_images = len(reference.nll)
    drawn, step = [], max(1, resamples // _TOLD)
    for number in range(resamples):
        counts = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        drawn.append(differences(counts.astype(np.float64)))
        if (number + 1) % step == 0 or number + 1 == resamples:
            progress(number + 1, resamples)
    samples = np.array(drawn)
    return [
        _intervals(names, values, samples[:, model])
        for model, values in enumerate(differences(None))
    ]


def _intervals(names: list[str], values: list[float], samples: Floats) -> dict[str, Interval]:
    """Return (value, low, high) of each measure, from its values on resamples (resamples, M)."""
    defined = ~np.isnan(samples).all(0)  # a measure may be undefined on all resamples
    moved = defined & np.array([name in _LOWER_IN_RESAMPLES for name in names])
    samples[:, moved] += np.array(values)[moved] - np.nanmean(samples[:, moved], axis=0)
    low, high = np.full((2, len(names)), np.nan)
    low[defined], high[defined] = np.nanpercentile(samples[:, defined], [2.5, 97.5], axis=0)
    if _COUNT in names:  # whole, as the value is: no constant moves it off 0
        at = names.index(_COUNT)
        low[at], high[at] = np.round((low[at], high[at])) + 0.0  # no -0
    return {name: (values[i], float(low[i]), float(high[i])) for i, name in enumerate(names)}
