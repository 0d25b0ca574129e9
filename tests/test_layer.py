"""The layer against sums over all label sets in plain Python, and in other people's hands."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mlcrf import MlcrfError, MultiLabelCRF, Rules
from mlcrf.choices import Structure
from mlcrf.crf.edges import strongest_edges, tree_edges
from mlcrf.decoding import Decoder
from mlcrf.errors import GradientError
from mlcrf.inference import Exact, MeanField
from mlcrf.rules import Limit
from tests.making import close
from tests.pretended_device import DEVICE, pretended_device

NAN = math.nan
RULES = Rules(((1, 0),), (Limit((2, 3, 4), 1, 2),))  # 1 => 0; one or two of 2, 3 and 4
SWEEPS = MeanField(max_sweeps=4, unrolled=True)
KNOWN = [[-1, -1, -1, -1, -1], [1, 0, -1, -1, 1], [-1, 1, 0, -1, -1], [1, 1, 1, 0, 1]]


def make(
    num_labels: int = 5,
    num_images: int = 4,
    *,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> tuple[MultiLabelCRF, Tensor]:
    """A layer with drawn couplings, and logits."""
    generator = torch.Generator().manual_seed(3)
    crf = MultiLabelCRF(num_labels, dtype=dtype, **settings)
    drawn = torch.randn(len(crf.edges), generator=generator, dtype=torch.float64)
    crf.pairwise.data.copy_(drawn)
    logits = torch.randn(num_images, num_labels, generator=generator, dtype=torch.float64)
    return crf, logits.to(dtype).requires_grad_()


@dataclass
class Truth:
    """The label sets of one image with their weights, found one after the other."""

    weights: dict[tuple[int, ...], float]

    @classmethod
    def of(cls, crf: MultiLabelCRF, logits: list[float]) -> "Truth":
        couplings = dict(zip(map(tuple, crf.edges.tolist()), crf.pairwise.tolist(), strict=True))
        found = {}
        for state in product((0, 1), repeat=crf.num_labels):
            present = [label for label, value in enumerate(state) if value]
            if any(state[child] > state[parent] for child, parent in crf.rules.pairs):
                continue
            count = [sum(state[i] for i in limit.labels) for limit in crf.rules.limits]
            limits = zip(crf.rules.limits, count, strict=True)
            if not all(limit.least <= number <= limit.most for limit, number in limits):
                continue
            score = [logits[i] for i in present]
            score += [couplings.get(pair, 0.0) for pair in combinations(present, 2)]
            found[state] = math.exp(math.fsum(score))
        return cls(found)

    def given(self, known: list[int]) -> "Truth":
        return Truth(
            {
                state: weight
                for state, weight in self.weights.items()
                if all(k in (-1, y) for k, y in zip(known, state, strict=True))
            }
        )

    @property
    def z(self) -> float:
        return math.fsum(self.weights.values())

    @property
    def marginals(self) -> list[float]:
        labels = range(len(next(iter(self.weights))))
        return [math.fsum(w * s[i] for s, w in self.weights.items()) / self.z for i in labels]

    @property
    def entropy(self) -> float:
        return -math.fsum(w / self.z * math.log(w / self.z) for w in self.weights.values())

    @property
    def best(self) -> tuple[int, ...]:
        return max(self.weights, key=self.weights.__getitem__)


def given_known() -> Tensor:
    known = torch.tensor(KNOWN, dtype=torch.float64)
    known[2, 0] = NAN  # another way to say unknown
    return known


@pytest.mark.parametrize("rules", [Rules(), RULES], ids=["free", "rules"])
@pytest.mark.parametrize("inference", ["exact", "junction-tree", "auto"])
def test_equals_enumeration(inference: str, rules: Rules) -> None:
    """Loss, log-probabilities, marginals, entropy, best set and draws, with unknown labels."""
    crf, logits = make(rules=rules, inference=inference)
    known = given_known()
    free = [Truth.of(crf, row) for row in logits.tolist()]
    told = [one.given(row) for one, row in zip(free, KNOWN, strict=True)]
    like = logits.detach()
    wanted = like.new_tensor([math.log(t.z / f.z) for t, f in zip(told, free, strict=True)])
    close(crf.log_prob(logits, known).detach(), wanted, 1e-9)
    close(crf(logits, known, reduction="none").detach(), -wanted, 1e-9)
    close(crf(logits, known, reduction="sum").detach(), -wanted.sum(), 1e-9)
    close(crf(logits, known).detach(), -wanted.mean(), 1e-9)
    for truth, rows in ((free, None), (told, known)):
        marginals = like.new_tensor([one.marginals for one in truth])
        close(crf.marginals(logits, rows).detach(), marginals, 1e-9)
        entropies = like.new_tensor([one.entropy for one in truth])
        close(crf.entropy(logits, known=rows).detach(), entropies, 1e-9)
        best = torch.tensor([one.best for one in truth])
        assert torch.equal(crf.decode(logits, decision="map", known=rows), best)
        drawn = crf.sample(logits, 4000, known=rows, generator=torch.Generator().manual_seed(1))
        states = drawn.transpose(0, 1).tolist()
        for image, one in enumerate(truth):
            assert set(map(tuple, states[image])) <= set(one.weights)
        close(drawn.double().mean(0), marginals, 0.04)
    conditioned = crf.condition(logits, known)
    close(Exact()(conditioned).marginals.detach(), marginals, 1e-9)


def test_starts_as_binary_cross_entropy() -> None:
    """Before couplings are learned the loss is that of independent labels."""
    crf, logits = make()
    crf.pairwise.data.zero_()
    targets = torch.tensor(KNOWN).clamp(min=0)
    usual = binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum") / 4
    close(crf(logits, targets).detach(), usual.detach(), 1e-12)


@pytest.mark.parametrize("inference", ["exact", "junction-tree", SWEEPS])
def test_gradients(inference: Any) -> None:
    """Twice of the loss, once of marginals and entropy, to logits and couplings."""
    crf, logits = make(num_labels=3, num_images=2, inference=inference)
    targets = torch.tensor([[1, -1, 0], [0, 1, 1]])

    def call(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def of(logits: Tensor, pairwise: Tensor) -> Tensor:
            given = (logits, targets) if name == "forward" else (logits,)
            named = {"crf.pairwise": pairwise}
            found: Tensor = torch.func.functional_call(_Calling(crf, name), named, given)
            return found

        return of

    inputs = logits, crf.pairwise.detach().requires_grad_()
    for name in ("forward", "marginals", "entropy"):
        assert torch.autograd.gradcheck(call(name), inputs)
    assert torch.autograd.gradgradcheck(call("forward"), inputs)


class _Calling(nn.Module):
    """A module that calls a method of a layer by its name."""

    def __init__(self, crf: MultiLabelCRF, name: str) -> None:
        super().__init__()
        self.crf, self.name = crf, name

    def forward(self, *given: Tensor) -> Tensor:
        found: Tensor = getattr(self.crf, self.name)(*given)
        return found


@pytest.mark.parametrize("settings", [{"inference": "gibbs"}, {"max_exact_labels": 2}])
def test_by_sampling(settings: dict[str, Any]) -> None:
    """Loss, its gradient for each image, entropy and draws are near the exact ones."""
    exact, logits = make(num_images=3)
    crf, _ = make(num_images=3, **settings)
    targets = torch.tensor([[1, 0, -1, -1, -1], [0, 0, 1, 1, 0], [-1, -1, -1, -1, 1]])
    torch.manual_seed(0)
    found = []
    for one in (exact, crf):
        losses = one(logits, targets, reduction="none")
        weighted = (losses * torch.tensor([1.0, 2.0, 0.5])).sum()
        entropies = one.entropy(logits.detach(), targets).detach()
        drawn = one.sample(logits, 1000, known=targets).double().mean(0)
        gradients = torch.autograd.grad(weighted, (logits, one.pairwise))
        found.append([losses.detach(), entropies, drawn, *gradients])
    for wanted, ours in zip(*found, strict=True):
        close(ours, wanted, 0.06)
    again = crf.marginals(logits).detach()
    assert not torch.equal(crf.marginals(logits).detach(), again)
    torch.manual_seed(1)
    once = crf(logits, targets).detach()
    torch.manual_seed(1)
    assert torch.equal(crf(logits, targets).detach(), once)


def test_missing_gradients_are_refused() -> None:
    """Where there is none, backward says so; values can be had all the same."""
    crf, logits = make(num_labels=17, num_images=1)
    for values in (crf.marginals(logits), crf.entropy(logits)):
        with pytest.raises(GradientError, match="exact over 17 labels carry no gradient"):
            values.sum().backward()
    loss = crf(logits, torch.ones(1, 17))
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(GradientError, match="second derivative up to 16 labels"):
        first.sum().backward()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(half: torch.dtype) -> None:
    """Under autocast, in backward too, the bits are those of the same logits in float32."""
    crf, logits = make(num_labels=17, dtype=torch.float32)
    targets = (logits.detach() > 0).long()
    given = logits.detach().to(half).requires_grad_()
    wide = given.detach().float().requires_grad_()
    crf(wide, targets).backward()
    wanted = crf.pairwise.grad
    assert wanted is not None
    crf.pairwise.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        loss = crf(given, targets)
        loss.backward()
        assert torch.equal(crf.marginals(given).detach(), crf.marginals(wide).detach())
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), crf(wide, targets).detach())
    assert torch.equal(crf.pairwise.grad, wanted)
    assert given.grad is not None and wide.grad is not None
    assert torch.equal(given.grad, wide.grad.to(half))


def test_state_copies_and_types() -> None:
    """A state holds edges and rules; copies, other types and torch.compile give the same loss."""
    crf, logits = make(rules=RULES)
    targets = torch.tensor(KNOWN)
    loss = crf(logits, targets).detach()
    other = MultiLabelCRF(5, edges=crf.edges, dtype=torch.float64)
    other.load_state_dict(crf.state_dict())
    assert other.rules == RULES
    compiled = torch.compile(crf, backend="eager")
    for one in (other, copy.deepcopy(crf), compiled):
        assert torch.equal(one(logits, targets).detach(), loss)
    close(crf.float()(logits.float(), targets).detach(), loss.float(), 1e-5)
    matrix = crf.pairwise_matrix()
    assert torch.equal(matrix[crf.edges[:, 0], crf.edges[:, 1]], crf.pairwise.detach())
    assert torch.equal(matrix, matrix.T)


def test_shapes_without_values() -> None:
    """On the meta device; and a layer made there, as large models are, can be filled."""
    with torch.device("meta"):
        crf, logits = MultiLabelCRF(24), torch.empty(3, 24, requires_grad=True)
        known = torch.empty(3, 24)
    loss = crf(logits, known)
    loss.backward()
    assert loss.shape == () and logits.grad is not None and crf.pairwise.grad is not None
    shapes = [
        crf(logits, known, reduction="none").shape,
        crf.log_prob(logits, known).shape,
        crf.entropy(logits).shape,
        crf.marginals(logits, known).shape,
        crf.decode(logits).shape,
        crf.sample(logits, 2).shape,
    ]
    assert shapes == [(3,), (3,), (3,), (3, 24), (3, 24), (2, 3, 24)]
    left = crf.condition(logits, known)
    assert (left.unary.shape, left.pairwise.shape) == ((3, 24), (3, 276)) and left.unary.is_meta
    crf.to_empty(device="cpu").load_state_dict(MultiLabelCRF(24).state_dict())
    loss = crf(torch.zeros(1, 24), torch.ones(1, 24)).detach()
    assert float(loss) == pytest.approx(24 * math.log(2))


@pytest.mark.parametrize("inference", ["exact", "junction-tree", "mean-field"])
def test_on_a_second_device(inference: str) -> None:
    """Nothing is left on the CPU, and what comes back is the same."""
    crf, logits = make(rules=Rules(((1, 0),)), inference=inference)
    targets = torch.tensor(KNOWN)

    def answers(crf: MultiLabelCRF, logits: Tensor, known: Tensor) -> list[Tensor]:
        logits = logits.detach().requires_grad_()
        loss = crf(logits, known)
        loss.backward()
        found = [loss.detach(), logits.grad, crf.pairwise.grad, crf.decode(logits, known=known)]
        found += [crf.marginals(logits, known).detach(), crf.entropy(logits, known).detach()]
        if inference != "mean-field":
            generator = torch.Generator(device=logits.device).manual_seed(2)
            found.append(crf.sample(logits, 3, known=known, generator=generator))
        return [one for one in found if one is not None]

    here = answers(copy.deepcopy(crf), logits, targets)
    with pretended_device():
        there = copy.deepcopy(crf)
        there.edges = there.edges.to(DEVICE)
        there.pairwise = nn.Parameter(there.pairwise.detach().to(DEVICE))
        found = answers(there, logits.detach().to(DEVICE), targets.to(DEVICE))
        assert {one.device for one in found} == {DEVICE}
    torch.testing.assert_close(found, here, rtol=0, atol=1e-9)


def test_in_distributed_training(tmp_path: Path) -> None:
    """DistributedDataParallel finds and reduces the couplings' gradient."""
    crf, logits = make(dtype=torch.float32)
    targets = torch.tensor(KNOWN)
    crf(logits, targets).backward()
    alone = crf.pairwise.grad
    assert alone is not None
    crf.pairwise.grad = None
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(crf)
        wrapped(logits, targets).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert crf.pairwise.grad is not None and torch.equal(crf.pairwise.grad, alone)


def test_edges_from_targets() -> None:
    """The tree and the strongest pairs are those of the engine; NaN is unknown."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 6, generator=generator) < 0.4).double()
    targets[:, 1] = targets[:, 0]
    targets[0, 2] = NAN
    states = targets.nan_to_num(-1).long()
    tree = MultiLabelCRF.from_targets(targets)
    assert torch.equal(tree.edges, tree_edges(states))
    sparse = MultiLabelCRF.from_targets(targets, edges="sparse", edges_per_label=2)
    assert torch.equal(sparse.edges, strongest_edges(states, 2, false_share=0.05))
    tied = MultiLabelCRF.from_targets(targets, edges=Structure.FULL, rules=[(1, 0)])
    assert len(tied.edges) == 14 and [0, 1] not in tied.edges.tolist()
    given = MultiLabelCRF(6, edges=[(3, 1), (0, 5)])
    assert given.edges.tolist() == [[1, 3], [0, 5]]
    assert len(MultiLabelCRF(6, edges="independent").edges) == 0


LOGITS, TARGETS = torch.zeros(2, 5), torch.zeros(2, 5)
CRF = MultiLabelCRF(5, rules=[(1, 0)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MultiLabelCRF(0), "num_labels: expected a whole number from 1, got 0"),
        (lambda: MultiLabelCRF(5, edges="ful"), "edges: .* got 'ful'; did you mean 'full'"),
        (lambda: MultiLabelCRF(5, edges="tree"), "edges: tree is chosen from targets; use Multi"),
        (lambda: MultiLabelCRF(5, edges=[(0, 5)]), r"edges: .* from 0 to 4, got \(0, 5\)"),
        (lambda: MultiLabelCRF(5, edges=[(1, 1)]), r"edges: .* got \(1, 1\)"),
        (lambda: MultiLabelCRF(5, edges=[(0, 1), (1, 0)]), r"edges: \(0, 1\) occurs twice"),
        (lambda: MultiLabelCRF(5, edges=torch.zeros(3)), r"edges: expected whole numbers \(E, 2\)"),
        (lambda: MultiLabelCRF(5, rules=[(0, 5)]), "rules: expected labels below 5, got 5"),
        (lambda: MultiLabelCRF(5, rules=[0, 1]), "rules: expected pairs"),
        (lambda: MultiLabelCRF(5, rules=None), "rules: expected Rules, or pairs of label numbers"),
        (lambda: MultiLabelCRF(5, edges=None), "edges: expected a name, or pairs"),
        (lambda: MultiLabelCRF(5, inference=None), "inference: expected one of auto, .* got None"),
        (lambda: MultiLabelCRF(5, max_exact_labels="x"), "max_exact_labels: expected a whole num"),
        (lambda: MultiLabelCRF.from_targets([[1]]), "targets: expected a tensor .N, L., got list"),
        (lambda: MultiLabelCRF(5, inference="exakt"), "inference: .* did you mean 'exact'"),
        (
            lambda: MultiLabelCRF(30, inference="exact"),
            r"inference: exact over 30 labels would enumerate 2\*\*30 states, and max_exact_labels",
        ),
        (lambda: MultiLabelCRF.from_targets(LOGITS + 2), "targets: expected 1 .present., 0"),
        (lambda: CRF(LOGITS[0], TARGETS), r"logits: .* \(N, 5\), got torch.float32 \(5,\)"),
        (lambda: CRF(LOGITS[:, :4], TARGETS), r"logits: expected \(N, 5\), got \(2, 4\)"),
        (lambda: CRF(LOGITS.long(), TARGETS), "logits: expected floating-point numbers"),
        (lambda: CRF(LOGITS / 0, TARGETS), "logits: contains NaN or infinity"),
        (lambda: CRF(LOGITS, TARGETS[:1]), r"targets: expected \(2, 5\) as logits, got \(1, 5\)"),
        (lambda: CRF(LOGITS, TARGETS + 2), "targets: expected 1 .present., 0 .absent., -1 or NaN"),
        (lambda: CRF(LOGITS, TARGETS.long() + 2), "targets: expected 1 .present., 0 .absent."),
        (lambda: CRF(LOGITS, TARGETS, "man"), "reduction: .* did you mean 'mean'"),
        (
            lambda: CRF(LOGITS, torch.tensor([[0, 1, 0, 0, 0]] * 2)),
            "targets: image 0 has label 1 without label 0, which it implies",
        ),
        (
            lambda: CRF.marginals(LOGITS, known=torch.tensor([[0, 1, -1, -1, -1]] * 2)),
            "known: image 0 has label 1 without label 0, which it implies",
        ),
        (lambda: CRF.decode(LOGITS, "mapp"), "decision: .* did you mean 'map'"),
        (lambda: CRF.decode(LOGITS, "top-k"), "decision top-k: expected a number k"),
        (lambda: CRF.decode(LOGITS, Decoder(), k=2), "k: expected in the Decoder"),
        (lambda: CRF.sample(LOGITS, 0), "n: expected a whole number from 1, got 0"),
        (
            lambda: MultiLabelCRF(5, inference="mean-field").sample(LOGITS),
            "inference: mean-field draws no label sets; use exact",
        ),
    ],
)
def test_wrong_arguments_are_named(wrong: Callable[[], Any], message: str) -> None:
    """One line that begins with the argument's name."""
    with pytest.raises(MlcrfError, match=f"^{message}") as raised:
        wrong()
    assert "\n" not in str(raised.value)
