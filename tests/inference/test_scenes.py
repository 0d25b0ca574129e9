"""Mixtures over latent scenes and albums of them, against sums over everything."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, ScenePotentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.implications import Implications
from mlcrf.inference import (
    Exact,
    Independent,
    JunctionTree,
    LogPartitionKind,
    MeanField,
    SceneChain,
    SceneSum,
    with_album,
)

LABELS, SCENES, PHOTOS = 4, 3, 5
STATES = torch.tensor(list(product((0, 1), repeat=LABELS)))


def make(coupled: bool, *, rules: bool = False, seed: int = 0) -> tuple[ScenePotentials, SceneSum]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    edges = full_edges(LABELS) if coupled else torch.empty((0, 2), dtype=torch.int64)
    implications = Implications(((1, 0),) if rules else ())
    mixture = ScenePotentials(
        normal(PHOTOS, LABELS),
        edges,
        normal(len(edges)),
        implications,
        normal(PHOTOS, SCENES),
        2 * normal(SCENES, LABELS),
    )
    emission = Exact() if coupled else JunctionTree() if rules else Independent()
    return mixture, SceneSum(emission)


def joint(mixture: ScenePotentials) -> Tensor:
    """p(z, y) of every photo by definition, (N, K, 2^L)."""
    unary = mixture.unary[:, None] + mixture.shifts
    flat = Potentials(unary.flatten(0, 1), mixture.edges, mixture.pairwise, mixture.implications)
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
        found = method._climb(mixture, states, known)
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


def test_chain_equals_enumeration() -> None:
    """Forward-backward sums over every sequence of scenes."""
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(2, PHOTOS, SCENES, generator=draw, dtype=torch.float64)
    chain = SceneChain(torch.randn(SCENES, SCENES, generator=draw, dtype=torch.float64))
    paths = torch.tensor(list(product(range(SCENES), repeat=PHOTOS)))
    steps = chain.transitions[paths[:, :-1], paths[:, 1:]].sum(1)
    values = scores[:, torch.arange(PHOTOS), paths].sum(-1) + steps
    torch.testing.assert_close(chain.log_partition(scores), values.logsumexp(-1))
    weights = values.softmax(-1)
    expected = torch.zeros_like(scores)
    for scene in range(SCENES):
        expected[..., scene] = weights @ (paths == scene).double()
    torch.testing.assert_close(chain.marginals(scores), expected)


def test_album_equals_enumeration() -> None:
    """Photos of an album, some labels known: every scene of every photo summed over."""
    mixture, method = make(False)
    chain = SceneChain(
        torch.randn(SCENES, SCENES, generator=torch.Generator().manual_seed(2)).double()
    )
    known = torch.full((PHOTOS, LABELS), -1)
    known[0, 0], known[3] = 1, torch.tensor([1, 0, 0, 1])
    p = joint(mixture)
    fits = ((known[:, None] == -1) | (known[:, None] == STATES)).all(-1)
    told = (p * fits[:, None]).sum(-1)
    paths = torch.tensor(list(product(range(SCENES), repeat=PHOTOS)))
    steps = chain.transitions[paths[:, :-1], paths[:, 1:]].sum(1)
    log_weight = told.log()[torch.arange(PHOTOS), paths].sum(-1) + steps
    weight = log_weight.softmax(-1)
    within = (p * fits[:, None]) @ STATES.double() / told.unsqueeze(-1)
    chosen = within[torch.arange(PHOTOS), paths]
    expected = (weight[:, None, None] * chosen).sum(0)
    heard = with_album(mixture, method, chain, known=known)
    torch.testing.assert_close(method(heard, known=known).marginals, expected, atol=1e-9, rtol=0)


def test_without_transitions_photos_are_apart() -> None:
    """A chain whose transitions are equal changes nothing."""
    mixture, method = make(False)
    chain = SceneChain(torch.full((SCENES, SCENES), 0.7).double())
    heard = with_album(mixture, method, chain)
    torch.testing.assert_close(method(heard).marginals, method(mixture).marginals)


def test_a_mixture_has_no_score() -> None:
    """And shapes that do not fit are refused."""
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
