"""Features that are computed of rows of numbers before a linear head: a kernel, or a forest."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import euclidean_distances
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mlcrf.labels import UNKNOWN

Rows = NDArray[np.float32]

_WIDTHS = (0.25, 1.0, 4.0)  # of gamma, relative to the median rule
_MOST_PAIRS = 1000  # rows whose distances give the median
_MOST_COMPONENTS = 500
_TREES, _FEWEST_TREES = 300, 50
_LEAVES = (1, 2, 5)  # least rows of a leaf to choose from
_LEFT_OUT = 0.37  # share of the trees that have not seen a row
_MOST_BYTES = 1e9  # of the trees' nodes, of which each holds a number per label


class Unaries(StrEnum):
    """Functions of the features that give the unaries."""

    LINEAR = "linear"
    RBF = "rbf"
    FOREST = "forest"


class DerivedFeatures(Protocol):
    """A fitted function of rows of numbers."""

    def transform(self, rows: Rows) -> NDArray[np.floating]:
        """Return the features (N, M) of rows (N, D)."""


def choose_kernel(
    rows: Rows,
    loss: Callable[[Rows], float],
    *,
    gamma: float | None,
    n_components: int | None,
    seed: int,
) -> Pipeline:
    """Return a fitted approximation of the RBF kernel of standardised rows (N, D).

    Args:
        loss: the held-out loss of features (N, M), by which a width is chosen.
        gamma: None to choose among a quarter of, once and four times the inverse of the median
            squared distance.
        n_components: None for one per row, at most 500.
    """
    standard = StandardScaler().fit_transform(rows)
    gammas = [gamma]
    if gamma is None:
        rng = np.random.default_rng(seed)
        some = standard[rng.permutation(len(standard))[:_MOST_PAIRS]]
        apart = euclidean_distances(some, squared=True)[np.triu_indices(len(some), 1)]
        median = float(np.median(apart)) if len(apart) else 0.0
        gammas = [width / (median or 1.0) for width in _WIDTHS]
    count = min(n_components or min(len(rows), _MOST_COMPONENTS), len(rows))
    kernels = [
        make_pipeline(
            StandardScaler(), Nystroem(gamma=one, n_components=count, random_state=seed)
        ).fit(rows)
        for one in gammas
    ]
    if len(kernels) == 1:
        return kernels[0]
    losses = [loss(kernel.transform(rows).astype(np.float32)) for kernel in kernels]
    return kernels[int(np.argmin(losses))]


class ForestLogOdds:
    """Log-odds of each label by a random forest, in which half a vote is added to either answer.

    A forest of 300 regression trees on 0 and 1, whose means in leaves are shares of rows with the
    label; splits that lessen the variance are those that lessen Gini's impurity. The least number
    of rows of a leaf is chosen by out-of-bag loss (Breiman, "Random forests", 2001). Labels that
    are unknown in some rows have a forest each, of the rows where they are known. Where 300 trees
    would take more than 1 GB, there are fewer, down to 50.

    Growing takes O(300 N log N sqrt(D)), three times; a label that is known in fewer than two
    rows has log-odds 0.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._forests: list[tuple[NDArray[np.int64], RandomForestRegressor]] = []
        self._num_labels = 0

    def fit_transform(self, rows: Rows, targets: NDArray[np.int8]) -> NDArray[np.float64]:
        """Grow it on rows (N, D), and return their log-odds (N, L) by trees that saw them not.

        Args:
            targets: 1, 0 and -1 for unknown (N, L).
        """
        known = targets != UNKNOWN
        complete = np.flatnonzero(known.all(0))
        groups = [np.array([one]) for one in np.flatnonzero(~known.all(0) & (known.sum(0) > 1))]
        groups += [complete] if len(complete) else []
        self._num_labels = targets.shape[1]
        self._forests = []
        result = np.zeros(targets.shape)
        for labels in groups:
            there = known[:, labels[0]]
            forest = self._grown(rows[there], targets[there][:, labels].astype(np.float64))
            self._forests.append((labels, forest))
            result[:, labels] = _log_odds(forest.predict(rows), forest)
            result[np.ix_(there, labels)] = _log_odds(forest.oob_prediction_, forest)
        return result

    def transform(self, rows: Rows) -> NDArray[np.float64]:
        """Return the log-odds (N, L) of other rows (N, D), by all trees."""
        result = np.zeros((len(rows), self._num_labels))
        for labels, forest in self._forests:
            result[:, labels] = _log_odds(forest.predict(rows), forest)
        return result

    def _grown(self, rows: Rows, targets: NDArray[np.float64]) -> RandomForestRegressor:
        nodes = 2 * 0.63 * len(rows)  # of a tree whose leaves have one row
        most = int(_MOST_BYTES / (8 * nodes * targets.shape[1]))
        best, least = None, np.inf
        for leaf in _LEAVES:
            forest = RandomForestRegressor(
                min(_TREES, max(_FEWEST_TREES, most)),
                min_samples_leaf=leaf,
                max_features="sqrt",
                oob_score=True,
                random_state=self._seed,
            ).fit(rows, targets if targets.shape[1] > 1 else targets[:, 0])
            signs = 2 * targets - 1
            loss = np.logaddexp(0, -signs * _log_odds(forest.oob_prediction_, forest)).mean()
            if loss < least:
                best, least = forest, loss
        return best


def _log_odds(shares: NDArray[np.float64], forest: RandomForestRegressor) -> NDArray[np.float64]:
    """Return log-odds (N, L) of shares of votes; those of left-out trees have fewer."""
    votes = _LEFT_OUT * forest.n_estimators
    shares = shares.reshape(len(shares), -1)
    result: NDArray[np.float64] = np.log(votes * shares + 0.5) - np.log(votes * (1 - shares) + 0.5)
    return result
