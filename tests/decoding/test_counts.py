"""How likely each label is together with each number of labels."""

import pytest
import torch

from mlcrf.crf import Potentials
from mlcrf.decoding import (
    count_marginals_from_samples,
    count_marginals_if_independent,
    empty_probability,
)
from tests.decoding import brute
from tests.making import close, make_potentials
from tests.oracle import oracles


@pytest.mark.parametrize("num_labels", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1.0, 5.0, 50.0])
def test_independent_labels_equal_enumeration(num_labels: int, size: float) -> None:
    """Adding and taking away labels gives the sums over all label sets, rare and sure ones too."""
    potentials = make_potentials(3, num_labels, unary=size, pairwise=0.0)
    truth = oracles(potentials)
    counts = count_marginals_if_independent(potentials.unary.sigmoid())
    wanted = brute.count_marginals(truth, num_labels)
    width = counts.shape[-1]
    close(counts, wanted[..., :width], 1e-14)
    assert float(wanted[..., width:].sum()) < 1e-13
    close(empty_probability(counts), brute.empty(truth), 1e-13)


def test_certain_and_even_labels() -> None:
    """Marginals of 0, 1 and a half, where the two ways of taking a label away meet."""
    p = torch.tensor([[0.0, 1.0, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5]])
    counts = count_marginals_if_independent(p)
    assert counts.dtype == torch.float64
    first = torch.zeros(5, 6, dtype=torch.float64)
    first[1] = first[4] = torch.tensor([0, 0, 0.25, 0.5, 0.25, 0])
    first[2] = first[3] = torch.tensor([0, 0, 0, 0.25, 0.25, 0])
    close(counts[0], first, 1e-15)
    second = torch.tensor([0, 1, 4, 6, 4, 1], dtype=torch.float64) / 32
    close(counts[1], second.expand(5, 6), 1e-15)


@pytest.mark.parametrize("mean", [0.0, 3.0, 60.0])
def test_many_labels_need_few_counts(mean: float) -> None:
    """Of 2,000 labels of which few are present, counts stay few and every marginal is kept."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 2000, generator=generator, dtype=torch.float64) * (2 * mean / 2000)
    p[0, :3] = torch.tensor([0.9, 0.999, 0.6])
    counts = count_marginals_if_independent(p)
    assert counts.shape[-1] < 40 + 3 * mean
    assert bool((counts >= 0).all())
    close(counts.sum(-1), p, 1e-14)
    close(empty_probability(counts), (1 - p).prod(1), 1e-12)
    sizes = torch.arange(counts.shape[-1]).double()
    own, together = counts[0, 1].sum(), (counts[0, 1] * sizes).sum()
    close(together / own, 1 + p[0].sum() - p[0, 1], 1e-11)  # the others, whatever this one is


def test_samples_are_counted() -> None:
    """Each entry is the share of samples that have the label and so many labels."""
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(300, 4, 6, generator=generator) < 0.4).to(torch.uint8)
    samples[:, 3] = 0
    counts = count_marginals_from_samples(samples)
    assert counts.shape == (4, 6, int(samples.sum(-1).max()) + 1)
    for size in range(counts.shape[-1]):
        wanted = (samples * (samples.sum(-1, keepdim=True) == size)).double().mean(0)
        close(counts[..., size], wanted, 1e-15)
    close(empty_probability(counts), (samples.sum(-1) == 0).double().mean(0), 1e-12)


def test_samples_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many samples are counted at once, the shares are the same."""
    samples = (torch.rand(17, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5).byte()
    whole = count_marginals_from_samples(samples)
    monkeypatch.setattr("mlcrf.decoding.counts._PART", 60)
    close(count_marginals_from_samples(samples), whole, 1e-15)


def test_no_image() -> None:
    """No image has no counts."""
    assert count_marginals_from_samples(torch.zeros(5, 0, 4, dtype=torch.uint8)).shape == (0, 4, 1)
    assert count_marginals_if_independent(torch.zeros(0, 4)).shape[:2] == (0, 4)


def test_samples_tend_to_the_truth() -> None:
    """Independent draws give about the count marginals of their distribution."""
    potentials: Potentials = make_potentials(2, 5, pairwise=0.0)
    p = potentials.unary.sigmoid()
    generator = torch.Generator().manual_seed(0)
    samples = torch.bernoulli(p.expand(20000, -1, -1), generator=generator).byte()
    exact = count_marginals_if_independent(p)
    close(count_marginals_from_samples(samples), exact, 5 * (0.25 / 20000) ** 0.5)
