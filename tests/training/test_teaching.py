"""Labels learned from a few answers."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import full_edges
from mlcrf.errors import RunError
from mlcrf.inference import Exact
from mlcrf.model import LabelCrf, no_edges
from mlcrf.training.answer_couplings import learn_couplings
from mlcrf.training.teaching import Taught, Teacher

COUNT, SIZE = 400, 12


def archive(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features, and three labels: two that the features show, and one that follows the second."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(COUNT, SIZE, generator=generator)
    shown = (features[:, :2] * 3 - 1 > 0).long()
    follows = torch.where(torch.rand(COUNT, generator=generator) < 0.9, shown[:, 1], 0)
    return features, torch.cat([shown, follows[:, None]], 1)


def answers_of(truth: Tensor, each: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    answers = torch.full_like(truth, -1)
    for label in range(truth.shape[1]):
        rows = torch.randperm(len(truth), generator=generator)[:each]
        answers[rows, label] = truth[rows, label]
    return answers


def model(labels: int = 1) -> LabelCrf:
    """A model that knows the first label."""
    result = LabelCrf(SIZE, labels, edges=full_edges(labels))
    with torch.no_grad():
        result.output.weight[0, 0] = 3
        result.output.bias[0] = -1
    return result


def taught_by(teacher: Teacher, answers: Tensor) -> Taught:
    taught = teacher.learn(answers)
    assert taught is not None
    return taught


def test_new_labels_from_nothing() -> None:
    features, truth = archive()
    answers = answers_of(truth, 40)
    answers[:, 2] = -1
    taught = taught_by(Teacher(features.numpy()), answers)
    assert taught.columns.tolist() == [0, 1]
    p = Exact()(taught.crf(features)).marginals
    right = ((p > 0.5) == (truth[:, :2] == 1)).float().mean(0)
    assert right.min() > 0.85


def test_no_answer_teaches_nothing() -> None:
    features, truth = archive()
    assert Teacher(features.numpy()).learn(torch.full_like(truth, -1)) is None


def test_only_yes_is_a_tag_that_most_images_do_not_have() -> None:
    features, truth = archive()
    answers = torch.full_like(truth, -1)
    answers[truth[:, 0].nonzero().squeeze(1)[:10], 0] = 1
    taught = taught_by(Teacher(features.numpy()), answers)
    p = taught.independent(features).unary[:, 0].sigmoid()
    assert p[truth[:, 0] == 1].mean() > p[truth[:, 0] == 0].mean() + 0.05
    assert p.mean() < 0.5


@pytest.mark.parametrize("count", [1, 2, 30])
def test_every_image_has_the_label(count: int) -> None:
    """No image is left that could count as without it."""
    features, _ = archive()
    features = features[:count]
    taught = taught_by(Teacher(features.numpy()), torch.ones(count, 2, dtype=torch.int64))
    assert bool((taught.crf(features).unary > 0).all())
    assert bool(torch.isfinite(taught.log_odds).all())


def test_the_model_keeps_what_it_knew() -> None:
    """Unless answers say otherwise; a new label leaves the marginals of the others nearly alone."""
    features, truth = archive()
    start = model()
    log_odds = start(features).unary.detach()
    answers = answers_of(truth, 60)
    answers[:, 0] = -1
    taught = taught_by(Teacher(features.numpy(), start, start, log_odds), answers)
    assert torch.allclose(taught.independent.output.weight[0], start.output.weight[0])
    before = log_odds.sigmoid()[:, 0]
    after = Exact()(taught.crf(features)).marginals[:, 0].detach()
    assert float((after - before).abs().max()) < 0.05

    meant = torch.full_like(truth, -1)  # what the model says is not what a person means by it
    meant[:80, 0] = truth[:80, 1]
    turned = taught_by(Teacher(features.numpy(), start, start, log_odds), meant)
    p = turned.independent(features[80:]).unary[:, 0].sigmoid()
    assert float(((p > 0.5) == (truth[80:, 1] == 1)).float().mean()) > 0.7

    right = torch.full_like(truth, -1)
    right[:80, 0] = truth[:80, 0]
    kept = taught_by(Teacher(features.numpy(), start, start, log_odds), right)
    p = kept.independent(features[80:]).unary[:, 0].sigmoid()
    assert float(((p > 0.5) == (truth[80:, 0] == 1)).float().mean()) > 0.95


@pytest.mark.parametrize("count", [3, 80])
def test_mistakes_that_are_corrected_do_not_speak_for_the_rest(count: int) -> None:
    """The model's probabilities are right: of its mistakes it makes as many as it expects."""
    features, _ = archive()
    start = model()
    log_odds = start(features).unary.detach() / 3
    truth = (
        torch.rand(COUNT, 1, generator=torch.Generator().manual_seed(1)) < log_odds.sigmoid()
    ).long()
    wrong = ((log_odds > 0) != (truth == 1)).nonzero()[:count, 0]
    answers = torch.full_like(truth, -1)
    answers[wrong] = truth[wrong]
    taught = taught_by(Teacher(features.numpy(), start, start, log_odds), answers)
    step = (taught.independent(features).unary - start(features).unary).detach()
    p = (log_odds + step).sigmoid()
    assert float((p - log_odds.sigmoid()).abs().max()) < 0.02
    assert taught.by_chance.all() == (count == 3)  # three can be by chance

    features, answers = features[wrong], answers[wrong]  # where none is passed over
    taught = taught_by(Teacher(features.numpy(), start, start, log_odds[wrong]), answers)
    assert taught.by_chance.all() and taught.moved.all() == (count == 80)


def test_left_out_log_odds_are_those_of_the_answers() -> None:
    """Of an answered image they do not know the answer."""
    features, truth = archive()
    noise = torch.randint(2, truth.shape, generator=torch.Generator().manual_seed(1))
    taught = taught_by(Teacher(features.numpy()), noise)
    assert abs(float(((taught.log_odds > 0) == (noise == 1)).float().mean()) - 0.5) < 0.07


def test_other_labels_of_an_image_move_its_log_odds() -> None:
    """As the couplings say, but an answer does not move its own."""
    features, truth = archive()
    answers = answers_of(truth, 150)
    taught = taught_by(Teacher(features.numpy()), answers)
    assert len(taught.crf.edges)
    others = torch.where(answers < 0, taught.log_odds.sigmoid(), answers)
    potentials = taught.crf(features)
    by_crf = potentials.unary + others @ potentials.pairwise_matrix()
    moved = by_crf - taught.independent(features).unary
    assert torch.allclose(taught.given_others, taught.log_odds + moved, atol=1e-4)


def test_couplings_of_labels_that_are_answered_together() -> None:
    """Attraction is found where there is one, and nothing where there is none."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(2, (300,), generator=generator)
    other = torch.randint(2, (300,), generator=generator)
    same = torch.where(torch.rand(300, generator=generator) < 0.9, first, 1 - first)
    answers = torch.stack([first, same, other], 1)
    answers[250:, 1] = -1
    half = torch.full((3,), 0.5, dtype=torch.float64)
    edges = torch.tensor([[0, 1], [0, 2]])
    found = learn_couplings(torch.zeros(300, 3, dtype=torch.float64), answers, half, edges)
    assert found[0] > 1.5
    assert found[1].abs() < 0.4


def test_couplings_of_answers_that_are_often_wrong() -> None:
    """Errors that follow a pattern do not hide the attraction that all others show."""
    generator = torch.Generator().manual_seed(0)
    present = torch.randint(2, (400, 2), generator=generator).double()
    log_odds = 6 * present - 3  # what the images show
    answers = present.long()
    answers[:, 1] = torch.where(torch.rand(400, generator=generator) < 0.95, answers[:, 0], 0)
    wrong = (answers[:, 0] == 1) & (torch.rand(400, generator=generator) < 0.2)
    log_odds[:, 1] = 0
    answers[wrong] = torch.tensor([0, 1])
    half, edges = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([[0, 1]])
    plain, *robust = (
        float(learn_couplings(log_odds, answers, half, edges, error_rate=rate))
        for rate in (0.0, 0.01, 0.1)
    )
    assert plain + 0.2 < robust[0] < robust[1] - 0.2


def test_answers_that_do_not_change_are_not_fitted_again() -> None:
    """The same answers in another order of time give the same models."""
    features, truth = archive()
    teacher, answers = Teacher(features.numpy()), answers_of(truth, 30)
    some = answers.clone()
    some[:, 1] = -1
    teacher.learn(some)
    one, other = taught_by(teacher, answers), taught_by(Teacher(features.numpy()), answers)
    assert torch.equal(one.crf.output.weight, other.crf.output.weight)
    assert torch.equal(one.log_odds, other.log_odds)


@pytest.mark.parametrize("kind", [{"hidden": 3}, {"rank": 1}, {"scenes": 2}])
def test_models_that_cannot_be_extended(kind: dict[str, int]) -> None:
    features, _ = archive()
    start = LabelCrf(SIZE, 2, **kind)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="linear unaries"):
        Teacher(features.numpy(), start, LabelCrf(SIZE, 2, edges=no_edges()), torch.zeros(COUNT, 2))
