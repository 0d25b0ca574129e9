"""The most probable label vectors: the best where promised, else local maxima."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch

from mlcrf.inference import Exact
from tests.inference.methods import ANY, EXACT, ROWS, Row, enumerated, make
from tests.making import close, draw_known, make_potentials


@dataclass(frozen=True)
class Finder:
    """A method, whether its states are the best, and a graph that it takes."""

    method: Any
    name: str
    is_best: bool
    graph: str = "six labels"


def finder(row: Row) -> Finder:
    graph = "six labels" if row.takes is ANY else "no edge"
    method = replace(row.method, chains=30) if row.random else row.cut(100)
    return Finder(method, row.method.name, row.log_z is EXACT, graph)


FINDERS = list(map(finder, ROWS))
EVERY = pytest.mark.parametrize("finder", FINDERS, ids=[one.name for one in FINDERS])
RULES = [(1, 0), (2, 0)]


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@EVERY
def test_map_states(finder: Finder, size: float, clamp: bool) -> None:
    """They keep what is known, score no more than the oracle's best, and no flip betters them.

    With rules between labels where some are known, so that a broken one would show in the score.
    """
    rules = RULES if clamp and finder.graph != "no edge" else ()
    potentials = make(finder.graph, 8, unary=3.0, pairwise=size, rules=rules, varies=clamp)
    known = draw_known(potentials, num_unknown=3 if clamp else potentials.num_labels)
    if rules:
        known[:, 0] = torch.where((known[:, 1:3] == 1).any(1), 1, known[:, 0])
    states = finder.method.map_states(potentials, known=known)
    assert states.dtype == torch.int64
    assert bool(((states == known) | (known == -1)).all())
    score, best = potentials.log_score(states), enumerated(potentials, known).best_score
    assert bool((score <= best + 1e-9).all())
    if finder.is_best:
        close(score, best, 1e-9)
    for label in range(potentials.num_labels):
        turned = states.clone()
        free = known[:, label] == -1
        turned[:, label] = torch.where(free, 1 - turned[:, label], known[:, label])
        assert bool((potentials.log_score(turned) <= score + 1e-9).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EVERY
def test_states_at_large_potentials(finder: Finder, dtype: torch.dtype) -> None:
    """Unaries of 50 and couplings of 30, in either type, are no harder than others."""
    made = make(finder.graph, 8, unary=50.0, pairwise=30.0, dtype=dtype)
    states, truth = finder.method.map_states(made), enumerated(made)
    score = made.log_score(states)
    assert bool((score <= truth.best_score + 1e-3).all())
    assert bool((score > truth.best_score - (1e-3 if finder.is_best else 60)).all())


@pytest.mark.parametrize(("unary", "pairwise"), [(0.2, 0.1), (1.0, 0.6)])
def test_the_best_is_far_down_among_half_states(unary: float, pairwise: float) -> None:
    """With almost equally probable sets the best half-state need not be likely."""
    potentials = make_potentials(100, 12, unary=unary, pairwise=pairwise)
    states = torch.tensor(list(product((0, 1), repeat=12)))
    best = potentials.log_score(states[:, None].expand(-1, 100, -1)).amax(0)
    close(potentials.log_score(Exact().map_states(potentials)), best, 1e-9)


def test_draws_where_one_set_has_all_the_mass() -> None:
    """Couplings too large for exponents outside of log space."""
    potentials = make_potentials(20, 10, unary=3000.0, pairwise=900.0)
    exact = Exact()
    drawn = exact.sample(potentials, 20, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.long(), exact.map_states(potentials).expand(20, -1, -1))
