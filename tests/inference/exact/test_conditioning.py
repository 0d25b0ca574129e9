"""Known labels are no part of the sum: what is left is as if they had never been there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference import Exact, JunctionTree, PreparedExact, enumeration, prepare
from mlcrf.inference.exact import conditioning
from mlcrf.inference.exact.conditioning import split_by_known
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials

RULES = Rules(((1, 0), (2, 0), (5, 3)))
NARROW = (Exact(max_labels=5, pairwise_marginals=True), JunctionTree(4, pairwise_marginals=True))
WIDE = Exact(pairwise_marginals=True)
EACH = pytest.mark.parametrize("method", NARROW, ids=lambda method: method.name)


def problem(*, varies: bool, ruled: bool) -> tuple[Potentials, Tensor]:
    """Twelve images of nine labels, of which three to nine are known."""
    made = make_potentials(12, 9, unary=2.0, pairwise=1.5, varies=varies)
    known = torch.cat(
        [draw_known(made.rows(slice(0, 3)), num_unknown=size, seed=size) for size in (5, 4, 2, 0)]
    )
    if not ruled:
        return made, known
    known[:, [1, 2, 5]] = known[:, [1, 2, 5]].clamp(max=0)  # no present child
    return Potentials(made.unary, made.edges, made.pairwise, RULES), known


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("ruled", [False, True])
@EACH
def test_beliefs_are_those_of_all_labels_clamped(method: Any, varies: bool, ruled: bool) -> None:
    """Too large as a whole, but not in its unknown labels, and for every kind of answer."""
    potentials, known = problem(varies=varies, ruled=ruled)
    with pytest.raises(TooManyLabelsError):
        method(potentials)
    ours, theirs = method(potentials, known=known), WIDE(potentials, known=known)
    off = 1e-12 if method.name == "exact" or not ruled else 1e-9
    close(ours.marginals, theirs.marginals, off)
    close(ours.log_partition, theirs.log_partition, 1e-11)
    close(ours.pairwise_marginals, theirs.pairwise_marginals, off)
    assert bool(ours.converged.all())
    closed = check_known(potentials, known)
    close(ours.marginals[closed >= 0], closed[closed >= 0].double(), 1e-15)
    best = method.map_states(potentials, known=known)
    assert torch.equal(best, WIDE.map_states(potentials, known=known))
    drawn = method.sample(potentials, 300, torch.Generator().manual_seed(0), known=known)
    assert bool(((drawn == closed) | (closed < 0)).all())
    close(drawn.double().mean(0), theirs.marginals, 0.15)


@pytest.mark.parametrize("ruled", [False, True])
def test_counts_include_the_known_labels(ruled: bool) -> None:
    """Counts are of the known labels that are present and of the labels that are left."""
    potentials, known = problem(varies=False, ruled=ruled)
    counts = NARROW[0].count_marginals(potentials, known=known)
    close(counts, WIDE.count_marginals(potentials, known=known), 1e-12)


@pytest.mark.parametrize("varies", [False, True])
@EACH
def test_gradients_pass_through_the_known_labels(method: Any, varies: bool) -> None:
    """Gradients of log Z in the unaries and couplings of known labels are their values."""
    made, known = problem(varies=varies, ruled=False)
    found = []
    for one in (method, WIDE):
        unary, pairwise = (x.clone().requires_grad_() for x in (made.unary, made.pairwise))
        log_partition = one(Potentials(unary, made.edges, pairwise), known=known).log_partition
        weights = torch.arange(1.0, 13).double()
        found.append(torch.autograd.grad(log_partition, (unary, pairwise), weights))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, 1e-10)


@EACH
def test_the_limit_is_on_the_unknown_labels(method: Any) -> None:
    """One image with six unknown labels is refused, as six labels are."""
    potentials, known = problem(varies=False, ruled=False)
    method(potentials, known=known)
    known[4] = -1
    known[4, :3] = 1
    message = {"exact": "exact inference over 6 labels", "junction-tree": "15 edges over 6 labels"}
    for call in (method, method.map_states):
        with pytest.raises(TooManyLabelsError, match=message[method.name]):
            call(potentials, known=known)


def test_forty_labels_of_which_twenty_five_are_known() -> None:
    """They are fifteen labels, for `prepare` and in float32 too."""
    potentials = make_potentials(3, 40, pairwise=0.3, dtype=torch.float32)
    known = draw_known(potentials, num_unknown=15)
    with pytest.raises(TooManyLabelsError, match="over 40 labels"):
        Exact()(potentials)
    method = prepare(Exact(), potentials)
    ours = method(potentials, known=known)
    close(ours.marginals, JunctionTree(15)(potentials, known=known).marginals, 1e-6)


@pytest.mark.parametrize("method", [Exact(), JunctionTree()], ids=lambda method: method.name)
def test_images_that_know_the_same_labels_are_one_group(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the values: two patterns and nothing known are three groups of all images."""
    potentials = make_potentials(30, 6)
    known = draw_known(potentials, num_unknown=0)
    known[::3, 2:] = -1
    known[1::3] = -1
    groups = split_by_known(potentials, known, lambda num_images, num_left: True)
    assert sorted(len(rest.images) for rest in groups) == [10, 10, 10]
    assert sorted(len(rest.labels) for rest in groups) == [1, 4, 6]  # a CRF has a label
    assert torch.cat([rest.images for rest in groups]).sort().values.tolist() == list(range(30))
    none = split_by_known(potentials, known, lambda num_images, num_left: False)
    assert [len(rest.labels) for rest in none] == [6]
    wanted, calls = method(potentials, known=known), []
    monkeypatch.setattr(conditioning, "condition", lambda *given: calls.append(given))
    assert torch.equal(method(potentials, known=known).marginals, wanted.marginals)
    assert not calls  # so little is clamped in place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prepared_kernel_is_left_out_where_much_is_known(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marginals and pairs are those of the kernel with known labels clamped."""
    potentials = make_potentials(12, 9, pairwise=1.5, dtype=dtype)
    known = torch.cat([draw_known(potentials, num_unknown=3)[:9], torch.full((3, 9), -1)])
    prepared = PreparedExact(Exact(), potentials)

    def answers() -> list[Tensor]:
        posterior = prepared(potentials, known=known)
        pairs = prepared.pair_marginals(potentials, known=known, leave_out=0.0)
        assert posterior.error_bound is not None
        return [posterior.marginals, posterior.log_partition, pairs, posterior.error_bound]

    clamped, made = answers(), []
    real: Callable[..., Any] = conditioning.condition
    monkeypatch.setattr(enumeration, "_OVERHEAD", -(2**20))
    monkeypatch.setattr(conditioning, "condition", lambda *x: made.append(x) or real(*x))
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    for ours, theirs in zip(answers(), clamped, strict=True):
        close(ours, theirs, tolerance)
    assert len(made) > 4
