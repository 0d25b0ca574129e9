"""Sums with counts and triples equal those over all label sets, listed one by one."""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from experiments.beyond_pairwise import autoregressive, checks, fits
from experiments.beyond_pairwise.label_sets import HalfStates, HigherOrderCrf, Sums, all_triples
from experiments.beyond_pairwise.unaries import Photos

LABELS, PARTS = 5, ([3, 0], [4, 1, 2])


@pytest.fixture(name="crf")
def _crf() -> HigherOrderCrf:
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(20, LABELS, generator=generator).double()
    crf = HigherOrderCrf(odds, all_triples(LABELS))
    with torch.no_grad():
        for one in crf.parameters():
            one.add_(torch.randn(one.shape, generator=generator))
    return crf


@pytest.fixture(name="photos")
def _photos() -> Photos:
    generator = torch.Generator().manual_seed(1)
    odds = torch.randn(4, LABELS, generator=generator).double()
    targets = torch.tensor([[0] * LABELS, [1] * LABELS, [1, 0, 1, 1, 0], [0, 1, 0, 0, 0]])
    return Photos(odds, torch.zeros(4, 0), targets)


def _log_scores(crf: HigherOrderCrf, odds: Tensor) -> dict[tuple[int, ...], float]:
    """Return the log-score of every label set of one photo."""
    unary = crf.unary(odds[None])[0].tolist()
    pairs = dict(zip(combinations(range(LABELS), 2), crf.pairwise.tolist(), strict=True))
    triples = dict(zip(combinations(range(LABELS), 3), crf.triples.tolist(), strict=True))
    scores = {}
    for y in product((0, 1), repeat=LABELS):
        there = [label for label in range(LABELS) if y[label]]
        parts = [unary[one] for one in there]
        parts += [pairs[pair] for pair in combinations(there, 2)]
        parts += [triples[triple] for triple in combinations(there, 3)]
        scores[y] = math.fsum([*parts, crf.counts[len(there)].item()])
    return scores


def test_sums_equal_those_of_listed_sets(crf: HigherOrderCrf, photos: Photos) -> None:
    """Log Z, marginals, counts, expected F1, the best set and the score of the right one."""
    weights = Sums(crf, HalfStates.every(PARTS)).weigh(photos.odds)
    log_z, marginals, f1 = weights.log_partition(), weights.marginals(), weights.expected_f1
    counts, best, expected = weights.count_marginals(), weights.best(), f1(photos.targets)
    own = crf.log_score(photos.odds, photos.targets)
    for image, odds in enumerate(photos.odds):
        scores = _log_scores(crf, odds)
        total = math.fsum(map(math.exp, scores.values()))
        p = {y: math.exp(score) / total for y, score in scores.items()}
        right = tuple(photos.targets[image].tolist())
        assert log_z[image].item() == pytest.approx(math.log(total))
        assert own[image].item() == pytest.approx(scores[right])
        assert tuple(best[image].tolist()) == max(p, key=lambda y: p[y])
        for label in range(LABELS):
            each = [
                math.fsum(q for y, q in p.items() if y[label] and sum(y) == s) for s in range(6)
            ]
            assert counts[image, label].tolist() == pytest.approx(each)
            assert marginals[image, label].item() == pytest.approx(math.fsum(each))
        values = []
        for y, q in p.items():
            shared, sizes = sum(map(min, y, right)), sum(y) + sum(right)
            values.append(q * (2 * shared / sizes if sizes else 1))
        assert expected[image].item() == pytest.approx(math.fsum(values))


def test_a_fit_meets_the_moments_of_its_photos() -> None:
    """At a converged likelihood fit without penalties, expected statistics equal the observed."""
    generator = torch.Generator().manual_seed(3)
    odds = torch.randn(400, LABELS, generator=generator).double()
    targets = (torch.rand(400, LABELS, generator=generator) < (odds + 0.5).sigmoid()).long()
    many, states = Photos(odds, torch.zeros(400, 0), targets), HalfStates.every(PARTS)
    penalties = {"weight": 0.0, "bias": 0.0, "pairwise": 0.0, "triples": 0.0}
    start = HigherOrderCrf(odds, all_triples(LABELS))
    fit = fits.fit_terms(start, many, states, fits.Terms(penalties), many)
    assert fit.held_out[-1] < fit.held_out[0] and fit.best_step == len(fit.held_out) - 1
    fits.mean_loss(fit.crf, many, states, fits.set_loss, with_gradient=True)
    for name in penalties:
        slope = fit.crf.get_parameter(name).grad
        assert slope is not None and float(slope.abs().max()) < 5e-3
    assert not fit.crf.counts.any() and not start.pairwise.any()


def test_samples_have_the_probabilities(crf: HigherOrderCrf, photos: Photos) -> None:
    """Marginals of 20,000 samples, within five standard errors."""
    weights = Sums(crf, HalfStates.every(PARTS)).weigh(photos.odds)
    drawn = weights.sample(20_000, torch.Generator().manual_seed(2)).double().mean(0)
    p = weights.marginals().detach()
    assert ((drawn - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt() + 1e-6).all()


def test_no_likely_half_state_is_left_out(crf: HigherOrderCrf, photos: Photos) -> None:
    """The sum over kept states loses at most what was allowed of each half."""
    every = HalfStates.every(PARTS)
    whole = Sums(crf, every)
    kept = every.likely(whole, photos.odds, 0.05)
    assert len(kept.first) < 4 or len(kept.second) < 8
    shares = []
    for one, other in zip(
        Sums(crf, kept).weigh(photos.odds).log_partition().tolist(),
        whole.weigh(photos.odds).log_partition().tolist(),
        strict=True,
    ):
        shares.append(math.exp(one - other))
    assert 0.9 <= sum(shares) / len(shares) < 1


@pytest.mark.parametrize("loss", [fits.set_loss, fits.label_loss, fits.f1_loss])
def test_gradients_by_batches_are_those_of_the_loss(
    loss: fits.Loss, crf: HigherOrderCrf, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients equal quotients of differences, parameter by parameter."""
    states = HalfStates.every(PARTS)
    whole = loss(crf, Sums(crf, states).weigh(photos.odds), photos).item() / 4
    monkeypatch.setattr(fits, "_BATCH", 3)
    assert fits.mean_loss(crf, photos, states, loss, with_gradient=True) == pytest.approx(whole)
    slopes = [float(one.grad.flatten()[-1]) for one in crf.parameters() if one.grad is not None]
    for slope, one in zip(slopes, crf.parameters(), strict=True):
        where = one.data.flatten()
        at = where[-1].item()
        around = []
        for step in (1e-5, -1e-5):
            one.data.view(-1)[-1] = at + step
            around.append(fits.mean_loss(crf, photos, states, loss))
        one.data.view(-1)[-1] = at
        assert slope == pytest.approx((around[0] - around[1]) / 2e-5, abs=1e-7)


def test_drawn_data_look_like_themselves() -> None:
    """Data of the model have a mean z^2 near 1; data whose labels follow each other do not."""
    generator = torch.Generator().manual_seed(4)
    p = torch.full((2000, LABELS), 0.3)
    drawn = [torch.bernoulli(p, generator=generator).to(torch.int8) for _ in range(40)]
    same = checks.compare(drawn, torch.bernoulli(p, generator=generator))
    paired = torch.bernoulli(p, generator=generator)
    paired[:, 1] = paired[:, 0]
    other = checks.compare(drawn, paired)
    for kind in ("labels", "pairs", "triples", "counts"):
        assert same[kind]["mean_square"] < 3 and same[kind]["p"] > 0.05
        assert same[kind]["usual"] == pytest.approx(1, abs=0.25)
    assert other["labels"]["p"] > 0.05
    assert other["pairs"]["mean_square"] > 50 and other["pairs"]["p"] == 1 / 41
    assert same["triples"]["number"] == 10 and same["pairs"]["number"] == 10


def test_networks_are_distributions_and_see_no_later_label() -> None:
    """Probabilities of all label sets add up to 1, of one order and of a mixture."""
    generator = torch.Generator().manual_seed(5)
    odds = torch.randn(20, LABELS, generator=generator).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [
            autoregressive.AutoregressiveNetwork(odds, torch.randperm(LABELS)).eval()
            for _ in range(2)
        ]
        for one in networks:
            for parameter in one.parameters():
                parameter.data.normal_()
    every = torch.tensor(list(product((0, 1), repeat=LABELS)))
    log_p = autoregressive.mixture_log_prob(networks, odds[:1].expand(len(every), -1), every)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    drawn, p = autoregressive.draw(networks[0], odds[:1], 20_000, generator)
    exact = networks[0].log_prob(odds[:1].expand(len(every), -1), every).exp() @ every.float()
    for marginals in (drawn.float().mean(0)[0], p.mean(0)[0]):
        assert marginals.tolist() == pytest.approx(exact.tolist(), abs=0.02)
