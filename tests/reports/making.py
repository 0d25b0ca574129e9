"""Couplings of many labels in clusters that are known."""

import numpy as np
from numpy.typing import NDArray


def make_clustered(
    num_labels: int, num_clusters: int, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Edges, couplings, and the cluster of each label: attraction within, weak noise between."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(num_clusters, size=num_labels)
    first, second = np.triu_indices(num_labels, 1)
    within = cluster[first] == cluster[second]
    kept = rng.random(len(first)) < np.where(within, 0.4, 0.01)
    values = np.where(within, rng.uniform(1, 3, len(first)), rng.normal(0, 0.5, len(first)))
    return np.stack([first, second], 1)[kept], values[kept], cluster
