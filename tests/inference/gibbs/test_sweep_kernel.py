"""The fast engine against the plain one draw by draw, and the random streams of both."""

import subprocess
import sys
from itertools import pairwise, product

import numba
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.inference.gibbs.chains import ChainRun, Engine, choose_engine, run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys, uniforms
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials
from tests.oracle import oracles


def sparse_potentials(num_images: int, num_labels: int, *, varies: bool = False) -> Potentials:
    """About ten neighbours a label."""
    generator = torch.Generator().manual_seed(2)
    edges = full_edges(num_labels)
    edges = edges[torch.rand(len(edges), generator=generator) < 10 / num_labels]
    unary = torch.randn(num_images, num_labels, generator=generator, dtype=torch.float64)
    shape = (num_images, len(edges)) if varies else (len(edges),)
    return Potentials(unary, edges, torch.randn(shape, generator=generator, dtype=torch.float64))


def start(potentials: Potentials, chains: int) -> Tensor:
    keys = stream_keys(9, torch.arange(potentials.num_images), chains=chains)
    return random_states(keys, potentials.num_labels)


def same(one: ChainRun, other: ChainRun, tolerance: float = 1e-6) -> None:
    """Assert the same states and samples, and probabilities but for rounding."""
    assert torch.equal(one.states, other.states)
    assert torch.equal(one.samples, other.samples)
    close(one.probabilities, other.probabilities, tolerance)


def test_which_engine() -> None:
    """The one that is asked for, else the fast one where it runs."""
    for device in (torch.device("cpu"), torch.device("cuda")):
        for engine in (Engine.NUMBA, Engine.TORCH):
            assert choose_engine(engine, device) is engine
    assert choose_engine(Engine.AUTO, torch.device("cpu")) is Engine.NUMBA
    assert choose_engine(Engine.AUTO, torch.device("cuda")) is Engine.TORCH


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.TORCH])
def test_a_million_sweeps_of_one_step(engine: Engine) -> None:
    """From each of the 2^3 states, one sweep leads to each other as often as it should."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0)
    states = list(product((0, 1), repeat=3))
    oracle = oracles(potentials)[0]
    exact = torch.ones(8, 8, dtype=torch.float64)
    for (at, one), (to, other) in product(enumerate(states), repeat=2):
        for label in range(3):
            p = oracle.conditional(label, (*other[:label], *one[label:]))
            exact[at, to] *= p if other[label] else 1 - p
    pi = torch.tensor(list(oracle.probabilities.values()), dtype=torch.float64)
    close(pi @ exact, pi, 1e-12)
    chains = 125_000
    begin = torch.tensor(states, dtype=torch.uint8).repeat_interleave(chains, 0)[:, None]
    ended = run_chains(potentials, begin, sweeps=1, seed=3, engine=engine).states[:, 0].long()
    reached = (ended * torch.tensor([4, 2, 1])).sum(1).reshape(8, chains)
    counts = torch.stack([torch.bincount(row, minlength=8) for row in reached]).double()
    statistic = ((counts - chains * exact).square() / (chains * exact)).sum()
    assert 1e-3 < chi2.sf(float(statistic), 8 * 7) < 1 - 1e-3


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "potentials",
    [
        make_potentials(3, 5, unary=2.0),
        make_potentials(3, 1),
        make_potentials(7, 24, unary=2.0),
        make_potentials(3, 6, unary=2.0, varies=True),
        make_potentials(2, 128, pairwise=0.1),
        sparse_potentials(2, 200),
        sparse_potentials(2, 150, varies=True),
        make_potentials(3, 8, unary=50.0, pairwise=30.0),
        make_potentials(3, 8, unary=2.0, pairwise=0.0),
    ],
    ids=["5", "1", "24", "varies", "128", "sparse", "sparse-varies", "large", "no-edge"],
)
def test_engines_draw_the_same(potentials: Potentials, known: bool) -> None:
    """The same labels in every chain, after every sweep."""
    values = draw_known(potentials, num_unknown=potentials.num_labels // 2 + 1) if known else None
    states = start(potentials, 21)
    runs = [
        run_chains(
            potentials,
            states,
            sweeps=7,
            first_sweep=100,
            known=values,
            thin=2,
            engine=engine,
        )
        for engine in (Engine.NUMBA, Engine.TORCH)
    ]
    same(*runs)
    assert runs[0].samples.shape == (3, 21, *potentials.unary.shape)
    assert not torch.equal(runs[0].states, states)
    if values is not None:
        clamped = torch.where(values == -1, runs[0].states, values)
        assert torch.equal(runs[0].states, clamped.to(torch.uint8))
        agree = (runs[0].probabilities == values) | (values == -1)
        assert bool(agree.all())


def test_implications_are_couplings() -> None:
    """Both engines sample the states that keep the rules."""
    made = make_potentials(3, 5)
    rules = Rules(((0, 1), (4, 1), (2, 0)))
    potentials = Potentials(made.unary, made.edges, made.pairwise, rules)
    states = start(potentials, 30)
    runs = [run_chains(potentials, states, sweeps=9, engine=e, thin=9) for e in Engine]
    for run in runs[1:]:
        same(runs[0], run, 1e-5)  # log-odds of 100 in float32
    for child, parent in rules.pairs:
        assert bool((runs[0].states[..., child] <= runs[0].states[..., parent]).all())


def test_probabilities_over_the_whole_range() -> None:
    """The polynomial is within 1.5e-7 of the probability, and of small ones within a millionth."""
    unary = torch.linspace(-86, 86, 20001)[:, None]
    potentials = Potentials(unary, full_edges(1), torch.empty(0))
    states = torch.zeros(1, *unary.shape, dtype=torch.uint8)
    p = run_chains(potentials, states, sweeps=1).probabilities.double()
    wanted = unary.double().sigmoid()
    close(p, wanted, 1.5e-7)
    close(p / wanted, torch.ones_like(p), 3e-6)


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.TORCH])
def test_averages_are_made_if_asked_for(engine: Engine) -> None:
    """Without them the draws are the same."""
    potentials = make_potentials(3, 6, unary=2.0)
    states = start(potentials, 50)
    one, other = (
        run_chains(potentials, states, sweeps=9, average=average, engine=engine)
        for average in (True, False)
    )
    assert torch.equal(one.states, other.states)
    assert bool(one.probabilities.isfinite().all())
    assert bool(other.probabilities.isnan().all())


def test_long_runs_add_up() -> None:
    """Probabilities of many sweeps are averaged as well as those of a few."""
    potentials = make_potentials(2, 4, unary=2.0)
    states = start(potentials, 3)
    whole = run_chains(potentials, states, sweeps=300, seed=1)
    total = torch.zeros_like(potentials.unary)
    for first in range(0, 300, 60):
        run = run_chains(potentials, states, sweeps=60, seed=1, first_sweep=first)
        states, total = run.states, total + run.probabilities / 5
    assert torch.equal(whole.states, states)
    close(whole.probabilities, total, 1e-7)


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.TORCH])
def test_chains_go_on(engine: Engine) -> None:
    """Four sweeps and then six are ten, if the six know that they are the fifth to the tenth."""
    potentials = make_potentials(3, 6, unary=2.0)
    states = start(potentials, 10)
    whole = run_chains(potentials, states, sweeps=10, engine=engine)
    first = run_chains(potentials, states, sweeps=4, engine=engine)
    second = run_chains(potentials, first.states, sweeps=6, first_sweep=4, engine=engine)
    assert torch.equal(second.states, whole.states)
    wrong = run_chains(potentials, first.states, sweeps=6, engine=engine)
    assert not torch.equal(wrong.states, whole.states)


@pytest.mark.parametrize("varies", [False, True])
def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch, varies: bool) -> None:
    """One thread or three give the same bits."""
    potentials = make_potentials(30, 6, varies=varies)
    states = start(potentials, 20)
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        torch.set_num_threads(threads)
        runs.append(run_chains(potentials, states, sweeps=5, thin=1))
    torch.set_num_threads(before)
    assert torch.equal(runs[0].states, runs[1].states)
    assert torch.equal(runs[0].samples, runs[1].samples)
    assert torch.equal(runs[0].probabilities, runs[1].probabilities)


@pytest.mark.parametrize("varies", [False, True])
def test_what_is_beside_does_not_matter(varies: bool) -> None:
    """An image has the same bits alone as in a batch, if it keeps its number; so has a chain."""
    potentials = make_potentials(30, 6, varies=varies)
    states = start(potentials, 20)
    whole = run_chains(potentials, states, sweeps=5)
    some = torch.tensor([17, 3])
    alone = run_chains(potentials.rows(some), states[:, some], sweeps=5, images=some)
    assert torch.equal(alone.states, whole.states[:, some])
    close(alone.probabilities, whole.probabilities[some], 1e-15)
    fewer = run_chains(potentials, states[:7], sweeps=5)
    assert torch.equal(fewer.states, whole.states[:7])
    other = run_chains(potentials, states, sweeps=5, seed=1)
    assert not torch.equal(other.states, whole.states)


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.TORCH])
def test_known_labels_never_move(engine: Engine) -> None:
    """In half a million draws, even where everything speaks against them."""
    unary = torch.tensor([[50.0, -50.0, 0.0]])
    potentials = Potentials(unary, full_edges(3), torch.tensor([30.0, 30.0, -30.0]))
    known = torch.tensor([[0, 1, -1]])
    states = torch.ones(1000, 1, 3, dtype=torch.uint8)
    run = run_chains(potentials, states, sweeps=250, known=known, thin=1, engine=engine)
    assert bool((run.samples[..., :2] == known[:, :2]).all())
    close(run.probabilities[:, 2], torch.tensor([-30.0]).sigmoid(), 1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 4), (5, 2, 3), (3, 5, 2, 4)])
def test_states_of_another_shape(shape: tuple[int, ...]) -> None:
    """The error says what is expected."""
    with pytest.raises(PotentialsError, match=r"states: expected \('S', 2, 4\), got"):
        run_chains(make_potentials(2, 4), torch.zeros(shape), sweeps=1)


def test_numba_is_imported_when_used() -> None:
    """Whoever does not sample does not wait for it."""
    code = "import sys, mlcrf.inference; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_streams_are_uniform() -> None:
    """Counts of the first eight bits, over labels, sweeps, chains and images, are even."""
    keys = stream_keys(0, torch.arange(20), chains=50)
    for number in (0, 1, 10**6):
        drawn = uniforms(keys, number, 100)
        assert drawn.shape == (50, 20, 100)
        assert bool(((drawn > 0) & (drawn <= 1)).all())
        counts = torch.bincount((drawn * 256).ceil().long().flatten() - 1, minlength=256)
        statistic = (counts - counts.double().mean()).square().sum() / counts.double().mean()
        assert 1e-3 < chi2.sf(float(statistic), 255) < 1 - 1e-3


def test_streams_do_not_go_together() -> None:
    """Neighbouring seeds, images, chains, sweeps and labels are uncorrelated."""
    first = [uniforms(stream_keys(s, torch.arange(4), chains=5), 7, 5000) for s in (0, 1)]
    drawn = first[0] - 0.5
    later = uniforms(stream_keys(0, torch.arange(4), chains=5), 8, 5000) - 0.5
    together = [(drawn, first[1] - 0.5), (drawn, later), (drawn[..., :-1], drawn[..., 1:])]
    together += [
        (drawn.narrow(axis, 0, size - 1), drawn.narrow(axis, 1, size - 1))
        for axis, size in enumerate((5, 4))
    ]
    for one, other in together:
        correlation = 12 * (one * other).mean()
        assert abs(float(correlation)) < 4 / one.numel() ** 0.5


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("offset", [1, 2**16, 2**24, 2**31, 0x9E3779B9])
def test_streams_whose_keys_are_half_the_same(half: int, offset: int) -> None:
    """Keys that differ in one half only, by little, make streams that do not go together."""
    keys = torch.randint(0, 2**32, (2, 200, 1), generator=torch.Generator().manual_seed(0))
    moved = keys.clone()
    moved[half] = (moved[half] + offset) % 2**32
    one, other = uniforms(keys, 0, 1000), uniforms(moved, 0, 1000)
    if half == 0 and offset == 0x9E3779B9:  # the same stream, one draw ahead
        assert torch.equal(one[..., 1:], other[..., :-1])
        moved[1] = (moved[1] + 1) % 2**32  # is another stream with another second half
        one, other = one[..., 1:], uniforms(moved, 0, 1000)[..., :-1]
    correlation = 12 * ((one - 0.5) * (other - 0.5)).mean()
    assert abs(float(correlation)) < 4 / one.numel() ** 0.5


def test_streams_in_three_dimensions() -> None:
    """Draws that follow each other fill the cube evenly."""
    drawn = uniforms(stream_keys(4, torch.arange(1), chains=100), 0, 6000).flatten()
    cells = ((drawn * 10).ceil().long() - 1).reshape(-1, 3) @ torch.tensor([100, 10, 1])
    counts = torch.bincount(cells, minlength=1000).double()
    statistic = (counts - counts.mean()).square().sum() / counts.mean()
    assert 1e-3 < chi2.sf(float(statistic), 999) < 1 - 1e-3


def test_random_states() -> None:
    """Labels are present in half of the chains, and no two chains start the same."""
    states = random_states(stream_keys(0, torch.arange(3), chains=100), 40)
    assert states.dtype == torch.uint8
    close(states.float().mean(), torch.tensor(0.5), 0.02)
    rows = sorted(map(tuple, states.reshape(-1, 40).tolist()))
    assert all(one != other for one, other in pairwise(rows))
