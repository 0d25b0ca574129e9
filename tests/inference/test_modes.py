"""Local search for label sets of high score, and what they say of log Z."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Bethe, Exact, LogPartitionKind, MeanField, Posterior, Tap
from mlcrf.inference.modes import (
    BELOW_A_SCORE,
    OTHER_END,
    check_fixed_point,
    is_below,
    iterated_conditional_modes,
    search_modes,
)


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


def test_searches_find_the_mode_on_the_other_side() -> None:
    """Labels that attract each other have two modes, and the better one is the best; else one."""
    edges = full_edges(5)
    unary = torch.tensor([[-9.0] * 5, [-7.0] * 5, [3.0] * 5], dtype=torch.float64)
    potentials = Potentials(unary, edges, torch.full((len(edges),), 4.0, dtype=torch.float64))
    start = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]])
    unknown = torch.full_like(start, -1)
    modes = search_modes(potentials, start, unknown)
    assert modes.nearest.tolist() == [[0] * 5, [0] * 5, [1] * 5]
    assert modes.other.tolist() == [[1] * 5, [1] * 5, [1] * 5]
    assert modes.best_score.tolist() == [0.0, 5.0, 55.0]
    known = unknown.clone()
    known[:, 2:4] = 0  # then three labels are too few to hold each other in the first image
    given = search_modes(potentials, start, known)
    assert (given.other != given.nearest).any(-1).tolist() == [False, True, False]
    assert given.best_score.tolist() == [0.0, 0.0, 21.0]


SEVERAL_ENDS = (MeanField(), MeanField(parallel=True), Tap(), Bethe())


@pytest.mark.parametrize("method", SEVERAL_ENDS, ids=[one.name for one in SEVERAL_ENDS])
def test_two_ends_of_equal_weight_are_no_convergence(method: Any) -> None:
    """All labels or none: as likely as each other, or one of them not worth mentioning."""
    edges = full_edges(14)
    pairwise = torch.full((len(edges),), 12 / 13, dtype=torch.float64)
    fields = torch.tensor([0.01, -0.01, -0.02, -0.6], dtype=torch.float64)
    potentials = Potentials(fields[:, None].expand(4, 14) - 6, edges, pairwise)
    posterior, once = method(potentials), replace(method, second_start=False)(potentials)
    truth = Exact()(potentials).marginals
    off = (posterior.marginals - truth).abs().amax(-1)
    assert bool((off[:3] > 0.3).all()) and float(off[3]) < 0.02
    assert bool(once.converged.all()) and not once.advice
    assert posterior.converged.tolist() == [False, False, False, True]
    said = (
        f"{method.name}: 1 of 4 images {BELOW_A_SCORE}, 3 {OTHER_END}; their probabilities may be"
    )
    assert posterior.advice.startswith(said)
    assert torch.equal(posterior.marginals, once.marginals)
    assert torch.equal(posterior.log_partition, once.log_partition)


def test_second_ends_count_by_their_weight() -> None:
    """The marginals of both ends together may be 0.01 from those of the first."""
    edges = full_edges(3)
    unary = torch.full((5, 3), -3.0, dtype=torch.float64)
    unary[4] = -20.0  # a single mode, from which nothing else is asked
    potentials = Potentials(unary, edges, torch.full((3,), 4.0, dtype=torch.float64))
    asked = []

    def end(log_z: list[float], marginal: list[float]) -> Posterior:
        return Posterior(
            marginals=torch.tensor(marginal).double()[:, None].expand(-1, 3),
            log_partition=torch.tensor(log_z).double(),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=torch.ones(len(log_z), dtype=torch.bool),
        )

    def infer(some: Potentials, known: Tensor, start: Tensor) -> Posterior:
        asked.append((some.unary, start))
        return end([8.0, 3.3, 3.5, 8.0], [0.009, 0.9, 0.9, 0.02])

    known = torch.full((5, 3), -1)
    first = end([8.0, 8.0, 8.0, 2.9, 8.0], [0.0, 0.0, 0.0, 0.0, 0.0])
    problems = check_fixed_point(first, potentials, known, infer)
    ((given, start),) = asked
    assert torch.equal(given, unary[:4]) and bool((start == 1).all())
    # sigmoid(-4.7) 0.9 = 0.0081, sigmoid(-4.5) 0.9 = 0.0099
    assert problems[OTHER_END].tolist() == [False, False, False, True, False]
    assert problems[BELOW_A_SCORE].tolist() == [False, False, False, True, False]
    nearer = end([8.0, 8.0, 7.9, 2.9, 8.0], [0.0, 0.0, 0.0, 0.01, 0.0])
    assert check_fixed_point(nearer, potentials, known, infer)[OTHER_END].tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_log_z_below_a_score_is_wrong_beyond_its_error() -> None:
    """Three standard errors and rounding are allowed for."""
    score = torch.tensor([10.0, 10.0, 10.0, 10.0])
    log_z = torch.tensor([9.99995, 9.9, 9.9, 9.9])
    assert is_below(log_z, score).tolist() == [False, True, True, True]
    error = torch.tensor([0.0, 0.03, 0.04, torch.inf], dtype=torch.float64)
    assert is_below(log_z, score, error).tolist() == [False, True, False, False]
