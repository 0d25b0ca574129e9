"""Split enumeration: the precision ladder, kernel blocks, samples, and what is too large."""

from itertools import product

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference import Exact
from mlcrf.inference import enumeration as exact
from mlcrf.inference.exact import completion, kernel
from mlcrf.inference.exact.moments import pair_sums
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.exact.sums import Scores, Sums
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import oracles

EXACT = Exact(pairwise_marginals=True)


def make_split(potentials: Potentials, first_level: int = 0) -> tuple[Split, Scores]:
    halves = Split(potentials.pairwise_matrix(), first_level=first_level)
    return halves, halves.scores(potentials.unary, torch.full(potentials.unary.shape, -1))


def half_masses(sums: Sums, half: int) -> Tensor:
    """Probabilities of one half's states, in the images' own order."""
    parts = list(sums.masses(half))
    result = torch.empty(len(sums.log_partition), parts[0][1].shape[1], dtype=torch.float64)
    for images, mass, total in parts:
        result[images] = mass.double() / total[:, None]
    return result


@pytest.mark.parametrize(
    ("coupling", "unary", "level"),
    [
        (-1.0, 0.5, 0),
        (-200.0, 100.0, 0),  # large, but mass is where the kernel is large
        (-200.0, 300.0, 1),  # the kernel is smallest where the mass is
        (300.0, -150.0, 1),  # the kernel does not fit in float32
        (-2000.0, 1000.0, 1),
        (-2000.0, 3000.0, 2),
        (2400.0, -1200.0, 2),  # nor in float64
    ],
)
def test_levels_are_reached(coupling: float, unary: float, level: int) -> None:
    """Float32 goes on to float64 and that to log space exactly where they must, and all agree."""
    potentials = Potentials(
        torch.tensor([[unary, unary + 0.5]], dtype=torch.float64),
        full_edges(2),
        torch.tensor([coupling], dtype=torch.float64),
    )
    halves, scores = make_split(potentials)
    sums = halves.sums(scores)
    assert sums.level.tolist() == [level]
    truth = oracles(potentials)
    close(sums.log_partition, expected(truth, "log_partition", potentials.unary), 1e-6)
    close(halves.marginals(sums), expected(truth, "marginals", potentials.unary), 1e-6)
    together = pair_sums(halves, [(scores, sums, torch.ones(1, dtype=torch.float64))])[0, 1]
    close(together, torch.tensor(truth[0].probability(0, 1), dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("num_labels", [2, 7])
def test_levels_agree(num_labels: int) -> None:
    """The same potentials give the same answers from each level up."""
    potentials = make_potentials(4, num_labels, unary=5.0, pairwise=4.0)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    answers = []
    for level in range(3):
        halves, scores = make_split(potentials, level)
        sums = halves.sums(scores)
        assert sums.level.tolist() == [level] * 4
        pairs = pair_sums(halves, [(scores, sums.without_arrays(), weights)])
        answers.append((sums.log_partition, half_masses(sums, 0), half_masses(sums, 1), pairs))
    for in_float32, in_float64, in_log_space in zip(*answers, strict=True):
        close(in_float32, in_log_space, 3e-6)
        close(in_float64, in_log_space, 1e-12)
    assert not torch.equal(answers[0][0], answers[2][0])


@pytest.mark.parametrize(("coupling", "levels"), [(-200.0, [0, 1, 0]), (-2000.0, [1, 2, 1])])
def test_a_batch_may_mix_levels(coupling: float, levels: list[int]) -> None:
    """Each image is done at the level it needs, and weighted pair sums run over all of them."""
    unary = -coupling * torch.tensor([[0.5, 0.5], [1.5, 1.5], [0.5, -0.1]], dtype=torch.float64)
    pairwise = torch.tensor([coupling], dtype=torch.float64)
    potentials = Potentials(unary + 0.2, full_edges(2), pairwise)
    halves, scores = make_split(potentials)
    sums = halves.sums(scores)
    assert sums.level.tolist() == levels
    truth = oracles(potentials)
    close(halves.marginals(sums), expected(truth, "marginals", unary), 1e-6)
    weights = [1.0, -2.0, 3.0]
    pairs = pair_sums(halves, [(scores, sums, torch.tensor(weights, dtype=torch.float64))])
    for i, j in product(range(2), repeat=2):
        wanted = sum(w * one.probability(i, j) for w, one in zip(weights, truth, strict=True))
        assert float(pairs[i, j]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_kernel_blocks(monkeypatch: pytest.MonkeyPatch, level: int, kept: bool) -> None:
    """A kernel in blocks, kept or made again, gives what the whole gives."""
    potentials = make_potentials(3, 7, pairwise=2.0)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    halves, scores = make_split(potentials, level)
    whole = halves.sums(scores)
    pairs = pair_sums(halves, [(scores, whole, weights)])
    half_a, half_b = halves.half_a, halves.half_b
    exponents = (half_a.states - 0.5) @ halves.between @ (half_b.states - 0.5).T
    exponents += half_a.joint[:, None] + half_b.joint
    # three of the eight rows of 16 at once, the last block two
    monkeypatch.setattr(kernel, "_BLOCK", 48)
    monkeypatch.setattr(kernel, "_KEEP", 128 if kept else 127)
    monkeypatch.setattr(kernel, "_AT_ONCE", 48)
    halves, scores = make_split(potentials, level)
    assert [rows.stop for rows in halves.kernel.blocks] == [8] if kept else [3, 6, 8]
    for _ in range(2):  # the second time from what was kept
        blocks = [halves.kernel.block(r, torch.float64).clone() for r in halves.kernel.blocks]
        close(torch.cat(blocks), exponents.exp(), 1e-12)
        sums = halves.sums(scores)
        close(sums.log_partition, whole.log_partition, 1e-6)
        for half in (0, 1):
            close(half_masses(sums, half), half_masses(whole, half), 1e-6)
        close(pair_sums(halves, [(scores, sums.without_arrays(), weights)]), pairs, 1e-6)


@pytest.mark.parametrize("size", [5.0, 15.0, 30.0])
def test_largest_kernel_without_mass(size: float) -> None:
    """A attracts B, yet mass lies where A is absent and B present, where the kernel is smallest."""
    half = 5
    edges = full_edges(2 * half)
    between = (edges[:, 0] < half) & (edges[:, 1] >= half)
    pairwise = torch.where(between, size, -size)  # inside a half labels repel
    matrix = Potentials(torch.zeros(1, 2 * half), edges, pairwise).pairwise_matrix()
    centre = torch.tensor([0.0] * half + [1.0] * half)
    noise = torch.randn(4, 2 * half, generator=torch.Generator().manual_seed(0))
    potentials = Potentials(noise - centre @ matrix, edges, pairwise)
    truth, posterior = oracles(potentials), EXACT(potentials)
    for one in truth:
        kernel_largest = one.probability(*range(2 * half))
        assert kernel_largest < 1e-6
        assert max(one.probabilities.values()) < 0.5
    close(posterior.marginals, expected(truth, "marginals", noise), 2e-6)
    # float32 scores of several hundred are not known better than this
    close(posterior.log_partition, expected(truth, "log_partition", noise), 1e-4)
    pairs = torch.tensor([one.pairwise_marginals(edges.tolist()) for one in truth])
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, pairs, 2e-6)


@pytest.mark.parametrize("num_labels", [13, 20])
def test_many_labels(num_labels: int) -> None:
    """With groups of labels that are not coupled, log Z is the sum of theirs."""
    groups = [list(range(start, num_labels, 3)) for start in range(3)]
    parts = [make_potentials(2, len(group), pairwise=2.0, seed=len(group)) for group in groups]
    unary = torch.empty(2, num_labels, dtype=torch.float64)
    edges = []
    for group, part in zip(groups, parts, strict=True):
        unary[:, group] = part.unary
        edges.append(torch.tensor(group)[part.edges])
    whole = Potentials(unary, torch.cat(edges), torch.cat([part.pairwise for part in parts]))
    posterior, best = EXACT(whole), EXACT.map_states(whole)
    truth = [oracles(part) for part in parts]
    for image in range(2):
        log_z = sum(group[image].log_partition for group in truth)
        assert float(posterior.log_partition[image]) == pytest.approx(log_z, abs=1e-10)
        score = sum(group[image].best_score for group in truth)
        assert float(whole.log_score(best)[image]) == pytest.approx(score, abs=1e-10)
        for labels, group in zip(groups, truth, strict=True):
            wanted = torch.tensor(group[image].marginals, dtype=torch.float64)
            close(posterior.marginals[image, labels], wanted, 1e-10)


@pytest.mark.parametrize("num_unknown", [6, 3])
def test_images_in_chunks(monkeypatch: pytest.MonkeyPatch, num_unknown: int) -> None:
    """Images handled a few at a time have the answers, gradient and best states of all at once."""
    made = make_potentials(10, 6, pairwise=2.0)
    known = draw_known(made, num_unknown=num_unknown)

    def everything() -> list[Tensor]:
        pairwise = made.pairwise.clone().requires_grad_()
        potentials = Potentials(made.unary, made.edges, pairwise)
        posterior = EXACT(potentials, known=known)
        weights = torch.arange(10.0, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(posterior.log_partition, pairwise, weights)
        assert posterior.pairwise_marginals is not None
        pairs = posterior.pairwise_marginals
        best = EXACT.map_states(potentials, known=known).double()
        return [posterior.marginals, posterior.log_partition.detach(), pairs, gradient, best]

    whole = everything()
    monkeypatch.setattr(exact, "_CHUNK_ENTRIES", 24)  # three images of 2^3 half-states
    for one, all_at_once in zip(everything(), whole, strict=True):
        close(one, all_at_once, 1e-12)


@pytest.mark.parametrize("in_range", [300.0, 0.0])
@pytest.mark.parametrize("clamp", [False, True])
def test_samples_have_the_frequencies_of_their_probabilities(
    monkeypatch: pytest.MonkeyPatch, clamp: bool, in_range: float
) -> None:
    """Pearson's statistic over all states is below its 99.9 % quantile; known labels are kept."""
    monkeypatch.setattr(completion, "_IN_RANGE", in_range)  # 0: in log space
    one = make_potentials(1, 4, pairwise=1.5)
    known = torch.tensor([[-1, 1, -1, -1] if clamp else [-1] * 4])
    batch = Potentials(one.unary.expand(3000, -1), one.edges, one.pairwise)
    generator = torch.Generator().manual_seed(0)
    drawn = EXACT.sample(batch, 4, generator, known=known.expand(3000, -1))
    assert drawn.shape == (4, 3000, 4)
    assert drawn.dtype == torch.uint8
    states, counts = drawn.reshape(-1, 4).unique(dim=0, return_counts=True)
    probabilities = oracles(one, known)[0].probabilities
    observed = dict(zip(map(tuple, states.tolist()), counts.tolist(), strict=True))
    assert observed.keys() <= probabilities.keys()
    assert min(probabilities.values()) * 12000 > 5  # or the statistic would not be chi-square
    statistic = sum(
        (observed.get(state, 0) - 12000 * p) ** 2 / (12000 * p)
        for state, p in probabilities.items()
    )
    assert statistic < chi2.ppf(0.999, len(probabilities) - 1)
    again = EXACT.sample(batch, 4, torch.Generator().manual_seed(0), known=known.expand(3000, -1))
    assert torch.equal(again, drawn)


@pytest.mark.parametrize("size", [2.0, 30.0, 400.0])
def test_samples_are_drawn_alike_in_log_space(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """The same draws outside of log space, where that is chosen; the likeliest state prevails."""
    potentials = make_potentials(20, 9, unary=50.0, pairwise=size)
    chosen = EXACT.sample(potentials, 30, torch.Generator().manual_seed(0))
    monkeypatch.setattr(completion, "_IN_RANGE", 0.0)
    assert torch.equal(EXACT.sample(potentials, 30, torch.Generator().manual_seed(0)), chosen)
    usual = chosen.double().mean(0)
    close(usual, EXACT(potentials).marginals, 0.5)


def test_too_many_labels() -> None:
    """More labels than allowed are refused before anything is enumerated, with what to do."""
    potentials = make_potentials(1, 5)
    small = Exact(max_labels=4)
    calls = (
        lambda: small(potentials),
        lambda: small.map_states(potentials),
        lambda: small.sample(potentials, 1, torch.Generator()),
    )
    for call in calls:
        with pytest.raises(TooManyLabelsError, match=r"2\*\*5 states; the limit is 2\*\*4\. Use"):
            call()
    assert Exact(max_labels=5)(potentials).marginals.shape == (1, 5)
