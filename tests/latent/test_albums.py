"""Albums of images with latent scenes, against sums over everything."""

from itertools import product

import pytest
import torch

from mlcrf.latent import AlbumScores, SceneChain, fit_transitions, share_in_albums
from tests.latent.test_scene_sum import LABELS, PHOTOS, SCENES, STATES, joint, make


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
    heard = share_in_albums(mixture, method, chain.transitions, [range(PHOTOS)], known=known)
    torch.testing.assert_close(method(heard, known=known).marginals, expected, atol=1e-9, rtol=0)


def test_without_transitions_photos_are_apart() -> None:
    """A chain whose transitions are equal changes nothing."""
    mixture, method = make(False)
    transitions = torch.full((SCENES, SCENES), 0.7).double()
    heard = share_in_albums(mixture, method, transitions, [range(PHOTOS)])
    torch.testing.assert_close(method(heard).marginals, method(mixture).marginals)


def test_transitions_of_a_planted_chain_are_found() -> None:
    """Scenes that stay gain likelihood, those drawn apart do not."""
    draw = torch.Generator().manual_seed(0)
    scenes = torch.zeros(300, 8, dtype=torch.int64)
    for step in range(1, 8):
        stay = torch.rand(300, generator=draw) < 0.8
        other = torch.randint(3, (300,), generator=draw)
        scenes[:, step] = torch.where(stay, scenes[:, step - 1], other)
    for order, low, high in ((scenes, 0.1, 1.0), (scenes[:, torch.randperm(8)].clone(), -0.1, 1.0)):
        flat = order.flatten()
        gates = torch.full((len(flat), 3), 1 / 3, dtype=torch.float64).log()
        evidence = torch.nn.functional.one_hot(flat, 3).double() * 2
        places = (torch.arange(len(flat)).reshape(300, 8),)
        albums = AlbumScores(gates, evidence, places)
        transitions = fit_transitions(albums, penalty=1e-3)
        gain = float(albums.gain(SceneChain(transitions)))
        assert low < gain < high
        assert float(albums.gain(SceneChain(torch.zeros(3, 3).double()))) == pytest.approx(0)
    stays = transitions.diagonal().mean() - transitions.mean()
    assert stays > 0.3
