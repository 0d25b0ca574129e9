"""Features and sets of hundreds or thousands of labels, drawn from a known sparse CRF."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import SettingsError
from mlcrf.inference.gibbs.chains import run_chains

_CALIBRATED_ON = 400  # images
_CALIBRATIONS = 60
_BURN_IN = 60  # sweeps
_LARGEST_FREQUENCY = 0.3
_TOPIC = 25  # labels


@dataclass(frozen=True)
class SparseCrf:
    """A CRF over many labels whose unaries are linear in the features:

        x ~ N(0, 1) in each feature,     unary = x W + b,     pairwise_ij on sparse edges

    Attributes:
        weights: W, float32 (D, L).
        biases: b, float32 (L,).
        edges: pairs i < j, int64 (E, 2).
        pairwise: float32 (E,).
        frequencies: what the biases were calibrated to, roughly (L,).
    """

    weights: Tensor
    biases: Tensor
    edges: Tensor
    pairwise: Tensor
    frequencies: NDArray[np.float64]

    def draw(self, num: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Features (N, D), and label sets (N, L) by Gibbs sampling from empty ones, 60 sweeps.

        Cost: O(N (D L + E)), nearly all of it the sweeps.
        """
        features = torch.randn(
            num, len(self.weights), generator=torch.Generator().manual_seed(seed)
        )
        potentials = self.potentials(features)
        states = torch.zeros(1, num, potentials.num_labels, dtype=torch.uint8)
        run = run_chains(potentials, states, sweeps=_BURN_IN, seed=seed, average=False)
        return features.numpy(), run.states[0].numpy().astype(np.int8)

    def potentials(self, features: Tensor) -> Potentials:
        """The CRFs of images with these features (N, D)."""
        return Potentials(features @ self.weights + self.biases, self.edges, self.pairwise)


def make_sparse_crf(
    num_labels: int,
    num_features: int,
    *,
    labels_per_image: float = 3.5,
    edges_per_label: int = 4,
    seed: int = 0,
) -> SparseCrf:
    """A CRF as of annotated photos: labels come in topics, and few of them are common.

    The frequency of the label of rank r is proportional to 1 / (r + 10), at most 0.3, as in data
    like Corel-5k (Duygulu et al. 2002). Each label chooses edges to others, common ones more often,
    half of them within its topic of 25 labels; three of four attract. Biases are calibrated by
    sampling.

    Args:
        labels_per_image: mean size of a label set, roughly.
        edges_per_label: that each label chooses; it is chosen as often.

    Raises:
        SettingsError: fewer than ten labels, or more labels an image than they can have.
    """
    if num_labels < 10 or not 0 < labels_per_image <= 0.1 * num_labels:
        raise SettingsError(
            f"expected at least 10 labels and at most a tenth of them an image, "
            f"got {num_labels} and {labels_per_image:g}"
        )
    rng = np.random.default_rng(seed)
    frequencies = 1 / (np.arange(num_labels) + 10.0)
    for _ in range(20):  # what the cap takes from some goes to the others
        frequencies *= labels_per_image / frequencies.sum()
        frequencies = frequencies.clip(max=_LARGEST_FREQUENCY)
    frequencies = rng.permutation(frequencies)
    edges, pairwise = _draw_couplings(frequencies, edges_per_label, rng)
    weights = rng.normal(0, 1.5 / np.sqrt(num_features), (num_features, num_labels))
    start = np.log(frequencies) - np.log1p(-frequencies)
    crf = SparseCrf(
        torch.from_numpy(weights).float(),
        torch.from_numpy(start).float(),
        torch.from_numpy(edges),
        torch.from_numpy(pairwise).float(),
        frequencies,
    )
    return _calibrated(crf, seed)


def _draw_couplings(
    frequencies: NDArray[np.float64], edges_per_label: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    num_labels = len(frequencies)
    topic = rng.permutation(np.arange(num_labels) // min(_TOPIC, num_labels))
    first = np.repeat(np.arange(num_labels), edges_per_label)
    second = rng.choice(num_labels, len(first), p=frequencies / frequencies.sum())
    for one in range(topic.max() + 1):
        members = np.flatnonzero(topic == one)
        chance = frequencies[members] / frequencies[members].sum()
        within = np.flatnonzero((topic[first] == one) & (rng.random(len(first)) < 0.5))
        second[within] = rng.choice(members, len(within), p=chance)
    ends = np.sort(np.stack([first, second], 1)[first != second], 1)
    edges: NDArray[np.int64] = np.unique(ends, axis=0)
    attracts = rng.random(len(edges)) < 0.75
    sizes = rng.uniform(1.0, 3.0, len(edges))
    return edges, np.where(attracts, sizes, -sizes)


def _calibrated(crf: SparseCrf, seed: int) -> SparseCrf:
    """Biases such that labels have about the frequencies that are wanted."""
    wanted = torch.from_numpy(crf.frequencies).float()
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(_CALIBRATED_ON, len(crf.weights), generator=generator)
    inner, biases = features @ crf.weights, crf.biases.clone()
    states = torch.zeros(1, _CALIBRATED_ON, len(biases), dtype=torch.uint8)
    for step in range(_CALIBRATIONS):
        potentials = Potentials(inner + biases, crf.edges, crf.pairwise)
        run = run_chains(potentials, states, sweeps=2, seed=seed, first_sweep=2 * step)
        states = run.states
        biases = biases + 0.5 * (wanted.log() - run.probabilities.mean(0).clamp(1e-7).log())
    return SparseCrf(crf.weights, biases, crf.edges, crf.pairwise, crf.frequencies)
