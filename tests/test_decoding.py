"""Decisions: the same beliefs, different rules, different label sets."""

import torch

from mlcrf.choices import Decision
from mlcrf.crf import Potentials, full_edges
from mlcrf.decoding import decide
from mlcrf.inference import Exact


def test_threshold_and_map_differ_where_labels_exclude_each_other() -> None:
    """Two labels at 0.2 with a coupling of -3: no marginal reaches a half, yet one is likeliest."""
    potentials = Potentials(torch.tensor([[0.2, 0.2]]), full_edges(2), torch.tensor([-3.0]))
    exact = Exact()
    posterior = exact(potentials)
    by_threshold = decide(Decision.THRESHOLD, posterior, potentials, exact)
    by_map = decide(Decision.MAP, posterior, potentials, exact)
    assert by_threshold.tolist() == [[0, 0]]
    assert by_map.sum() == 1


def test_threshold_is_an_argument() -> None:
    """A lower threshold takes more labels."""
    potentials = Potentials(torch.tensor([[-1.0, 1.0]]), full_edges(2), torch.tensor([0.0]))
    posterior = Exact()(potentials)
    low = decide(Decision.THRESHOLD, posterior, potentials, Exact(), threshold=0.1)
    high = decide(Decision.THRESHOLD, posterior, potentials, Exact(), threshold=0.5)
    assert (low.tolist(), high.tolist()) == ([[1, 1]], [[0, 1]])
