"""Which method AUTO takes."""

import pytest
import torch

from mlcrf.crf import full_edges
from mlcrf.inference import make_exact

CHAIN = torch.stack([torch.arange(39), torch.arange(1, 40)], 1)


@pytest.mark.parametrize(
    ("num_labels", "edges", "limit", "name"),
    [
        (5, full_edges(5)[:0], 24, "independent"),
        (12, CHAIN[:11], 24, "exact"),  # few states
        (20, CHAIN[:19], 24, "junction-tree"),
        (20, full_edges(20), 24, "exact"),
        (40, CHAIN, 24, "junction-tree"),  # too many to enumerate
        (40, full_edges(40), 24, None),
        (11, full_edges(11), 10, None),  # a clique of eleven is out of reach too
        (11, full_edges(11), 11, "exact"),
    ],
)
def test_the_cheapest_exact_method(
    num_labels: int, edges: torch.Tensor, limit: int, name: str | None
) -> None:
    """The closed form, enumeration or a junction tree; none where none reaches."""
    method = make_exact(num_labels, edges, max_exact_labels=limit)
    assert (None if method is None else method.name) == name


def test_implications_count_as_couplings_and_save_states() -> None:
    """Rules alone are no independent model, and thirty labels in pairs are 3^15 states."""
    rules = torch.arange(30).view(-1, 2)
    free = full_edges(30)[:0]
    assert make_exact(30, free, max_exact_labels=24, implications=rules).name == "junction-tree"
    coupled = make_exact(30, full_edges(30), max_exact_labels=24, implications=rules)
    assert coupled.name == "exact"
