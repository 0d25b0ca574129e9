"""The known CRF from which label sets of scenes are sampled."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import PotentialsError, SettingsError
from mlcrf.labels import LabelSpace

HARD = ("beach", "bird", "dog", "flower", "people")

# Frequency of each label, at any strength of the couplings.
FREQUENCIES: Mapping[str, float] = {
    "sky": 0.30,
    "sea": 0.45,
    "sunset": 0.20,
    "night": 0.45,
    "tree": 0.45,
    "building": 0.40,
    "car": 0.20,
    "beach": 0.20,
    "bird": 0.30,
    "dog": 0.45,
    "flower": 0.35,
    "people": 0.35,
}

# Two easy labels are never coupled: the image shows both, so their coupling would have no effect.
# The hard labels compete, so that evidence for a label does not simply add up: `sea` makes `dog`
# more likely, but with `beach` less likely, since `people` and `bird` exclude `dog`. Otherwise a
# network that adds up the evidence in the whole image for each label would do as well.
COUPLINGS: Mapping[tuple[str, str], float] = {
    ("sea", "beach"): 4.0,
    ("sea", "dog"): 2.5,
    ("sea", "flower"): -2.5,
    ("night", "beach"): -4.0,
    ("night", "bird"): -4.0,
    ("night", "flower"): -4.0,
    ("tree", "beach"): -4.0,
    ("tree", "bird"): -4.0,
    ("tree", "flower"): 4.0,
    ("tree", "people"): 4.0,
    ("building", "beach"): -4.0,
    ("building", "bird"): -4.0,
    ("building", "flower"): -4.0,
    ("building", "people"): 2.5,
    ("beach", "bird"): 4.0,
    ("beach", "flower"): -2.5,
    ("beach", "people"): 4.0,
    ("bird", "dog"): -4.0,
    ("bird", "people"): 2.5,
    ("dog", "flower"): 1.5,
    ("dog", "people"): -4.0,
    ("flower", "people"): -4.0,
}


@dataclass(frozen=True, eq=False)
class PlantedCrf:
    """A CRF over label sets, without images, small enough to enumerate.

        p(y) = exp( sum_i bias_i y_i + sum_{i<j} pairwise_matrix_ij y_i y_j ) / Z,   y in {0,1}^L

    A scene x shows the mark of each label independently given y, so the posterior has the same
    couplings and only its unaries depend on the image:

        p(y | x)  ~  exp( sum_i (bias_i + log p(x|y_i=1)/p(x|y_i=0)) y_i + sum_{i<j} J_ij y_i y_j )

    Attributes:
        bias: log-odds of each label without couplings (L,).
        pairwise_matrix: symmetric, zero diagonal (L, L).
        hard: labels whose own mark is weak evidence.

    Raises:
        PotentialsError: shapes do not fit, or a value is not finite; couplings that are not
            symmetric, or not zero on the diagonal.
        LabelsError: an unknown label is hard.
    """

    labels: LabelSpace
    bias: NDArray[np.float64]
    pairwise_matrix: NDArray[np.float64]
    hard: tuple[str, ...]

    def __post_init__(self) -> None:
        num_labels, matrix = len(self.labels), self.pairwise_matrix
        if self.bias.shape != (num_labels,) or matrix.shape != (num_labels, num_labels):
            raise PotentialsError(
                f"planted CRF: expected bias {(num_labels,)} and couplings "
                f"{(num_labels, num_labels)}, got {self.bias.shape} and {matrix.shape}"
            )
        if not (np.isfinite(self.bias).all() and np.isfinite(matrix).all()):
            raise PotentialsError("planted CRF: bias or couplings contain NaN or infinity")
        if not np.array_equal(matrix, matrix.T) or matrix.diagonal().any():
            raise PotentialsError("planted CRF: expected symmetric couplings, zero on the diagonal")
        for name in self.hard:
            self.labels.index(name)  # raises for an unknown label

    def probabilities(self) -> NDArray[np.float64]:
        """Return p(y) of all label sets (2^L,), in the order of `every_state(L)`."""
        states = every_state(len(self.labels))
        return _normalised(states @ self.bias + _pair_score(states, self.pairwise_matrix))

    def marginals(self) -> NDArray[np.float64]:
        """Return P(y_i = 1), shape (L,)."""
        return np.asarray(self.probabilities() @ every_state(len(self.labels)))

    def sample(self, num: int, rng: np.random.Generator) -> NDArray[np.int8]:
        """Draw label sets (num, L), independent and exact; the first k do not depend on `num`."""
        cumulative = np.cumsum(self.probabilities())
        drawn = np.searchsorted(cumulative, rng.random(num) * cumulative[-1], side="right")
        return np.asarray(every_state(len(self.labels))[drawn], dtype=np.int8)


def make_planted_crf(*, coupling_strength: float = 1.0) -> PlantedCrf:
    """Make the CRF behind the synthetic data: `COUPLINGS` times a strength.

    Biases are fitted so that label i occurs with `FREQUENCIES[i]` at every strength, by iterative
    proportional fitting: each step corrects one exact marginal m_i and the sweeps converge,

        bias_i  <-  bias_i + logit(frequency_i) - logit(m_i)

    Args:
        coupling_strength: factor on every coupling; 0 makes the labels independent.

    Raises:
        SettingsError: the strength is negative, not finite, or above 4.

    Cost: 2^L L per sweep. Deterministic.
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
    """Return all label sets (2^L, L); bit i of the row number is label i."""
    return ((np.arange(2**num_labels)[:, None] >> np.arange(num_labels)) & 1).astype(np.float64)


def _fit_bias(matrix: NDArray[np.float64], frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
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
        if worst < 1e-6:
            return bias
    raise AssertionError("iterative proportional fitting did not converge")


def _pair_score(states: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((states @ np.triu(matrix, 1)) * states).sum(axis=1))


def _normalised(log_score: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(log_score - log_score.max())
    return np.asarray(weights / weights.sum())
