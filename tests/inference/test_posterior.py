"""Iterated conditional modes: each label in turn takes its likelier value."""

import pytest
import torch

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference.posterior import iterated_conditional_modes


def make_potentials(num_labels: int, num_edges: int | None, *, varies: bool) -> Potentials:
    drawn = torch.Generator().manual_seed(num_labels)
    edges = full_edges(num_labels)
    if num_edges is not None:
        edges = edges[torch.randperm(len(edges), generator=drawn)[:num_edges].sort().values]
    shape = (9, len(edges)) if varies else (len(edges),)
    unary = torch.randn(9, num_labels, generator=drawn, dtype=torch.float64)
    return Potentials(unary, edges, torch.randn(shape, generator=drawn, dtype=torch.float64))


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize(("num_labels", "num_edges"), [(10, None), (150, 600)])
def test_one_label_after_the_other(num_labels: int, num_edges: int | None, varies: bool) -> None:
    """It ends where a plain loop over all labels ends, and no single change is better."""
    potentials = make_potentials(num_labels, num_edges, varies=varies)
    drawn = torch.Generator().manual_seed(0)
    start = torch.randint(2, (9, num_labels), generator=drawn)
    known = torch.randint(-4, 2, (9, num_labels), generator=drawn).clamp(min=-1)
    free = known < 0
    y = start.where(free, known)
    for _ in range(100):
        before = y.clone()
        for label in range(num_labels):
            likelier = (potentials.conditional_logits(y)[:, label] > 0).long()
            y[:, label] = likelier.where(free[:, label], y[:, label])
        if torch.equal(y, before):
            break
    found = iterated_conditional_modes(potentials, start, known)
    assert torch.equal(found, y)
    assert torch.equal(found[~free], known[~free])
    signs = (potentials.conditional_logits(found) > 0).long()
    assert torch.equal(signs[free], found[free])
    assert bool(
        (potentials.log_score(found) >= potentials.log_score(start.where(free, known))).all()
    )
