"""AUTO with known labels: exact for the images whose unknown labels are few, else Gibbs."""

import pytest
import torch
from torch import Tensor

from mlcrf.choices import Decision, InferenceName
from mlcrf.crf import Potentials, check_known, full_edges
from mlcrf.decoding import Decoder
from mlcrf.inference import Exact, Gibbs, JunctionTree, LogPartitionKind, make_inference
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.questions import pair_marginals
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials
from tests.oracle import Oracle

KINDS = pytest.mark.parametrize("varies", [False, True], ids=["shared", "by image"])
LIMIT = 6  # labels
CHAIN = torch.stack([torch.arange(39), torch.arange(1, 40)], 1)


def automatic(potentials: Potentials, limit: int = 24) -> ExactOrGibbs:
    method = make_inference(
        InferenceName.AUTO,
        num_labels=potentials.num_labels,
        edges=potentials.edges,
        max_exact_labels=limit,
        rules=potentials.rules,
        varies_by_image=potentials.varies_by_image,
    )
    assert isinstance(method, ExactOrGibbs)
    return method


def mixed(*, varies: bool = False) -> tuple[Potentials, Tensor]:
    """Nine images of ten labels, of which 0, 4 and all are known by turns: 4 is enough."""
    potentials = make_potentials(9, 10, varies=varies)
    known = draw_known(potentials, num_unknown=6)
    known[::3] = -1
    known[2::3] = draw_known(potentials, num_unknown=0)[2::3]
    return potentials, known


def test_forty_labels_of_which_twenty_five_are_known() -> None:
    """They are enumerated: the fifteen labels that are left, and their score given the others."""
    potentials = make_potentials(2, 40, unary=2.0, pairwise=0.6)
    known = draw_known(potentials, num_unknown=15)
    method = automatic(potentials)
    assert method.name == "exact-or-gibbs"
    posterior = method(potentials, known=known)
    matrix = potentials.pairwise_matrix()
    for image in range(2):
        left, given = (known[image] < 0).nonzero()[:, 0], (known[image] == 1).nonzero()[:, 0]
        unary = (potentials.unary[image] + matrix[given].sum(0))[left].tolist()
        inner = matrix[left][:, left]
        couplings = {(i, j): float(inner[i, j]) for i, j in full_edges(15).tolist()}
        rest = Oracle(unary, couplings)
        score = float(potentials.log_score((known == 1).long())[image])
        assert abs(float(posterior.log_partition[image]) - score - rest.log_partition) < 1e-9
        wanted = torch.tensor(rest.marginals, dtype=torch.float64)
        close(posterior.marginals[image, left], wanted, 1e-9)
    assert posterior.log_partition_kind is LogPartitionKind.EXACT
    assert bool(posterior.converged.all()) and posterior.advice == ""
    assert posterior.log_partition_error is None


@KINDS
def test_each_image_is_inferred_as_well_as_it_can_be(varies: bool) -> None:
    """Six unknown labels are summed exactly, and ten are sampled, in one batch."""
    potentials, known = mixed(varies=varies)
    method, exact = automatic(potentials, LIMIT), Exact()
    parts = {one.name: images.tolist() for one, images in method.split(potentials, known)}
    enough = parts.pop("junction-tree" if varies else "exact")
    assert enough == [1, 2, 4, 5, 7, 8] and parts == {"gibbs": [0, 3, 6]}
    ours, truth = method(potentials, known=known), exact(potentials, known=known)
    few = torch.tensor([0, 3, 6])
    sampled = Gibbs()(potentials.rows(few))
    for name in ("marginals", "log_partition"):
        close(getattr(ours, name)[enough], getattr(truth, name)[enough], 1e-10)
        assert torch.equal(getattr(ours, name)[few], getattr(sampled, name))
    assert ours.log_partition_kind is LogPartitionKind.ESTIMATE
    assert ours.log_partition_error is not None and sampled.log_partition_error is not None
    assert torch.equal(ours.log_partition_error[few], sampled.log_partition_error)
    assert not bool(ours.log_partition_error[enough].any())
    best = method.map_states(potentials, known=known)
    assert torch.equal(best[enough], exact.map_states(potentials, known=known)[enough])
    drawn = method.sample(potentials, 500, torch.Generator().manual_seed(0), known=known)
    assert bool(((drawn == known) | (known < 0)).all())
    close(drawn.double().mean(0), truth.marginals, 0.12)


def test_advice_is_about_the_images_that_were_sampled() -> None:
    """It counts those alone, and the exact images have converged."""
    potentials = make_potentials(4, 8, unary=0.1, pairwise=30.0)
    known = draw_known(potentials, num_unknown=3)
    known[:2] = -1
    posterior = automatic(potentials, 4)(potentials, known=known)
    assert "of 2 images" in posterior.advice and posterior.advice.startswith("gibbs")
    assert posterior.converged[2:].all() and not posterior.converged[:2].all()


def test_decisions_and_questions_are_those_of_each_image_s_method() -> None:
    """Expected F1 from exact samples, and pairs of the exact images without error."""
    potentials, known = mixed()
    method, truth = automatic(potentials, LIMIT), Exact()
    posterior = method(potentials, known=known)
    for rule in (Decision.EXPECTED_F1, Decision.EXPECTED_JACCARD, Decision.MAP):
        chosen = Decoder(rule)(posterior, potentials, method, known=known)
        assert bool(((chosen == known) | (known < 0)).all())
    pairs = pair_marginals(method, potentials, known=known)
    wanted = pair_marginals(truth, potentials, known=known)
    exact = torch.tensor([1, 2, 4, 5, 7, 8])
    close(pairs[exact], wanted[exact], 2e-3)  # a share of 1e-3 may be left out
    close(pairs, wanted, 0.1)


def test_a_graph_too_wide_becomes_a_tree_and_rules_count() -> None:
    """A chain with a clique is a chain once the clique is known; what follows is known too."""
    edges = torch.cat([full_edges(20), CHAIN[19:]])
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    pairwise = torch.randn(len(edges), generator=generator, dtype=torch.float64) / 4
    potentials = Potentials(unary, edges, pairwise, Rules(((30, 25), (31, 30))))
    known = torch.full((3, 40), -1)
    known[:2, :19] = 1
    known[0, 31] = 1  # and so 30 and 25
    method = automatic(potentials, 18)
    split = method.split(potentials, check_known(potentials, known))
    found = {one.name: images.tolist() for one, images in split}
    assert found == {"junction-tree": [0, 1], "gibbs": [2]}
    ours = method(potentials, known=known).log_partition[:2]
    close(ours, JunctionTree(20)(potentials, known=known).log_partition[:2], 1e-9)


def test_without_images_or_knowledge() -> None:
    """No image gives no beliefs, and nothing known is Gibbs, samples included."""
    potentials, _ = mixed()
    method = automatic(potentials, LIMIT)
    assert method(potentials.rows(slice(0, 0))).marginals.shape == (0, 10)
    assert method.map_states(potentials.rows(slice(0, 0))).shape == (0, 10)
    ours, theirs = method(potentials), Gibbs()(potentials)
    assert ours.samples is not None and theirs.samples is not None
    assert torch.equal(ours.samples, theirs.samples)
    assert torch.equal(ours.marginals, theirs.marginals)
    everything = draw_known(potentials, num_unknown=0)
    posterior = method(potentials, known=everything)
    close(posterior.log_partition, potentials.log_score(everything), 1e-12)
    assert posterior.log_partition_kind is LogPartitionKind.EXACT


def test_rules_among_unknown_labels_save_states() -> None:
    """Six unknown labels in pairs are 27 states, which a limit of 2^5 admits, and 64 are not."""
    made = make_potentials(2, 10)
    rules = Rules(((1, 0), (3, 2), (5, 4)))
    known = torch.full((2, 10), -1)
    known[:, 6:] = 1
    for potentials, wanted in (
        (Potentials(made.unary, made.edges, made.pairwise, rules), "exact"),
        (made, "gibbs"),
    ):
        ((method, images),) = automatic(potentials, 5).split(potentials, known)
        assert method.name == wanted and images.tolist() == [0, 1]
