"""Confidence intervals for the difference of two models on the same images."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from mlcrf.metrics.scores import Measures, Statistics

Interval = tuple[float, float, float]


def bootstrap_differences(
    ours: Statistics,
    theirs: Statistics,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Interval]:
    """Return each measure's difference, ours minus theirs, with a 95 % interval.

    The percentile bootstrap over images, both models on the same resample (Efron and Tibshirani
    1993, chapter 13). It covers the choice of test images, not that of training images.

    Args:
        resamples: number of resamples; `progress` is called with the number done.

    Returns:
        For each measure's name (value, low, high).

    Cost: O(resamples N L); about 5 s for 1,000 resamples of 10,000 images with 24 labels.
    """
    names = [field.name for field in fields(Measures)]

    def difference(weights: np.ndarray | None) -> list[float]:
        mine, other = ours.measures(weights), theirs.measures(weights)
        return [getattr(mine, name) - getattr(other, name) for name in names]

    rng = np.random.default_rng(seed)
    num_images = len(ours.nll)
    drawn = []
    for done in range(resamples):
        counts = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        drawn.append(difference(counts.astype(np.float64)))
        progress(done + 1)
    samples = np.array(drawn)
    defined = ~np.isnan(samples).all(0)  # a measure may be undefined on all resamples
    low, high = np.full((2, len(names)), np.nan)
    low[defined], high[defined] = np.nanpercentile(samples[:, defined], [2.5, 97.5], axis=0)
    values = difference(None)
    return {name: (values[i], float(low[i]), float(high[i])) for i, name in enumerate(names)}
