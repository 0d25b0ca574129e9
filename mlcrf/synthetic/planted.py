"""The CRF over label sets that scenes are sampled from, so that the truth is known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import SettingsError
from mlcrf.labels import LabelSpace

HARD = ("beach", "bird", "dog", "flower", "people")

# How often each label occurs, whatever the strength of the couplings.
FREQUENCIES: Mapping[str, float] = {
    "sky": 0.35,
    "sea": 0.30,
    "sunset": 0.30,
    "night": 0.35,
    "tree": 0.25,
    "building": 0.20,
    "car": 0.20,
    "beach": 0.25,
    "bird": 0.40,
    "dog": 0.30,
    "flower": 0.42,
    "people": 0.40,
}

# Two easy labels are never coupled: the picture says both, and their coupling leaves no trace.
COUPLINGS: Mapping[tuple[str, str], float] = {
    ("sky", "bird"): 2.0,
    ("sea", "beach"): 2.2,
    ("sunset", "bird"): -2.5,
    ("sunset", "dog"): -2.5,
    ("night", "beach"): -2.5,
    ("night", "bird"): -2.5,
    ("night", "flower"): -2.5,
    ("tree", "beach"): -2.5,
    ("tree", "dog"): -2.5,
    ("building", "beach"): -2.5,
    ("building", "bird"): -2.5,
    ("building", "people"): 2.5,
    ("car", "beach"): -2.5,
    ("car", "bird"): -2.5,
    ("car", "dog"): -2.5,
    ("beach", "dog"): 1.5,
    ("beach", "flower"): -2.5,
    ("beach", "people"): 2.5,
    ("bird", "dog"): 2.5,
    ("bird", "flower"): -2.5,
    ("bird", "people"): 1.5,
    ("dog", "flower"): -1.5,
    ("dog", "people"): 2.5,
}


@dataclass(frozen=True, eq=False)
class PlantedCrf:
    """A CRF over label sets with no picture in it, small enough to enumerate.

        p(y) = exp( sum_i bias_i y_i + sum_{i<j} pairwise_matrix_ij y_i y_j ) / Z,   y in {0,1}^L

    A scene x shows the mark of each label independently given y, so that the posterior has the
    same couplings and only its unaries know the picture:

        p(y | x)  ~  exp( sum_i (bias_i + log p(x|y_i=1)/p(x|y_i=0)) y_i + sum_{i<j} J_ij y_i y_j )

    Attributes:
        labels: what the columns are.
        bias: log-odds of each label where it stands alone (L,).
        pairwise_matrix: symmetric, zero diagonal (L, L).
        hard: labels that their own mark hardly tells.
    """

    labels: LabelSpace
    bias: NDArray[np.float64]
    pairwise_matrix: NDArray[np.float64]
    hard: tuple[str, ...]

    def __post_init__(self) -> None:
        num_labels = len(self.labels)
        assert self.bias.shape == (num_labels,)
        assert self.pairwise_matrix.shape == (num_labels, num_labels)
        assert np.array_equal(self.pairwise_matrix, self.pairwise_matrix.T)
        assert not self.pairwise_matrix.diagonal().any()
        assert set(self.hard) <= set(self.labels)

    def probabilities(self) -> NDArray[np.float64]:
        """Exact p(y) of all label sets (2^L,), in the order of `every_state(L)`."""
        states = every_state(len(self.labels))
        return _normalised(states @ self.bias + _pair_score(states, self.pairwise_matrix))

    def marginals(self) -> NDArray[np.float64]:
        """Exact P(y_i = 1), shape (L,)."""
        return np.asarray(self.probabilities() @ every_state(len(self.labels)))

    def sample(self, num: int, rng: np.random.Generator) -> NDArray[np.int8]:
        """Draw label sets (num, L), independent and exact; the first k do not depend on `num`."""
        cumulative = np.cumsum(self.probabilities())
        drawn = np.searchsorted(cumulative, rng.random(num) * cumulative[-1], side="right")
        return np.asarray(every_state(len(self.labels))[drawn], dtype=np.int8)


def make_planted_crf(*, coupling_strength: float = 1.0) -> PlantedCrf:
    """Make the CRF behind the synthetic data: `COUPLINGS` times a strength.

    Biases are fitted so that label i occurs with `FREQUENCIES[i]` at every strength, by iterative
    proportional fitting: each step sets one exact marginal m_i right and the sweeps converge,

        bias_i  <-  bias_i + logit(frequency_i) - logit(m_i)

    Args:
        coupling_strength: factor on every coupling; 0 makes the labels independent.

    Raises:
        SettingsError: the strength is negative, not finite, or above 4.

    Cost: 2^L L a sweep. Deterministic.
    """
    if not 0 <= coupling_strength <= 4:
        raise SettingsError(f"coupling_strength is {coupling_strength}: expected from 0 to 4")
    labels = LabelSpace(tuple(FREQUENCIES))
    matrix = np.zeros((len(labels), len(labels)))
    for (one, other), coupling in COUPLINGS.items():
        i, j = labels.index(one), labels.index(other)
        matrix[i, j] = matrix[j, i] = coupling_strength * coupling
    bias = _fit_bias(matrix, np.array(list(FREQUENCIES.values())))
    return PlantedCrf(labels=labels, bias=bias, pairwise_matrix=matrix, hard=HARD)


def every_state(num_labels: int) -> NDArray[np.float64]:
    """All label sets (2^L, L); bit i of the row number is label i."""
    return ((np.arange(2**num_labels)[:, None] >> np.arange(num_labels)) & 1).astype(np.float64)


def _fit_bias(
    matrix: NDArray[np.float64], frequencies: NDArray[np.float64], *, tolerance: float = 1e-6
) -> NDArray[np.float64]:
    states = every_state(len(frequencies))
    pair_score = _pair_score(states, matrix)
    wanted = np.log(frequencies) - np.log1p(-frequencies)
    bias = wanted.copy()
    for _ in range(500):
        worst = 0.0
        for label in range(len(bias)):
            marginal = _normalised(states @ bias + pair_score) @ states[:, label]
            worst = max(worst, abs(float(marginal - frequencies[label])))
            bias[label] += wanted[label] - np.log(marginal) + np.log1p(-marginal)
        if worst < tolerance:
            return bias
    raise AssertionError("iterative proportional fitting did not converge")


def _pair_score(states: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((states @ np.triu(matrix, 1)) * states).sum(axis=1))


def _normalised(log_score: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(log_score - log_score.max())
    return np.asarray(weights / weights.sum())
