"""Decisions: the same beliefs, different rules, different label sets."""

from dataclasses import replace

import pytest
import torch

from mlcrf.choices import Decision
from mlcrf.crf import Potentials, full_edges
from mlcrf.decoding import Decoder
from mlcrf.inference import Gibbs, Independent, InferenceMethod, MeanField
from mlcrf.rules import Rules
from tests.decoding import brute
from tests.decoding.methods import ORACLE, READY, Enumeration, Plain, Sampling, decided
from tests.making import draw_known, make_potentials
from tests.oracle import oracles

# drawn in the order of the images, or chosen for all images together
OF_A_BATCH = {Decision.EXPECTED_JACCARD, Decision.F1_OF_MEANS}
CHAIN = Rules(((0, 1), (1, 2), (4, 2)))  # 0 implies 1, 1 and 4 imply 2


def excluding(*unary: float, coupling: float = -3.0) -> Potentials:
    labels = len(unary)
    pairwise = torch.full((labels * (labels - 1) // 2,), coupling)
    return Potentials(torch.tensor([unary]), full_edges(labels), pairwise)


def test_threshold_and_map_differ_where_labels_exclude_each_other() -> None:
    """Two labels at 0.2 with a coupling of -3: no marginal reaches a half, yet one is likeliest."""
    potentials = excluding(0.2, 0.2)
    assert decided(Decoder(), potentials).tolist() == [[0, 0]]
    assert decided(Decoder(Decision.MAP), potentials).sum() == 1


def test_thresholds_are_compared_label_by_label() -> None:
    """One threshold a label, strictly exceeded, in the precision of the threshold."""
    unary = torch.logit(torch.tensor([[0.3, 0.3, 0.6]], dtype=torch.float64))
    potentials = Potentials(unary, torch.empty((0, 2), dtype=torch.int64), unary.new_empty(0))
    decoder = Decoder(Decision.LABEL_THRESHOLDS, (0.29, 0.31, 0.61))
    assert decided(decoder, potentials, Independent()).tolist() == [[1, 0, 0]]
    posterior = replace(
        Independent()(potentials), marginals=torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float32)
    )
    at = [float(p) for p in posterior.marginals[0]]
    same = Decoder(Decision.LABEL_THRESHOLDS, (at[0], at[1], at[2] - 1e-9))
    assert same(posterior, potentials, Independent()).tolist() == [[0, 0, 1]]


# what a rule maximises, whether from samples, and within which limits it says so
BEST_AT = [
    (Decision.THRESHOLD, "fewest wrong labels", False, [(0, None), (2, 3), (3, None)]),
    (Decision.MAP, "nothing wrong", False, [(0, None)]),
    (Decision.EXPECTED_F1, "f1", False, [(0, None), (2, 3), (3, None)]),
    (Decision.EXPECTED_F1, "f1", True, [(0, None), (2, 3)]),
    (Decision.EXPECTED_JACCARD, "jaccard", True, [(0, None), (2, 3), (3, None)]),
    (Decision.TOP_K, "labels in common", False, [(k, k) for k in (1, 2, 3)]),
]


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("num_labels", [4, 7, 10])
@pytest.mark.parametrize(("rule", "measure", "sampled", "limits"), BEST_AT)
def test_every_rule_is_the_best_of_all_label_sets(
    rule: Decision,
    measure: str,
    sampled: bool,
    limits: list[tuple[int, int | None]],
    num_labels: int,
    clamp: bool,
) -> None:
    """At its own measure no set that may be chosen has a higher expectation."""
    images = 3 if num_labels < 10 else 1
    potentials = make_potentials(images, num_labels, unary=1.5, pairwise=1.0)
    known = draw_known(potentials, num_unknown=num_labels - clamp)
    truth, posterior = oracles(potentials, known), ORACLE(potentials, known=known)
    samples = brute.draw(potentials, 50, known)
    inference = Plain() if sampled else ORACLE
    if sampled:
        posterior = replace(posterior, samples=samples, marginals=samples.double().mean(0))
    for least, most in limits:
        if rule is Decision.TOP_K:
            decoder = Decoder(rule, k=least)
        else:
            decoder = Decoder(rule, at_least=least, at_most=most)
        states = decoder(posterior, potentials, inference, known=known)
        for image, one in enumerate(truth):
            among = brute.admissible_states(known[image].tolist(), potentials.rules, least, most)
            mass = brute.shares(samples[:, image]) if sampled else one.probabilities
            assert tuple(states[image].tolist()) in among
            best = brute.best_expectation(measure, mass, among)
            assert brute.expectation(measure, mass, states[image]) > best - 1e-6


@pytest.mark.parametrize("inference", [Enumeration(), Sampling(), MeanField(), Gibbs(sweeps=10)])
@pytest.mark.parametrize("limits", [(0, None), (2, 3), (6, None), (0, 0)])
@pytest.mark.parametrize("rule", Decision)
def test_known_labels_and_implications_are_respected(
    rule: Decision, limits: tuple[int, int | None], inference: InferenceMethod
) -> None:
    """Under every rule: known labels as they are, parents with children, limits where they can."""
    made = make_potentials(5, 6, unary=2.0, pairwise=1.0)
    potentials = Potentials(made.unary, made.edges, made.pairwise, CHAIN)
    if isinstance(inference, Gibbs):
        potentials = potentials.as_couplings()
    known = draw_known(made, num_unknown=4)
    known[known[:, 1] == 0, 0] = 0
    known[known[:, 2] == 0] = torch.where(
        (torch.arange(6) == 3) | (torch.arange(6) == 5), known[known[:, 2] == 0], 0
    )
    known[:, 2] = torch.where((known[:, [0, 1, 4]] == 1).any(1), 1, known[:, 2])
    known[:, 1] = torch.where(known[:, 0] == 1, 1, known[:, 1])
    if not rule.has_k:
        decoder = replace(READY[rule], at_least=limits[0], at_most=limits[1])
    elif limits[1] is None:
        decoder = Decoder(rule, k=limits[0])
    else:
        decoder = Decoder(rule, k=limits[1])
    least = decoder.at_least if decoder.k is None else decoder.k
    most = decoder.at_most if decoder.k is None else decoder.k
    states = decided(decoder, potentials, inference, known)
    assert states.dtype == torch.int64
    for image in range(5):
        clamped = known[image].tolist()
        agree = brute.admissible_states(clamped, potentials.rules)
        assert tuple(states[image].tolist()) in agree
        sizes = {sum(state) for state in agree}
        size = int(states[image].sum())
        assert size >= min(least, max(sizes))
        assert most is None or size <= max(most, min(sizes))


@pytest.mark.parametrize("rule", [Decision.THRESHOLD, Decision.MAP])
def test_limits_keep_and_add_by_marginal(rule: Decision) -> None:
    """Too many: the likeliest of them stay. Too few: the likeliest others come."""
    potentials = make_potentials(20, 6, unary=2.0, pairwise=1.0)
    marginals = ORACLE(potentials).marginals
    free = decided(READY[rule], potentials)
    few = decided(replace(READY[rule], at_most=2), potentials)
    many = decided(replace(READY[rule], at_least=4), potentials)
    assert int(free.sum(1).max()) > 2
    assert int(free.sum(1).min()) < 4
    for image in range(20):
        chosen = free[image].nonzero().flatten().tolist()
        likeliest = sorted(range(6), key=lambda label: -float(marginals[image, label]))
        kept = [label for label in likeliest if label in chosen][:2]
        assert few[image].nonzero().flatten().tolist() == sorted(kept)
        others = [label for label in likeliest if label not in chosen]
        added = chosen + others[: max(0, 4 - len(chosen))]
        assert many[image].nonzero().flatten().tolist() == sorted(added)


@pytest.mark.parametrize("rule", Decision)
def test_many_labels(rule: Decision) -> None:
    """Hundreds of labels on a sparse graph, of which few are present, are decided in moments."""
    num_labels, generator = 300, torch.Generator().manual_seed(0)
    unary = torch.randn(3, num_labels, generator=generator) - 4
    first = torch.arange(num_labels - 1)
    edges = torch.stack([first, first + 1], 1)
    pairwise = torch.rand(len(edges), generator=generator)
    rules = Rules.from_array(edges[:3].numpy())
    potentials = Potentials(unary, edges, pairwise, rules)
    known = torch.full_like(unary, -1).long()
    known[:, 7] = 1
    decoder = READY[rule]
    if rule is Decision.LABEL_THRESHOLDS:
        decoder = Decoder(rule, (0.3,) * num_labels)
    states = decided(decoder, potentials, MeanField(), known)
    assert bool((states[:, 7] == 1).all())
    assert bool((states[:, edges[:3, 0]] <= states[:, edges[:3, 1]]).all())
    assert 3 <= int(states.sum()) < 100


@pytest.mark.parametrize("rule", Decision)
def test_no_image_and_one_label(rule: Decision) -> None:
    """A batch of none gives none; a single label is decided too."""
    none = make_potentials(0, 6)
    for inference in (Enumeration(), Sampling(), MeanField()):
        assert decided(READY[rule], none, inference).shape == (0, 6)
    one = Potentials(
        torch.tensor([[-2.0], [2.0]]), torch.empty((0, 2), dtype=torch.int64), torch.empty(0)
    )
    decoder = READY[rule]
    if rule is Decision.LABEL_THRESHOLDS:
        decoder = Decoder(rule, (0.5,))
    if rule.has_k:
        assert decided(Decoder(rule, k=1), one).tolist() == [[1], [1]]
    else:
        assert decided(decoder, one).tolist() == [[0], [1]]
        assert decided(decoder, one, Independent()).tolist() == [[0], [1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("rule", Decision)
def test_extreme_potentials(rule: Decision, varies: bool, dtype: torch.dtype) -> None:
    """Unaries of 50 and couplings of 30 give label sets, in both precisions."""
    made = make_potentials(4, 6, unary=50.0, pairwise=30.0, varies=varies, dtype=dtype)
    for inference in (Enumeration(), Sampling(), MeanField(), Gibbs(sweeps=5, burn_in=2)):
        states = decided(READY[rule], made, inference)
        assert (states.dtype, states.shape) == (torch.int64, (4, 6))
        assert bool(((states == 0) | (states == 1)).all())


@pytest.mark.parametrize("rule", sorted(set(Decision) - OF_A_BATCH))
@pytest.mark.parametrize("varies", [False, True])
def test_a_batch_equals_its_rows(rule: Decision, varies: bool) -> None:
    """An image has the same label set alone as among others."""
    batch = make_potentials(6, 6, unary=1.5, varies=varies)
    known = draw_known(batch, num_unknown=5)
    whole = decided(READY[rule], batch, known=known)
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(decided(READY[rule], batch.rows(one), known=known[one]), whole[one])


def test_no_gradient_is_kept() -> None:
    """Deciding on potentials that are being trained works and remembers nothing."""
    made = make_potentials()
    potentials = Potentials(made.unary.requires_grad_(), made.edges, made.pairwise)
    posterior = MeanField()(potentials)
    for rule in (Decision.THRESHOLD, Decision.MAP, Decision.EXPECTED_F1, Decision.EXPECTED_JACCARD):
        assert not READY[rule](posterior, potentials, MeanField()).requires_grad
