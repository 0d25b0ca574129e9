"""Rare labels: what is let through, and the rarity that is best on data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlcrf.choices import Decision
from mlcrf.crf import Potentials
from mlcrf.decoding import Decoder, estimate_frequencies, tune_rarity
from mlcrf.errors import ProbabilitiesError
from mlcrf.inference import Independent
from mlcrf.metrics import Predictions, gather_statistics
from mlcrf.rules import Rules
from tests.decoding.methods import decided


def test_frequencies() -> None:
    """The share of known targets that are positive, never 0 or 1."""
    targets = torch.tensor([[1, 0, -1], [1, 0, -1], [0, 0, 1]])
    assert estimate_frequencies(targets) == pytest.approx((2.5 / 4, 0.5 / 4, 1.5 / 2))


def test_a_rare_label_is_ranked_by_its_share_of_the_frequency() -> None:
    """At rarity 1 by how much likelier it is than usual, at 0 by its probability; rules hold."""
    marginals = torch.tensor([[0.5, 0.3, 0.02, 1e-9]], dtype=torch.float64)
    edges, none = torch.empty((0, 2), dtype=torch.int64), marginals.new_empty(0)
    potentials = Potentials(marginals.logit(), edges, none)
    frequent = Decoder(Decision.TOP_K, k=1, frequencies=(0.5, 0.2, 0.01, 0.01))
    chosen = [
        decided(replace(frequent, rarity=rarity), potentials, Independent()).flatten().tolist()
        for rarity in (0, 0.7, 1)
    ]
    assert chosen == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    ruled = Potentials(marginals.logit(), edges, none, Rules(((2, 3),)))
    two = replace(frequent, k=2, rarity=1.0, frequencies=(0.5, 0.2, 1e-12, 1.0))
    assert decided(two, ruled).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("k", [1, 3])
def test_tuned_rarity_is_the_best_of_all(k: int) -> None:
    """No candidate has a higher F1 of the means, as `evaluate` has it; ties to the smallest."""
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.03, 0.02], dtype=torch.float64)
    targets = (torch.rand(80, 6, generator=generator) < frequencies).long()
    noise = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    marginals = (frequencies.logit() + 3 * (targets - frequencies) + noise).sigmoid()
    targets[::7, 0] = -1
    targets[:, 4] = 0

    def f1(rarity: float) -> float:
        order = np.argsort(-(marginals.log() - rarity * frequencies.log()).numpy())[:, :k]
        best = np.zeros(targets.shape, dtype=np.int64)
        np.put_along_axis(best, order, 1, axis=1)
        given = Predictions(marginals.numpy(), best, np.zeros(80), best=best)
        return gather_statistics(given, targets.numpy().astype(np.int8)).measures().f1_at_k or 0.0

    values = {step / 10: f1(step / 10) for step in range(21)}
    tuned = tune_rarity(marginals, targets, frequencies, k)
    assert tuned == min(one for one in values if values[one] > max(values.values()) - 1e-12)
    assert 0 < tuned < 2
    decoder = Decoder(Decision.TOP_K, k=k, rarity=None, frequencies=tuple(frequencies.tolist()))
    assert decoder.tune(marginals, targets) == replace(decoder, rarity=tuned)


def test_without_a_positive_rarity_is_zero() -> None:
    """Nothing to tune on changes nothing; shapes that do not fit are refused."""
    marginals, frequencies = torch.full((4, 2), 0.5), torch.full((2,), 0.1)
    assert tune_rarity(marginals, torch.zeros(4, 2).long(), frequencies, 1) == 0
    assert tune_rarity(marginals[:0], torch.zeros(0, 2).long(), frequencies, 1) == 0
    with pytest.raises(ProbabilitiesError, match=r"got \(4, 2\), \(4, 2\) and \(3,\)"):
        tune_rarity(marginals, torch.zeros(4, 2).long(), torch.full((3,), 0.1), 1)
