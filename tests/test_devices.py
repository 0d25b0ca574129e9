"""Every method, objective and decision on a second device: nothing is left on the CPU.

The device is pretended (`pretended_device.py`), so these tests run anywhere; they say nothing of
the speed or the rounding of a real one.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.choices import Decision, InferenceName, ObjectiveName
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.crf import potentials as potentials_module
from mlcrf.decoding import Decoder, maximise_expected_f1, maximise_expected_jaccard
from mlcrf.decoding.counts import count_marginals_from_samples, empty_probability
from mlcrf.errors import MlcrfWarning, PotentialsError
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Exact,
    Gibbs,
    JunctionTree,
    MeanField,
    PreparedExact,
    enumeration,
    junction_tree,
    log_mass,
)
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.exact import pruning, split_enumeration
from mlcrf.inference.gibbs import chains, sample_averages
from mlcrf.inference.gibbs.chains import Engine
from mlcrf.latent import (
    AlbumScores,
    ScenePotentials,
    SceneSum,
    albums,
    choose_transitions,
    share_in_albums,
)
from mlcrf.model import LabelCrf
from mlcrf.objectives import (
    BlendedConvexBp,
    ContrastiveDivergence,
    contrastive_divergence,
    exact_likelihood_loss,
    independent_loss,
    pseudo_likelihood,
    pseudo_likelihood_loss,
    unrolled_mean_field_loss,
)
from mlcrf.rules import Rules
from tests.decoding.methods import READY
from tests.drawn_rules import make as make_limited
from tests.inference.methods import ANY, NONE, Row, rows
from tests.making import draw_known, make_potentials
from tests.pretended_device import CPU, DEVICE, pretended_device

RULES = Rules(((1, 0), (3, 2), (0, 2)))  # 1 => 0 => 2, 3 => 2
CYCLES = torch.tensor([(0, 1), (0, 2), (1, 2), (1, 4), (2, 3), (3, 5), (4, 5)])

QUICK_SWEEPS = MeanField(max_sweeps=2, parallel=True, second_start=False)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a result: in tuples, in fields of records, or by itself."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from tensors(getattr(value, one.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def moved(value: Any) -> Any:
    """The same on the pretended device."""
    if isinstance(value, Tensor | Potentials):
        return value.to(DEVICE)
    return value


def same_on_both(compute: Callable[..., Any], *given: Any, tolerance: float = 1e-9) -> None:
    """Assert that nothing is refused there, that all results are there, and the same values."""
    here = list(tensors(compute(*given)))
    with pretended_device():
        there = list(tensors(compute(*map(moved, given))))
        assert {one.device for one in there} == {DEVICE}
    assert here
    torch.testing.assert_close(there, here, rtol=0, atol=tolerance, equal_nan=True)


def test_mixed_operations_are_refused() -> None:
    """The device that is pretended refuses what a real one would."""
    with pretended_device():
        there, here = torch.ones(2, device=DEVICE), torch.ones(2)
        for mixed in (
            lambda: there + here,
            lambda: here.add_(there),
            lambda: there[torch.tensor([0])],
            lambda: torch.stack([here, there]),
            lambda: there.sum() * here,
            lambda: here.sum().add_(there.sum()),
            lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()),
            lambda: torch.rand(2, generator=torch.Generator(DEVICE)),
        ):
            with pytest.raises(RuntimeError, match="expected"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        stay = there + here.sum(), there[:1], there.to(DEVICE), here.to(there)
        assert {one.device for one in stay} == {DEVICE}
        come_back = there.cpu(), here + there.sum().item(), here.to(CPU), there.to(here)
        assert {one.device for one in come_back} == {CPU}
        weight = torch.tensor([2.0, 3.0], device=DEVICE, requires_grad=True)
        (weight * there).sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        assert weight.grad.device == DEVICE
        assert torch.equal(weight.grad.cpu(), here)
        sparse = torch.eye(2, device=DEVICE).to_sparse()
        assert sparse.device == (sparse @ there[:, None]).device == DEVICE
    assert there.device == CPU


def make(case: str, *, edges: Tensor = CYCLES, dtype: torch.dtype = torch.float64) -> Potentials:
    """Four images of six labels, by the name of a case."""
    drawn = make_potentials(4, 6, unary=2.0, pairwise=1.5, dtype=dtype)
    pairwise = drawn.pairwise[: len(edges)]
    if case == "own couplings":
        pairwise = torch.outer(drawn.unary[:, 0], pairwise)
    rules = RULES if case in ("rules", "own couplings") else Rules()
    return Potentials(drawn.unary, edges, pairwise, rules)


CASES = ("couplings", "rules", "own couplings", "as many labels")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name; of the last, six labels are computed as more than 128 usually are."""
    name: str = request.param
    if name == "as many labels":
        for module in (potentials_module, chains, sample_averages):
            monkeypatch.setattr(module, "_DENSE_LABELS", 4)
        monkeypatch.setattr(pseudo_likelihood, "_MAX_TERMS", 8)
        monkeypatch.setattr(enumeration, "_OVERHEAD", 0)
        monkeypatch.setattr(junction_tree, "_PLANNING", 0)
    return name


def make_known(potentials: Potentials) -> Tensor:
    """The last two labels of most images known, of one nothing, of one everything."""
    known = torch.full(potentials.unary.shape, -1)
    known[:, -2:] = draw_known(potentials, num_unknown=0)[:, -2:]
    known[0], known[1] = -1, 0
    return known


def with_gradient(potentials: Potentials) -> Potentials:
    unary, pairwise = potentials.unary, potentials.pairwise
    return replace(
        potentials,
        unary=unary.detach().requires_grad_(),
        pairwise=pairwise.detach().requires_grad_(),
    )


def gradients(value: Tensor, potentials: Potentials) -> tuple[Tensor, ...]:
    given = potentials.unary, potentials.pairwise
    return torch.autograd.grad(value, given, materialize_grads=True)


def all_answers(row: Row, method: Any, potentials: Potentials, known: Tensor | None) -> Any:
    """Everything that a method says of potentials."""
    answers = [method(potentials, known=known), method.map_states(potentials, known=known)]
    if hasattr(method, "sample"):
        generator = torch.Generator(device=potentials.unary.device).manual_seed(3)
        answers.append(method.sample(potentials, 5, generator, known=known))
    for name in ("count_marginals", "log_partition"):
        if hasattr(method, name):
            answers.append(getattr(method, name)(potentials, known=known))
    if row.gradient is not NONE:
        leaves = with_gradient(potentials)
        posterior = method(leaves, known=known)
        value = posterior.log_partition.sum() + posterior.marginals.square().sum()
        answers += gradients(value, leaves)
    return tuple(answers)


@pytest.mark.parametrize("some_known", [False, True])
@rows()
def test_inference(row: Row, case: str, some_known: bool) -> None:
    """Beliefs, best states, draws, counts and gradients of every method."""
    if row.takes is not ANY and case not in ("couplings", "as many labels"):
        pytest.skip("takes neither couplings nor rules")
    potentials = make(case, edges=CYCLES if row.takes is ANY else CYCLES[:0])
    method = row.cut(5)
    if isinstance(method, Gibbs):
        method = replace(method, chains=4, burn_in=2, sweeps=6, engine=Engine.TORCH)
    if isinstance(method, AnnealedImportanceSampling):
        method = replace(method, chains=8, temperatures=4)
    known = make_known(potentials) if some_known else None
    same_on_both(partial(all_answers, row, method), potentials, known)


@pytest.mark.parametrize("seed", [0, 1])
def test_limits(seed: int) -> None:
    """Every method that keeps to limits on groups of labels, and decisions that do."""
    potentials, known = make_limited(seed, 6)
    gibbs = Gibbs(chains=4, burn_in=2, sweeps=6)
    decisions = [Decoder(Decision.EXPECTED_F1), Decoder(Decision.TOP_K, k=3), Decoder(Decision.MAP)]

    def infer(potentials: Potentials, known: Tensor) -> Any:
        answers = []
        for method in (Exact(pairwise_marginals=True), JunctionTree(), MeanField(), gibbs):
            posterior = method(potentials, known=known)
            answers += [posterior, method.map_states(potentials, known=known)]
            answers += [decide(posterior, potentials, method, known=known) for decide in decisions]
        return tuple(answers)

    same_on_both(infer, potentials, known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.AUTO])
def test_both_engines_of_gibbs(case: str, engine: Engine, dtype: torch.dtype) -> None:
    """What numba computes on the CPU goes back to the device; torch draws there what it draws."""
    potentials = make(case, dtype=dtype)
    fast = Gibbs(chains=4, burn_in=0, sweeps=6, pairwise_marginals=True, engine=Engine.NUMBA)

    def infer(potentials: Potentials, known: Tensor) -> Any:
        here = potentials.unary.device == CPU
        method = fast if here else replace(fast, engine=engine)
        posterior = method(potentials, known=known)
        mostly = posterior.samples, posterior.log_partition, posterior.pairwise_marginals
        # in float64 the engines average different probabilities
        return mostly if dtype == torch.float64 else (posterior, *mostly)

    says_so = pytest.warns(MlcrfWarning, match="run on the CPU, not on mps")
    with says_so if engine is Engine.NUMBA else nullcontext():
        same_on_both(infer, potentials, make_known(potentials), tolerance=1e-4)


@pytest.mark.parametrize("num_unknown", [12, 3])
@pytest.mark.parametrize("size", [2.0, 40.0, 2000.0])
def test_exact_inference_of_many_images(
    size: float, num_unknown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that small batches do not reach: prepared, pruned, float64 and log space."""
    monkeypatch.setattr(enumeration, "_OVERHEAD", 0)
    monkeypatch.setattr(enumeration, "_LEAST_STATES", 2**12)
    monkeypatch.setattr(enumeration, "_LEAST_IMAGES", 64)
    monkeypatch.setattr(pruning, "_LEAST_TILE", 4)
    monkeypatch.setattr(split_enumeration, "DENSE", 0.99)
    drawn = make_potentials(64, 12, unary=3.0, pairwise=size / 3, dtype=torch.float32)
    potentials = replace(drawn, unary=drawn.unary - size)
    known = draw_known(potentials, num_unknown=num_unknown)[torch.arange(64) % 2]

    def infer(potentials: Potentials, known: Tensor) -> Any:
        prepared = PreparedExact(Exact(), potentials, leave_out=1e-3)
        return (
            Exact()(potentials, known=known),
            Exact().map_states(potentials, known=known),
            Exact().count_marginals(potentials, known=known),
            prepared(potentials, known=known),
            prepared.pair_marginals(potentials, known=known),
        )

    same_on_both(infer, potentials, known)


def test_exact_inference_of_labels_above_those_summed_at_once() -> None:
    """17 labels take the way of many: marginals without a gradient, images one by one."""
    for varies in (False, True):
        potentials = make_potentials(2, 17, varies=varies)
        method = Exact(pairwise_marginals=True)

        def infer(potentials: Potentials, method: Exact = method) -> Any:
            leaves = with_gradient(potentials)
            posterior = method(leaves)
            return posterior, gradients(posterior.log_partition.sum(), leaves)

        same_on_both(infer, potentials)


def test_exact_or_gibbs() -> None:
    """Some images are enumerated and others sampled, in one batch."""
    potentials = make("rules")
    gibbs = Gibbs(chains=2, burn_in=0, sweeps=5, engine=Engine.TORCH)

    def infer(potentials: Potentials, known: Tensor) -> Any:
        method = ExactOrGibbs(max_exact_labels=2, gibbs=gibbs)
        assert len(method.split(potentials, known)) == 2
        generator = torch.Generator(device=potentials.unary.device).manual_seed(3)
        return (
            method(potentials, known=known),
            method.map_states(potentials, known=known),
            method.sample(potentials, 5, generator, known=known),
        )

    same_on_both(infer, potentials, make_known(potentials))


@rows(lambda row: row.takes is ANY)
def test_known_labels_may_be_on_the_cpu(row: Row) -> None:
    """They are moved to the potentials."""
    potentials = make("rules")
    known = make_known(potentials)
    with pretended_device():
        there = potentials.to(DEVICE)
        posterior = row.cut(3)(there, known=known)
        assert posterior.marginals.device == DEVICE
        chosen = Decoder(Decision.EXPECTED_F1)(posterior, there, row.cut(3), known=known)
        assert chosen.device == DEVICE


@pytest.mark.parametrize("name", ["edges", "pairwise", "gates", "shifts"])
def test_what_is_left_on_the_cpu_is_refused_at_once(name: str) -> None:
    with pretended_device():
        there = make_mixture("couplings").to(DEVICE)
        message = f"{name}: expected on {DEVICE} as unary, got cpu; use Potentials.to"
        with pytest.raises(PotentialsError, match=message):
            replace(there, **{name: getattr(there, name).cpu()})


LOSSES: dict[str, Any] = {
    "independent": independent_loss,
    "independent, asymmetric": partial(
        independent_loss, pos_weight=2.0, focus_positive=1.0, focus_negative=2.0, margin=0.05
    ),
    "pseudo-likelihood": pseudo_likelihood_loss,
    "exact-likelihood": exact_likelihood_loss,
    "exact-likelihood, junction tree": partial(exact_likelihood_loss, exact=JunctionTree()),
    "unrolled-mean-field": unrolled_mean_field_loss,
    "unrolled-mean-field, one by one": partial(
        unrolled_mean_field_loss, method=MeanField(max_sweeps=3)
    ),
    "blended-convex-bp": BlendedConvexBp(),
    "contrastive-divergence": ContrastiveDivergence(chains=3),
}


def test_every_objective_is_among_them() -> None:
    names = {one.value for one in ObjectiveName if one is not ObjectiveName.AUTO}
    assert {name.split(",")[0] for name in LOSSES} == names


@pytest.mark.parametrize("some_known", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_objectives(
    name: str, case: str, some_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients, and those of a few steps where there is a memory."""
    monkeypatch.setattr(contrastive_divergence, "Gibbs", partial(Gibbs, burn_in=1, sweeps=6))
    loss = LOSSES[name]
    potentials = make(case, dtype=torch.float32)  # in float64 engines of Gibbs average otherwise
    targets = draw_known(potentials, num_unknown=0)
    if potentials.rules:
        targets = torch.from_numpy(RULES.close(targets.numpy()))
    if some_known:
        targets[:, :-2] = -1

    def compute(potentials: Potentials, targets: Tensor) -> Any:
        with torch.no_grad():
            value = loss(potentials, targets)
        leaves = with_gradient(potentials)
        found = value, *gradients(loss(leaves, targets), leaves)
        if not hasattr(loss, "start"):
            return found
        memory = loss.start(leaves, targets)
        for _ in range(2):
            memory = loss.advance(memory, leaves)
        value = loss.loss(memory, leaves)
        return *found, value, memory, *gradients(value, leaves)

    same_on_both(compute, potentials, targets, tolerance=1e-4)


@pytest.mark.parametrize("some_known", [False, True])
@pytest.mark.parametrize("rule", Decision)
def test_decisions(rule: Decision, case: str, some_known: bool) -> None:
    """Label sets from counts, draws, samples and marginals, with and without limits."""
    potentials = make(case)
    usual = replace(READY[rule], num_samples=20)
    limited = usual if rule.has_k else replace(usual, at_least=2, at_most=3)
    sampler = Gibbs(chains=2, burn_in=0, sweeps=5, engine=Engine.TORCH)
    known = make_known(potentials) if some_known else None

    def decide(potentials: Potentials, known: Tensor | None) -> Any:
        beliefs = [(one, one(potentials, known=known)) for one in (Exact(), QUICK_SWEEPS, sampler)]
        return tuple(
            decoder(posterior, potentials, method, known=known)
            for method, posterior in beliefs
            for decoder in (usual, limited)
        )

    same_on_both(decide, potentials, known)


def test_decisions_by_samples_of_many_labels() -> None:
    """Above 10 labels, Jaccard has candidates instead of all label sets."""
    samples = (make_potentials(30, 3 * 12, seed=2).unary > 0.5).byte().reshape(30, 3, 12)

    def decide(samples: Tensor) -> Any:
        counts = count_marginals_from_samples(samples)
        by_f1 = maximise_expected_f1(counts, empty_probability(counts))
        return by_f1, maximise_expected_jaccard(samples, samples.double().mean(0))

    same_on_both(decide, samples)


def test_tuned_thresholds() -> None:
    potentials = make("couplings")
    marginals, targets = potentials.unary.sigmoid(), make_known(potentials)
    with pretended_device():
        for rule in (Decision.TUNED_THRESHOLD, Decision.LABEL_THRESHOLDS):
            here = Decoder(rule).tune(marginals, targets)
            assert Decoder(rule).tune(moved(marginals), moved(targets)) == here


def make_mixture(case: str) -> ScenePotentials:
    one, other = make(case), make_potentials(4, 6, seed=5)
    gates, shifts = other.unary[:, :2], 2 * other.unary[2:]
    return ScenePotentials(one.unary, one.edges, one.pairwise, one.rules, gates, shifts)


@pytest.mark.parametrize("some_known", [False, True])
@pytest.mark.parametrize(
    "emission", [Exact(), JunctionTree(), QUICK_SWEEPS], ids=lambda one: one.name
)
def test_scenes(
    emission: Any, case: str, some_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixtures, and albums of them."""
    monkeypatch.setattr(albums, "_STEPS", 2)
    monkeypatch.setattr(albums, "_PENALTIES", (1e-2,))
    method, mixture = SceneSum(emission), make_mixture(case)
    transitions = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    targets = make_known(mixture)
    known = targets if some_known else None
    places = [[0, 2], [1, 3]]

    def infer(
        mixture: ScenePotentials, known: Tensor | None, targets: Tensor, transitions: Tensor
    ) -> Any:
        generator = torch.Generator(device=mixture.unary.device).manual_seed(3)
        scores = AlbumScores.from_parts([(mixture, targets, places)] * 2, method)
        return (
            method(mixture, known=known),
            method.map_states(mixture, known=known),
            method.sample(mixture, 5, generator, known=known),
            method.scene_weights(mixture, known=known),
            log_mass(method, mixture, targets),
            share_in_albums(mixture, method, transitions, places, known=known),
            scores,
            choose_transitions(scores, scores, log=str),
        )

    same_on_both(infer, mixture, known, targets, transitions)


@pytest.mark.parametrize("parts", [{}, {"hidden": 3}, {"rank": 2}, {"scenes": 2}])
def test_model(parts: dict[str, int]) -> None:
    """Potentials of a model that was moved, AUTO's method for them, and its gradient."""
    model = LabelCrf(5, 6, edges=CYCLES, rules=RULES, **parts)
    features = torch.linspace(-2, 2, 20).reshape(4, 5)

    def train(features: Tensor) -> Any:
        here = model.clone().to(features.device)
        potentials = here(features)
        method = here.make_inference(InferenceName.AUTO, TrainSettings())
        loss = method(potentials).log_partition.sum() + potentials.pairwise.sum()
        loss.backward()
        return potentials, method(potentials), tuple(p.grad for p in here.parameters())

    same_on_both(train, features, tolerance=1e-5)
