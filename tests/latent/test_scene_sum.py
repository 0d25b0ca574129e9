"""Mixtures over latent scenes, against sums over everything."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.inference import (
    Exact,
    Independent,
    JunctionTree,
    LogPartitionKind,
    MeanField,
)
from mlcrf.latent import ScenePotentials, SceneSum
from mlcrf.rules import Rules

LABELS, SCENES, PHOTOS = 4, 3, 5
STATES = torch.tensor(list(product((0, 1), repeat=LABELS)))


def make(coupled: bool, *, rules: bool = False, seed: int = 0) -> tuple[ScenePotentials, SceneSum]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    edges = full_edges(LABELS) if coupled else torch.empty((0, 2), dtype=torch.int64)
    rules = Rules(((1, 0),) if rules else ())
    mixture = ScenePotentials(
        normal(PHOTOS, LABELS),
        edges,
        normal(len(edges)),
        rules,
        normal(PHOTOS, SCENES),
        2 * normal(SCENES, LABELS),
    )
    emission = Exact() if coupled else JunctionTree() if rules else Independent()
    return mixture, SceneSum(emission)


def joint(mixture: ScenePotentials) -> Tensor:
    """p(z, y) of every photo by definition, (N, K, 2^L)."""
    unary = mixture.unary[:, None] + mixture.shifts
    flat = Potentials(unary.flatten(0, 1), mixture.edges, mixture.pairwise, mixture.rules)
    scores = flat.log_score(STATES[:, None].expand(-1, flat.num_images, -1)).T
    within = scores.softmax(-1).reshape(PHOTOS, SCENES, -1)
    return mixture.gates.softmax(-1).unsqueeze(-1) * within


CASES = [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(("coupled", "rules"), CASES)
def test_mixture_equals_enumeration(coupled: bool, rules: bool) -> None:
    """Marginals, scenes, and the probability of what is known."""
    mixture, method = make(coupled, rules=rules)
    p = joint(mixture)
    beliefs = method(mixture)
    expected = p.sum(1) @ STATES.double()
    torch.testing.assert_close(beliefs.marginals, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        beliefs.log_partition, torch.zeros(PHOTOS).double(), atol=1e-9, rtol=0
    )
    known = torch.full((PHOTOS, LABELS), -1)
    known[:, 2], known[1:, 0] = 1, 1
    fits = ((known[:, None] == -1) | (known[:, None] == STATES)).all(-1)
    left = p * fits[:, None]
    told = method(mixture, known=known)
    assert beliefs.log_partition_kind is told.log_partition_kind is LogPartitionKind.EXACT
    torch.testing.assert_close(told.log_partition, left.sum((1, 2)).log(), atol=1e-9, rtol=0)
    given = left / left.sum((1, 2), keepdim=True)
    torch.testing.assert_close(told.marginals, given.sum(1) @ STATES.double(), atol=1e-9, rtol=0)
    weights = method.scene_weights(mixture, known=known)
    torch.testing.assert_close(weights, given.sum(2), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("coupled", "rules"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_map_and_samples(coupled: bool, rules: bool, seed: int) -> None:
    """MAP is no worse than any set one label away; samples are as frequent as they are probable."""
    mixture, method = make(coupled, rules=rules, seed=seed)
    p = joint(mixture).sum(1)
    values = method.log_probability(mixture, STATES[:, None].expand(-1, PHOTOS, -1)).T
    torch.testing.assert_close(values.exp(), p, atol=1e-9, rtol=0)
    found = method.map_states(mixture)
    place = (found[:, None] == STATES).all(-1).int().argmax(-1)
    for photo in range(PHOTOS):
        near = (found[photo] != STATES).sum(1) <= 1
        assert p[photo, place[photo]] >= p[photo, near].max() - 1e-9
    drawn = method.sample(mixture, 20_000, torch.Generator().manual_seed(seed))
    codes = (drawn.long() * 2 ** torch.arange(LABELS - 1, -1, -1)).sum(-1)
    shares = torch.stack([torch.bincount(one, minlength=len(STATES)) for one in codes.T]) / 20_000
    assert float((shares - p).abs().max()) < 0.02


@pytest.mark.parametrize(("coupled", "rules"), CASES)
def test_climbing_ends_where_no_change_helps(coupled: bool, rules: bool) -> None:
    """From any states, by adding labels and taking them away; what is known stays."""
    mixture, method = make(coupled, rules=rules, seed=1)
    p = joint(mixture).sum(1)
    known = torch.full((PHOTOS, LABELS), -1)
    known[1:, 3] = torch.tensor([0, 1, 0, 1])
    fits = ((known[:, None] == -1) | (known[:, None] == STATES)).all(-1)
    for begun in STATES[STATES[:, 0] >= STATES[:, 1]]:  # as the rule has it
        states = torch.where(known == -1, begun, known)
        found = method._improve(mixture, states, known)
        place = (found[:, None] == STATES).all(-1).int().argmax(-1)
        for photo in range(PHOTOS):
            near = ((found[photo] != STATES).sum(1) <= 1) & fits[photo]
            assert fits[photo, place[photo]]
            assert p[photo, place[photo]] >= p[photo, near].max() - 1e-9


def test_an_estimate_within_scenes_makes_an_estimate() -> None:
    """The difference of two approximations is no bound, whatever each of them is."""
    mixture, _ = make(True)
    known = torch.full((PHOTOS, LABELS), -1)
    known[:, 0] = 1
    told = SceneSum(MeanField())(mixture, known=known)
    assert told.log_partition_kind is LogPartitionKind.ESTIMATE


def test_map_keeps_what_is_known() -> None:
    """Known labels stay in the most probable set and in samples."""
    mixture, method = make(True)
    known = torch.full((PHOTOS, LABELS), -1)
    known[:, 1], known[:, 3] = 0, 1
    drawn = method.sample(mixture, 50, torch.Generator().manual_seed(0), known=known)
    for states in (method.map_states(mixture, known=known), *drawn):
        assert bool((states[:, 1] == 0).all()) and bool((states[:, 3] == 1).all())


def test_a_mixture_has_no_score() -> None:
    """And shapes and types that do not fit are refused."""
    mixture, _ = make(False)
    with pytest.raises(PotentialsError, match="no log_score"):
        mixture.log_score(STATES[:1].expand(PHOTOS, -1))
    with pytest.raises(PotentialsError, match=r"gates: expected \(5, 3\), got \(4, 3\)"):
        ScenePotentials(
            mixture.unary,
            mixture.edges,
            mixture.pairwise,
            gates=mixture.gates[:4],
            shifts=mixture.shifts,
        )
    for name in ("gates", "shifts"):
        with pytest.raises(PotentialsError, match=f"{name}: expected .*float64 as unary, got .*16"):
            replace(mixture, **{name: getattr(mixture, name).half()})
