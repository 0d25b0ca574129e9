"""The method that AUTO takes."""

import pytest
import torch

from mlcrf.choices import InferenceName
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import make_exact, make_inference
from mlcrf.rules import Rules
from tests.making import close

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


@pytest.mark.parametrize(
    ("num_labels", "edges", "limit", "name"),
    [
        (5, full_edges(5)[:0], 24, "independent"),
        (12, full_edges(12), 24, "junction-tree"),  # all images at once
        (14, full_edges(14), 24, "junction-tree"),
        (15, full_edges(15), 24, None),
        (14, full_edges(14), 13, None),
        (40, CHAIN, 24, "junction-tree"),
    ],
)
def test_couplings_that_vary_are_not_enumerated(
    num_labels: int, edges: torch.Tensor, limit: int, name: str | None
) -> None:
    """A junction tree up to 14 labels that are all coupled, else nothing exact: Gibbs."""
    method = make_exact(num_labels, edges, max_exact_labels=limit, varies_by_image=True)
    assert (None if method is None else method.name) == name
    chosen = make_inference(
        InferenceName.AUTO,
        num_labels=num_labels,
        edges=edges,
        max_exact_labels=limit,
        varies_by_image=True,
    )
    assert chosen.name == (name or "exact-or-gibbs")
    if chosen.name == "junction-tree":  # it reaches as far as it was chosen for
        unary = torch.zeros(2, num_labels)
        posterior = chosen(Potentials(unary, edges, torch.zeros(2, len(edges))))
        close(posterior.log_partition, num_labels * torch.tensor([2.0, 2.0]).log(), 1e-5)


def test_implications_count_as_couplings_and_save_states() -> None:
    """Rules alone are no independent model, and thirty labels in pairs are 3^15 states."""
    rules = Rules(tuple((at, at + 1) for at in range(0, 30, 2)))
    free = full_edges(30)[:0]
    assert make_exact(30, free, max_exact_labels=24, rules=rules).name == "junction-tree"
    coupled = make_exact(30, full_edges(30), max_exact_labels=24, rules=rules)
    assert coupled.name == "exact"
