"""Potentials: what is refused, what the score is, and that a label has no say in its own field."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Fields, Potentials, check_known, full_edges
from mlcrf.errors import PotentialsError
from tests.oracle import oracles


def make_potentials(*, varies: bool = False, dtype: torch.dtype = torch.float64) -> Potentials:
    """Three images, four labels, four of the six edges."""
    generator = torch.Generator().manual_seed(3)
    edges = torch.tensor([[0, 1], [0, 3], [1, 2], [2, 3]])
    shape = (3, 4) if varies else (4,)
    pairwise = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    return Potentials(torch.randn(3, 4, generator=generator, dtype=dtype), edges, pairwise)


def all_states(num_images: int, num_labels: int) -> Tensor:
    """Every label vector, for every image (2^L, N, L)."""
    states = torch.cartesian_prod(*[torch.tensor([0, 1])] * num_labels)
    return states[:, None].expand(-1, num_images, -1)


def test_sizes() -> None:
    """N and L are those of the unaries, and two dimensions of couplings vary by image."""
    shared, varying = make_potentials(), make_potentials(varies=True)
    assert (shared.num_images, shared.num_labels) == (3, 4)
    assert not shared.varies_by_image
    assert varying.varies_by_image


ZEROS, EDGES, NONE = torch.zeros(2, 3), full_edges(3), torch.zeros(3)


@pytest.mark.parametrize(
    ("unary", "edges", "pairwise", "message"),
    [
        (torch.zeros(3), EDGES, NONE, r"unary: expected float32 or float64 .* \(3,\)"),
        (torch.zeros(2, 3).long(), EDGES, NONE, "unary: expected float32 or float64"),
        (ZEROS, EDGES.T, NONE, r"edges: expected int64 \(E, 2\), got torch.int64 \(2, 3\)"),
        (ZEROS, EDGES.int(), NONE, r"edges: expected int64 \(E, 2\), got torch.int32 \(3, 2\)"),
        (ZEROS, EDGES, torch.zeros(2), r"pairwise: expected \(3,\) or \(2, 3\), got \(2,\)"),
        (ZEROS, EDGES, torch.zeros(3, 3), r"pairwise: expected \(3,\) or \(2, 3\), got \(3, 3\)"),
        (ZEROS, torch.tensor([[1, 0]]), NONE[:1], "edges: expected pairs i < j below 3"),
        (ZEROS, torch.tensor([[1, 1]]), NONE[:1], "edges: expected pairs i < j below 3"),
        (ZEROS, torch.tensor([[1, 3]]), NONE[:1], "edges: expected pairs i < j below 3"),
        (ZEROS, torch.tensor([[-1, 1]]), NONE[:1], "edges: expected pairs i < j below 3"),
        (ZEROS, torch.tensor([[0, 2], [0, 2]]), NONE[:2], "edges: a pair occurs twice"),
        (torch.tensor([[0.0, torch.nan, 0]]), EDGES, NONE, "unary: contains NaN or infinity"),
        (torch.tensor([[0.0, torch.inf, 0]]), EDGES, NONE, "unary: contains NaN or infinity"),
        (ZEROS, EDGES, torch.tensor([0, -torch.inf, 0]), "pairwise: contains NaN or infinity"),
        (ZEROS, EDGES, torch.zeros(3).long(), "pairwise: .*int64"),
        (ZEROS, EDGES, torch.zeros(3).double(), "pairwise: .*float64"),
    ],
)
def test_refusals(unary: Tensor, edges: Tensor, pairwise: Tensor, message: str) -> None:
    """Errors say what was expected and what came."""
    with pytest.raises(PotentialsError, match=message):
        Potentials(unary, edges, pairwise)


@pytest.mark.parametrize("varies", [False, True])
def test_pairwise_matrix(varies: bool) -> None:
    """The dense couplings are symmetric, zero on the diagonal and where there is no edge."""
    potentials = make_potentials(varies=varies)
    matrix = potentials.pairwise_matrix()
    assert matrix.shape == ((3, 4, 4) if varies else (4, 4))
    assert torch.equal(matrix, matrix.mT)
    expected = torch.zeros_like(matrix)
    for edge, (first, second) in enumerate(potentials.edges.tolist()):
        expected[..., first, second] = expected[..., second, first] = potentials.pairwise[..., edge]
    assert torch.equal(matrix, expected)


@pytest.mark.parametrize("varies", [False, True])
def test_log_score(varies: bool) -> None:
    """The score of every state is the oracle's, with any leading dimensions."""
    potentials = make_potentials(varies=varies)
    states = all_states(3, 4)
    scores = potentials.log_score(states.byte())
    expected = [[o.score(s) for o in oracles(potentials)] for s in states[:, 0].tolist()]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))
    folded = potentials.log_score(states.reshape(2, 8, 3, 4))
    assert torch.equal(folded, scores.reshape(2, 8, 3))


@pytest.mark.parametrize("varies", [False, True])
def test_conditional_logits(varies: bool) -> None:
    """Log-odds of a label are the score with it minus the score without it."""
    potentials = make_potentials(varies=varies)
    states = all_states(3, 4)
    logits = potentials.conditional_logits(states)
    assert logits.shape == states.shape
    for label in range(4):
        present, absent = states.clone(), states.clone()
        present[..., label], absent[..., label] = 1, 0
        expected = potentials.log_score(present) - potentials.log_score(absent)
        torch.testing.assert_close(logits[..., label], expected)


@pytest.mark.parametrize("varies", [False, True])
def test_conditional_logits_ignore_own_state(varies: bool) -> None:
    """Turning a label round leaves its own entry as it is, and moves its neighbours'."""
    potentials = make_potentials(varies=varies)
    states = all_states(3, 4)
    for label in range(4):
        turned = states.clone()
        turned[..., label] = 1 - turned[..., label]
        before = potentials.conditional_logits(states)
        after = potentials.conditional_logits(turned)
        assert torch.equal(before[..., label], after[..., label])
        assert not torch.allclose(before, after)


@pytest.mark.parametrize("varies", [False, True])
def test_gradients(varies: bool) -> None:
    """Scores and conditional log-odds have the gradients that finite differences give."""
    made = make_potentials(varies=varies)
    states = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]])

    def both(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, Tensor]:
        potentials = Potentials(unary, made.edges, pairwise)
        return potentials.log_score(states), potentials.conditional_logits(states)

    inputs = (made.unary.requires_grad_(), made.pairwise.requires_grad_())
    assert torch.autograd.gradcheck(both, inputs)


def test_couplings_that_vary_are_those_of_each_image() -> None:
    """Each image of a batch with its own couplings has the values it has alone."""
    varying = make_potentials(varies=True)
    states = torch.ones(3, 4)
    for row in range(3):
        one = slice(row, row + 1)
        alone = Potentials(varying.unary[one], varying.edges, varying.pairwise[row])
        torch.testing.assert_close(alone.log_score(states[one]), varying.log_score(states)[one])
        torch.testing.assert_close(
            alone.conditional_logits(states[one]), varying.conditional_logits(states)[one]
        )


@pytest.mark.parametrize("varies", [False, True])
def test_rows(varies: bool) -> None:
    """Some of the images keep their own unaries and couplings, by index or by slice."""
    potentials = make_potentials(varies=varies)
    whole = potentials.log_score(torch.ones(3, 4))
    picked = potentials.rows(torch.tensor([2, 0])).log_score(torch.ones(2, 4))
    torch.testing.assert_close(picked, whole[[2, 0]])
    torch.testing.assert_close(potentials.rows(slice(1, 3)).log_score(torch.ones(2, 4)), whole[1:])


def test_full_edges() -> None:
    """All pairs in row order; one label has none."""
    assert full_edges(4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert full_edges(1).shape == (0, 2)
    assert full_edges(1).dtype == torch.int64


def test_check_known() -> None:
    """Nothing given means that nothing is known; what is given comes back as int64."""
    potentials = make_potentials()
    assert check_known(potentials, None).unique().tolist() == [-1]
    given = torch.tensor([[1.0, 0, -1, 1]] * 3)
    known = check_known(potentials, given)
    assert known.dtype == torch.int64
    assert torch.equal(known, given.long())
    with pytest.raises(PotentialsError, match=r"known: expected \(3, 4\), got \(4,\)"):
        check_known(potentials, given[0])
    for wrong in (2, 0.5, torch.nan):
        with pytest.raises(PotentialsError, match="known: expected 1"):
            check_known(potentials, given.index_fill(0, torch.tensor([1]), wrong))


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("varies", [False, True])
def test_many_labels_are_coupled_along_edges(varies: bool, share: float) -> None:
    """Beyond 128 labels fields are those of the matrix, in any order of edges, gradients too.

    Where few labels are present only their neighbours are looked at.
    """
    generator = torch.Generator().manual_seed(5)
    edges = full_edges(140)
    edges = edges[torch.randperm(len(edges), generator=generator)[:400]]
    shape = (3, 400) if varies else (400,)
    pairwise = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    unary = torch.randn(3, 140, generator=generator, dtype=torch.float64).requires_grad_()
    potentials = Potentials(unary, edges, pairwise)
    states = (torch.rand(4, 3, 140, generator=generator) < share).double()
    states *= torch.rand(4, 3, 140, generator=generator, dtype=torch.float64)
    matrix = potentials.pairwise_matrix()
    wanted = unary + (matrix @ states.double().unsqueeze(-1)).squeeze(-1)
    found = Fields(potentials).all(states)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert torch.allclose(Fields(potentials).of(7, states.double()), wanted[..., 7], atol=1e-12)
    weights = torch.randn(4, 3, 140, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (unary, pairwise)),
        torch.autograd.grad((wanted * weights).sum(), (unary, pairwise)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    """Sums of half precision would be wrong in silence, or fail somewhere inside a method."""
    with pytest.raises(PotentialsError, match="unary: expected float32 or float64"):
        Potentials(torch.zeros(2, 3, dtype=dtype), full_edges(3), torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_labels", [5, 130])
def test_later_labels_alone(num_labels: int, varies: bool) -> None:
    """`later` sums the couplings to present labels of higher number, dense or sparse."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([[0, 1], [0, num_labels - 1], [2, 3], [3, num_labels - 2]])
    edges = edges[edges[:, 0] < edges[:, 1]]
    pairwise = torch.randn((2, len(edges)) if varies else (len(edges),), generator=generator)
    potentials = Potentials(torch.randn(2, num_labels, generator=generator), edges, pairwise)
    states = torch.randint(2, (3, 2, num_labels), generator=generator)
    expected = torch.zeros(3, 2, num_labels)
    for edge, (first, second) in enumerate(edges.tolist()):
        expected[..., first] += states[..., second] * pairwise[..., edge]
    torch.testing.assert_close(Fields(potentials).later(states), expected)
