"""The share of the structure that is used, and couplings on log-odds out of fold."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import binary_cross_entropy_with_logits

from mlcrf.choices import ObjectiveName, Pairwise, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import exact_likelihood_loss, pseudo_likelihood_loss
from mlcrf.processes import ALONE
from mlcrf.rules import Rules
from mlcrf.training.candidates import Candidate, Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fitting import fit_models
from mlcrf.training.heads import HeadTrainer
from mlcrf.training.plan import Plan, make_plan
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.stacking import CrfOfLogOdds, out_of_fold
from mlcrf.training.stages import Stages
from mlcrf.training.weighing import HeldOut, Losses, Weigher, Weighing, weighed

EXACT = Exact(max_labels=10)


def labels(count: int) -> LabelSpace:
    return LabelSpace(tuple(f"label-{number}" for number in range(count)))


def examples(count: int, num_labels: int, *, seed: int, coupled: bool) -> Examples:
    """Labels from features; if coupled, each repeats the one before in half of the images."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    logits = features @ np.random.default_rng(9).normal(size=(6, num_labels)) - 1
    targets = (logits + rng.logistic(size=logits.shape) > 0).astype(np.int8)
    if coupled:
        for label in range(1, num_labels):
            copied = rng.random(count) < 0.5
            targets[copied, label] = targets[copied, label - 1]
    return Examples(features, targets)


def models(num_labels: int, strength: float) -> tuple[LabelCrf, LabelCrf]:
    """A baseline with random weights, and a CRF with others and one strength of couplings."""
    torch.manual_seed(0)
    baseline, crf = LabelCrf(6, num_labels, edges=no_edges()), LabelCrf(6, num_labels)
    with torch.no_grad():
        for model in (baseline, crf):
            model.output.weight.normal_()
            model.output.bias.normal_()
        crf.pairwise.fill_(strength)
    return baseline, crf


def test_models_between_the_baseline_and_the_crf() -> None:
    """0 and 1 are the two; between them each label has its own share, each edge that of its two."""
    baseline, crf = models(4, 0.8)
    x = torch.randn(5, 6)
    with torch.no_grad():
        none, every = weighed(baseline, crf, torch.zeros(4)), weighed(baseline, crf, torch.ones(4))
        assert len(none.edges) == 0
        torch.testing.assert_close(none(x).unary, baseline(x).unary)
        assert torch.equal(every.pairwise, crf.pairwise)
        assert torch.equal(every(x).unary, crf(x).unary)
        w = torch.tensor([0.0, 0.25, 1.0, 1.0])
        between = weighed(baseline, crf, w)
        wanted = baseline(x).unary + w * (crf(x).unary - baseline(x).unary)
        torch.testing.assert_close(between(x).unary, wanted)
        assert between.edges.tolist() == [[1, 2], [1, 3], [2, 3]]
        torch.testing.assert_close(between.pairwise, 0.8 * torch.tensor([0.5, 0.5, 1.0]))


def true_baseline(num_labels: int, strength: float) -> tuple[LabelCrf, LabelCrf]:
    """The model by which `examples` draws labels without couplings, and a CRF that adds some."""
    baseline, crf = models(num_labels, strength)
    with torch.no_grad():
        weights = np.random.default_rng(9).normal(size=(6, num_labels))
        for model in (baseline, crf):
            model.output.weight.copy_(torch.from_numpy(weights.T))
            model.output.bias.fill_(-1)
    return baseline, crf


def weigher(held_out: Examples, share: float = 0.05, *, is_few: bool = False) -> Weigher:
    return Weigher(
        positives=torch.from_numpy((held_out.targets == 1).sum(0)),
        make_inference=lambda model: EXACT,
        joint=partial(exact_likelihood_loss, exact=EXACT),
        candidates=(0.0, 0.5, 1.0),
        joint_share=share,
        is_few=is_few,
        processes=ALONE,
    )


def test_false_couplings_are_not_used() -> None:
    """Couplings between independent labels get the weight 0, at any share of whole sets."""
    held_out = examples(400, 4, seed=3, coupled=False)
    baseline, crf = true_baseline(4, 2.0)
    for share in (0.0, 0.5, 1.0):
        part = HeldOut(held_out.features, held_out.targets, baseline, crf)
        one = weigher(held_out, share)
        chosen = one.choose_by_group([part], one.choose_common([part]))
        assert not chosen.weights.any()
        assert chosen.after.single == chosen.before.single
        assert "in use for 0 of 4 labels" in str(chosen)


def test_few_images_have_to_be_sure() -> None:
    """A gain on 40 images that can be chance gives the baseline; the same on 400 is taken."""
    baseline, crf = true_baseline(4, 0.7)
    used = {}
    for count, is_few in ((40, False), (40, True), (400, True)):
        held_out = examples(count, 4, seed=0, coupled=True)
        part = HeldOut(held_out.features, held_out.targets, baseline, crf)
        one = weigher(held_out, is_few=is_few)
        chosen = one.choose_by_group([part], one.choose_common([part]))
        used[count, is_few] = bool(chosen.weights.any())
    assert used == {(40, False): True, (40, True): False, (400, True): True}


@pytest.mark.parametrize("strength", [-0.5, 0.5])
def test_mean_marginals_stay_those_of_the_baseline(strength: float) -> None:
    """Whatever the couplings are, by biases alone, if the baseline's are the frequencies."""
    held_out = examples(400, 4, seed=3, coupled=False)
    baseline, crf = true_baseline(4, strength)
    part = HeldOut(held_out.features, held_out.targets, baseline, crf)
    one, ones = weigher(held_out), torch.ones(4)
    before = one._losses([part], None, torch.zeros(4))
    first = one._try([part], ones, torch.zeros(4), before)
    last = one._match([part], first, 6)
    assert last.loss < first.loss
    wanted = before.wanted()
    off = [float((each.after.sums[2] - wanted).abs().max()) for each in (first, last)]
    assert off[1] < off[0] / 4
    model = weighed(baseline, crf, ones, last.bias)
    assert torch.equal(model.pairwise, crf.pairwise)
    torch.testing.assert_close(model.output.bias, crf.output.bias + last.bias)


@pytest.mark.parametrize("present", [0.0, 100.0])
def test_biases_stay_finite_where_all_images_are_alike(present: float) -> None:
    """No image has the label, or all have it; nothing is known of a second one."""
    sums = torch.tensor([[100.0, 0], [present, 0], [60, 0], [20, 0]], dtype=torch.float64)
    one = Losses(1.0, 1.0, torch.ones(4, 100, dtype=torch.float64), sums)
    step = one.bias_towards(one.wanted())
    assert step[1] == 0
    assert (step[0] > 0) == (present > 0) and step.isfinite().all()


def test_rare_labels_do_not_tell_how_far_a_baseline_is_off() -> None:
    """Hundreds of labels that are expected in half an image: in which of them one is, is chance."""
    rare, common = 400, 4
    expected = torch.cat([torch.full((rare,), 0.5), torch.full((common,), 100.0)]).double()
    is_there = torch.arange(rare) % 8 == 0  # four images of one label in eight
    present = torch.cat([4.0 * is_there, torch.full((common,), 100.0)])
    sums = torch.stack([torch.full_like(expected, 1000.0), present, expected, expected])
    one = Losses(1.0, 1.0, torch.ones(4, 1000, dtype=torch.float64), sums)
    torch.testing.assert_close(one.wanted(), expected)
    present[-common:] = torch.tensor([50.0, 150.0, 50.0, 150.0])
    sums[1] = present
    off = one.wanted()
    torch.testing.assert_close(off[-common:], present[-common:].double(), rtol=0.1, atol=0)
    assert (off[:rare] < 4 * expected[:rare]).all()


@torch.no_grad()
def test_pseudo_likelihood_of_each_image_stands_for_that_of_its_set() -> None:
    """Couplings that it shows are a gain, though single labels hide it in their noise."""
    held_out = examples(400, 4, seed=0, coupled=True)
    baseline, crf = true_baseline(4, 0.7)
    part = HeldOut(held_out.features, held_out.targets, baseline, crf)
    one = weigher(held_out, is_few=True)
    one._joint = pseudo_likelihood_loss
    chosen = one.choose_common([part])
    assert chosen.weights.any()
    found = one._losses([part], chosen.weights, chosen.bias)
    assert float(found.by_image[3].mean()) == pytest.approx(found.joint, rel=1e-6)
    before = chosen.before
    hidden = Losses(
        before.single,
        before.joint,
        torch.cat([found.by_image[:3], before.by_image[3:]]),
        before.sums,
    )
    assert found.gains(hidden)


def test_losses_are_those_of_the_images() -> None:
    """Single labels, unknown ones left out, whole sets, wrong labels and F1; parts count alike."""
    held_out = examples(50, 4, seed=3, coupled=True)
    held_out.targets[::7, 1] = -1
    _, crf = models(4, 0.5)
    chosen = weigher(held_out, 0.3)
    ends = (slice(0, 20), slice(20, 50))
    parts = [HeldOut(held_out.features[at], held_out.targets[at], crf, crf) for at in ends]
    none = torch.zeros(4)
    found, joint_of = chosen._losses(parts, torch.ones(4), none), chosen._joint
    chosen._joint = None
    assert chosen._losses(parts, None, none).joint == pytest.approx(found.joint, rel=1e-6)
    assert joint_of is not None
    targets = torch.from_numpy(held_out.targets).long()
    with torch.no_grad():
        potentials = crf(torch.from_numpy(held_out.features))
        p = EXACT(potentials).marginals.double()
        joint = float(exact_likelihood_loss(potentials, targets, exact=EXACT))
    of_truth = torch.where(targets == 1, p, 1 - p).masked_fill(targets < 0, 1.0)
    assert found.single == pytest.approx(float(-of_truth.log().sum(1).mean()), rel=1e-5)
    assert found.joint == pytest.approx(joint, rel=1e-6)
    assert torch.equal(found.by_image[1], (of_truth < 0.5).sum(1).double())
    f1 = [
        f1_score(truth[truth >= 0], one[truth >= 0] > 0.5, zero_division=1.0)
        for truth, one in zip(held_out.targets, p.numpy(), strict=True)
    ]
    torch.testing.assert_close(found.by_image[2], 1 - torch.tensor(f1, dtype=torch.float64))
    assert found.blend(0.3) == pytest.approx(0.7 * found.single + 0.3 * joint, rel=1e-5)


def losses(single: float, joint: float, by_image: torch.Tensor) -> Losses:
    """Losses of one label that is present in half of the images."""
    sums = torch.tensor([[100.0], [50.0], [50.0], [25.0]], dtype=torch.float64)
    return Losses(single, joint, by_image, sums)


@pytest.mark.parametrize("row", [0, 1, 2], ids=["loss", "wrong", "f1"])
def test_what_spoils_single_labels(row: int) -> None:
    """A higher loss, more wrong labels or a lower F1, by more than a standard error and 0.5 %."""
    before = losses(2.0, 2.0, torch.ones(4, 100, dtype=torch.float64))

    def with_change(change: torch.Tensor) -> Losses:
        by_image = before.by_image.clone()
        by_image[row] += change
        return losses(2.0, 1.0, by_image)

    balanced = torch.tensor([1.0, -1.0] * 50)
    assert not before.spoils(before)
    assert with_change(torch.tensor(0.01)).spoils(before)
    assert not with_change(torch.tensor(-0.01)).spoils(before)
    assert not with_change(torch.tensor(0.004)).spoils(before)
    assert not with_change(balanced + 0.05).spoils(before)
    assert with_change(balanced + 0.2).spoils(before)


@pytest.mark.parametrize("row", [0, 3])
def test_what_gains_is_better_by_two_standard_errors(row: int) -> None:
    """In the loss of single labels, or in that of whole sets."""
    before = losses(2.0, 2.0, torch.ones(4, 100, dtype=torch.float64))
    balanced = torch.tensor([1.0, -1.0] * 50)
    for gain, is_sure in ((0.25, True), (0.15, False), (-0.25, False)):
        by_image = before.by_image.clone()
        by_image[row] += balanced - gain
        assert losses(2.0, 2.0, by_image).gains(before) is is_sure


def candidate(single: float, loss: float, joint: float) -> Candidate:
    """A candidate with this loss, and a loss of single labels that images spread around."""
    balanced = torch.tensor([1.0, -1.0] * 50) * torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    by_image = torch.ones(4, 100, dtype=torch.float64) + (single != 1) * balanced
    by_image[0] += single - 1
    after = losses(single, joint, by_image)
    baseline = torch.ones(4, 100, dtype=torch.float64)
    baseline[0] += 0.5
    before = losses(1.5, 1.5, baseline)
    model = models(2, 1.0)[1]
    fitted = Fitted(model, Penalty(1.0, 1.0), loss, {}, model)
    return Candidate(fitted, {}, Weighing(torch.ones(2), torch.zeros(2), before, after, loss))


@pytest.mark.parametrize(
    ("single", "joint", "loss", "is_better"),
    [
        (0.7, 1.0, 0.9, True),
        (1.05, 1.0, 0.9, True),  # worse, but within a standard error
        (1.2, 1.0, 0.9, False),
        (0.95, 1.0, 1.1, False),  # sets lose what single labels gain
        (1.2, 0.8, 0.9, True),  # whole sets are better, single labels as good as the baseline's
        (1.7, 0.8, 0.9, False),
    ],
)
def test_when_joint_learning_is_taken(
    single: float, joint: float, loss: float, is_better: bool
) -> None:
    """With a lower loss, and single labels that are not worse than they have to be.

    The other candidate has 1 in all, the baseline 1.5 of single labels.
    """
    assert candidate(single, loss, joint).is_better(candidate(1.0, 1.0, 1.0)) is is_better


def test_log_odds_are_of_baselines_that_did_not_see_the_image() -> None:
    """Each image's, by the fit in which its targets were unknown."""
    data = examples(30, 3, seed=0, coupled=True)
    space = FeatureSpace(data.features, data.targets)
    seen: list[torch.Tensor] = []

    def fit_without(number: int, others: FeatureSpace) -> LabelCrf:
        hidden = (others.targets == -1).all(1)
        seen.append(hidden)
        model = LabelCrf(6, 3, edges=no_edges())
        with torch.no_grad():
            model.output.bias.fill_(number + 1)
        return model

    scored = out_of_fold(space, fit_without, seed=0)
    result = scored.log_odds
    assert torch.equal(torch.stack(seen).sum(0), torch.ones(30, dtype=torch.int64))
    assert torch.equal(space.targets, torch.from_numpy(data.targets).long()), "left as they were"
    for number, hidden in enumerate(seen):
        assert torch.equal(scored.fold == number, hidden)
        assert torch.equal(result.inputs(slice(0, 30))[hidden], torch.full((int(hidden.sum()), 3), number + 1.0))  # fmt: skip  # noqa: E501


def plan_of(num_labels: int, **settings: object) -> Plan:
    chosen = TrainSettings(penalties=(0.01, 0.1), pairwise_penalties=(1e-3, 1e-2), **settings)  # type: ignore[arg-type]
    return make_plan(chosen, labels(num_labels), full_edges(num_labels), Rules())


def trainer(plan: Plan, tmp_path: Path, *, coupled: bool, told: list[str]) -> HeadTrainer:
    count = len(plan.labels)
    return HeadTrainer(
        examples(500, count, seed=1, coupled=coupled),
        examples(300, count, seed=2, coupled=coupled),
        plan,
        Stages(tmp_path / "state.pt", ""),
        lambda event: told.append(str(event)),
    )


def test_stacked_couplings_go_above_the_baseline(tmp_path: Path) -> None:
    """The CRF has the baseline's weights, and predicts new images better where labels are coupled.

    Run again on the finished stages it is the same, bit for bit.
    """
    plan = plan_of(5, schedule=Schedule.STACKED, structure_weights=(1.0,))
    told: list[str] = []
    one = trainer(plan, tmp_path, coupled=True, told=told)
    independent = one.fit_independent()
    crf = one.fit_crf(independent)
    assert crf.resolved["schedule"] is Schedule.STACKED
    assert crf.resolved["objective"] is ObjectiveName.PSEUDO_LIKELIHOOD
    torch.testing.assert_close(crf.model.output.weight, independent.model.output.weight)
    assert crf.report["labels_with_structure"] == 5
    new = examples(1000, 5, seed=7, coupled=True)
    x, y = torch.from_numpy(new.features), torch.from_numpy(new.targets).long()
    with torch.no_grad():
        losses = [
            float(exact_likelihood_loss(model(x), y, exact=EXACT))
            for model in (independent.model, crf.model)
        ]
    assert losses[1] < losses[0] - 0.05
    again = trainer(plan, tmp_path, coupled=True, told=told)
    same = again.fit_crf(again.fit_independent())
    assert torch.equal(same.model.pairwise, crf.model.pairwise)


def test_few_validation_images_are_joined_by_training_images(tmp_path: Path) -> None:
    """Each once, by a baseline that has not seen it; none where validation images are many."""
    plan = plan_of(3, schedule=Schedule.STACKED)
    for count, chosen_on in ((300, 300 + 500), (400, 400)):
        held_out = examples(count, 3, seed=2, coupled=True)
        train = examples(500, 3, seed=1, coupled=True)
        stages = Stages(tmp_path / f"{count}.pt", "")
        one = HeadTrainer(train, held_out, plan, stages, lambda event: None)
        independent, weigher = one.fit_independent(), one._make_weigher()
        assert weigher is not None
        (candidate,) = one._stacker.search(independent, weigher)
        assert candidate.weighing is not None
        before = candidate.weighing.before.by_image[0]
        assert len(before) == chosen_on
        log_odds = one._stacker._score_folds("train", independent).log_odds.rotated
        truth = torch.from_numpy(train.targets).float()
        loss = binary_cross_entropy_with_logits(log_odds, truth, reduction="none").sum(1)
        found = before[count:].sort().values.float()
        torch.testing.assert_close(found, loss.sort().values[: len(found)], atol=1e-4, rtol=1e-4)


def test_losses_of_both_models_are_of_the_same_images(tmp_path: Path) -> None:
    """With few validation images folds count for the CRF, and so for the baseline beside it."""
    parts = examples(200, 3, seed=1, coupled=True), examples(40, 3, seed=2, coupled=True)
    models = fit_models(*parts, plan_of(3), stages=Stages(tmp_path / "state.pt", ""))
    report = models.crf.report
    assert models.independent.score == report["loss_of_baseline"]
    alone = HeadTrainer(*parts, plan_of(3), Stages(tmp_path / "alone.pt", ""), print)
    assert abs(alone.fit_independent().score - models.independent.score) > 1e-3


def test_structure_stands_aside_where_there_is_none(tmp_path: Path) -> None:
    """By default, with independent labels, single labels are no worse on validation images."""
    told: list[str] = []
    one = trainer(plan_of(5), tmp_path, coupled=False, told=told)
    crf = one.fit_crf(one.fit_independent())
    report = crf.report
    assert report["single_label_loss"] <= report["single_label_loss_of_baseline"] + 0.01
    assert crf.model.pairwise.abs().sum() < 0.5
    assert any(line.startswith("structure: in use for ") for line in told)


def test_a_penalty_beyond_the_list_is_found(tmp_path: Path) -> None:
    """A list whose end is best grows; one number is what the user wants."""
    plan = plan_of(3, structure=Structure.INDEPENDENT)
    told: list[str] = []
    first = trainer(plan, tmp_path / "a", coupled=False, told=told)
    assert first.fit_independent().penalty.weights < 0.01
    fixed = make_plan(
        plan.settings.model_copy(update={"penalties": (0.1,)}),
        labels(3),
        no_edges(),
        Rules(),
    )
    only = trainer(fixed, tmp_path / "b", coupled=False, told=told)
    assert only.fit_independent().penalty.weights == 0.1


def test_a_crf_of_log_odds_is_one_of_features() -> None:
    """Above a baseline it has the same potentials."""
    baseline, _ = models(4, 0.0)
    crf = CrfOfLogOdds(4, full_edges(4), Rules())
    x = torch.randn(5, 6)
    with torch.no_grad():
        crf.output.bias.normal_()
        crf.pairwise.normal_()
        here, there = crf(baseline(x).unary), crf.above(baseline)(x)
    torch.testing.assert_close(here.unary, there.unary)
    assert torch.equal(here.pairwise, there.pairwise)


@pytest.mark.parametrize(
    "more",
    [
        {"pairwise": Pairwise.CONDITIONAL},
        {"structure": Structure.LATENT, "objective": ObjectiveName.EXACT_LIKELIHOOD},
        {"hidden_units": 8},
        {"objective": ObjectiveName.UNROLLED_MEAN_FIELD},
    ],
)
def test_what_cannot_be_stacked_is_refused(more: dict[str, object]) -> None:
    """By name if asked for; by default it is learned jointly."""
    assert plan_of(4, **more).schedules == (Schedule.JOINT,)
    with pytest.raises(SettingsError, match="--schedule stacked learns constant couplings"):
        plan_of(4, schedule=Schedule.STACKED, **more)
