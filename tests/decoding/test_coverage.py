"""Families of label sets hold the right one as often as promised, and grow with the level."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.decoding import Coverage, make_ranker, rank_targets
from mlcrf.decoding.coverage import conformal_scores
from mlcrf.decoding.family_measures import measure_families
from mlcrf.decoding.sampled_ranking import SamplingRanker
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact, Independent
from mlcrf.inference.ranking import EnumeratingRanker, Standing
from mlcrf.model import no_edges
from mlcrf.rules import Rules

EDGES = full_edges(6)
SPLITS = 200


def drawn(images: int, seed: int = 0) -> tuple[Potentials, Tensor]:
    """Potentials, and targets drawn from other ones, so that the model is wrong."""
    generator = torch.Generator().manual_seed(seed)
    unary = 1.5 * torch.randn(images, 6, generator=generator)
    pairwise = torch.randn(len(EDGES), generator=torch.Generator().manual_seed(99))
    truth = Potentials(unary, EDGES, pairwise)
    targets = Exact().sample(truth, 1, generator)[0].long()
    return Potentials(1.3 * unary + 0.3, EDGES, 0.5 * pairwise), targets


def shares(coverage: Coverage, count: int, seed: int) -> Tensor:
    features = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    return coverage.shares(features)


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_coverage_is_as_promised(level: float, randomised: bool) -> None:
    """Over splits the right set is in the family with the promised probability, of both models.

    The mean of the coverage over splits lies between the level and 1 / (n + 1) above it.
    """
    potentials, targets = drawn(1200)
    alone = Potentials(potentials.unary, no_edges(), potentials.unary.new_zeros(0))
    asked = Coverage(level, randomised)
    generator = torch.Generator().manual_seed(1)
    for one, method in ((potentials, Exact()), (alone, Independent())):
        standing = rank_targets(make_ranker(method, one), one, targets)
        found = []
        for split in range(SPLITS):
            order = torch.randperm(1200, generator=generator)
            few, rest = (
                Standing(*(part[some] for part in standing)) for some in (order[:99], order[99:])
            )
            coverage = asked.calibrated(few, "drawn", seed=split)
            covered = coverage.covers(rest, shares(coverage, len(rest.ahead), split))
            found.append(float(covered.double().mean()))
        error = np.std(found) / math.sqrt(SPLITS)
        assert level - 3 * error <= np.mean(found) <= level + 0.01 + 3 * error


def test_sampled_families_cover_as_well() -> None:
    """Samples are few and of another distribution, which only makes families larger."""
    potentials, targets = drawn(1200)
    ranker = SamplingRanker(Independent(), num_samples=60)
    alone = Potentials(potentials.unary, no_edges(), potentials.unary.new_zeros(0))
    standing = ranker.standing(alone, targets)
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(SPLITS):
        order = torch.randperm(1200, generator=generator)
        few, rest = (
            Standing(*(part[some] for part in standing)) for some in (order[:99], order[99:])
        )
        coverage = Coverage(0.8).calibrated(few, "drawn")
        found.append(float(coverage.covers(rest, torch.ones(1101)).double().mean()))
    assert 0.79 <= np.mean(found) <= 0.84  # scores are shares of 60 samples and tie


@pytest.mark.parametrize("model", ["crf", "independent"])
def test_members_are_those_that_score_within_reach(model: str) -> None:
    """Every one of the 64 sets, scored on its own, is in the family or not as counted."""
    potentials, _ = drawn(5)
    method: Exact | Independent = Exact()
    if model == "independent":
        potentials = Potentials(potentials.unary, no_edges(), potentials.unary.new_zeros(0))
        method = Independent()
    states = torch.cartesian_prod(*[torch.arange(2)] * 6)
    ranker = make_ranker(method, potentials)
    for coverage in (Coverage(0.9, reach=0.83), Coverage(0.9, randomised=True, reach=0.6)):
        share = shares(coverage, 5, 0)
        assert coverage.reach is not None
        leaders = ranker.leaders(potentials, coverage.reach, share)
        inside = torch.stack(
            [
                coverage.covers(ranker.standing(potentials, one.expand(5, -1)), share)
                for one in states
            ]
        )
        assert torch.equal(inside.sum(0).double(), leaders.count)
        for image in range(5):
            family = states[inside[:, image]].bool()
            assert torch.equal(family.all(0), leaders.present[image])
            assert torch.equal(~family.any(0), leaders.absent[image])


def test_families_are_nested_in_the_level() -> None:
    """A larger level never gives a smaller family, nor another one that is as large."""
    potentials, targets = drawn(300)
    ranker = make_ranker(Exact(), potentials)
    standing = rank_targets(ranker, potentials, targets)
    before = None
    for level in (0.2, 0.5, 0.8, 0.9, 0.95, 0.99):
        coverage = Coverage(level).calibrated(standing, "drawn")
        assert coverage.reach is not None and coverage.images == 300
        leaders = ranker.leaders(potentials, coverage.reach, torch.ones(300))
        if before is not None:
            assert (leaders.count >= before.count).all()
            assert (leaders.present <= before.present).all()
            assert (leaders.absent <= before.absent).all()
        before = leaders


def test_a_level_where_the_best_set_suffices() -> None:
    """Families are never empty, so they then hold the most probable set alone."""
    potentials, targets = drawn(300)
    ranker = make_ranker(Exact(), potentials)
    standing = rank_targets(ranker, potentials, targets)
    right = float((standing.ahead == 0).double().mean())
    coverage = Coverage(right - 0.02).calibrated(standing, "drawn")
    assert coverage.reach == 0
    assert (ranker.leaders(potentials, 0.0, torch.ones(300)).count == 1).all()
    assert torch.equal(conformal_scores(standing, torch.ones(300)) == 0, standing.ahead == 0)


def test_too_few_images_ask_for_all_label_sets() -> None:
    """0.9 needs nine images, 0.95 nineteen; none at all asks for all sets."""
    potentials, targets = drawn(30)
    ranker = make_ranker(Exact(), potentials)
    standing = rank_targets(ranker, potentials, targets)
    for level, fewest in ((0.8, 4), (0.9, 9), (0.95, 19)):
        assert Coverage(level).fewest_images == fewest
        few, enough = (
            Coverage(level).calibrated(Standing(*(part[:count] for part in standing)), "drawn")
            for count in (fewest - 1, fewest)
        )
        assert few.is_of_all and not enough.is_of_all
    none = Coverage(0.5).calibrated(Standing(*torch.empty(2, 0)), "drawn")
    assert none.is_of_all and none.images == 0
    measures = measure_families(none, Exact(), potentials, targets, torch.ones(30))
    assert (measures.coverage, measures.mean_sets, measures.open_labels) == (1, 64, 6)


def test_images_with_unknown_labels_are_left_out() -> None:
    """They have no place, do not calibrate, and are not counted as covered."""
    potentials, targets = drawn(40)
    hidden = targets.clone()
    hidden[:15, 2] = -1
    ranker = make_ranker(Exact(), potentials)
    whole, standing = (rank_targets(ranker, potentials, one) for one in (targets, hidden))
    assert standing.ahead[:15].isnan().all()
    assert torch.equal(standing.ahead[15:], whole.ahead[15:])
    coverage = Coverage(0.9).calibrated(standing, "drawn")
    later = Coverage(0.9).calibrated(Standing(*(part[15:] for part in whole)), "drawn")
    assert (coverage.images, coverage.reach) == (25, later.reach)
    measures = measure_families(coverage, Exact(), potentials, hidden, torch.ones(40))
    assert measures.images == 25
    unknown = torch.full_like(targets, -1)
    assert math.isnan(
        measure_families(coverage, Exact(), potentials, unknown, torch.ones(40)).coverage
    )


def test_samples_agree_with_enumeration() -> None:
    """The mass ahead, the number of sets and their mass, within the error of 4,000 samples."""
    potentials, targets = drawn(8)
    exact, sampled = EnumeratingRanker(potentials), SamplingRanker(Exact(), num_samples=4000)
    ours, theirs = (one.standing(potentials, targets) for one in (sampled, exact))
    assert (ours.ahead - theirs.ahead).abs().max() < 4 * 0.5 / math.sqrt(4000)
    share = torch.ones(8, dtype=torch.float64)
    few, true = (one.leaders(potentials, 0.7, share) for one in (sampled, exact))
    assert not few.is_exact
    assert (few.mass - true.mass).abs().max() < 0.2  # by one set more or less
    assert (few.count / true.count - 1).abs().mean() < 0.25
    assert float((few.present == true.present).double().mean()) > 0.9


def test_a_share_depends_on_the_image_alone() -> None:
    """Equal in any batch; uniform; and 1 unless randomised."""
    features = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    coverage = Coverage(0.9, randomised=True)
    together = coverage.shares(features)
    assert torch.equal(together[7:9], coverage.shares([features[7], features[8]]))
    assert float((together - 0.5).abs().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(together.mean()) == pytest.approx(0.5, abs=0.02)
    assert (Coverage(0.9).shares(features) == 1).all()


def test_signature_and_settings() -> None:
    assert str(replace(Coverage(0.9, randomised=True), calibration="mine@abc")) == (
        "0.9,randomised,calibration:mine@abc"
    )
    for level in (0, 1, 90, math.nan):
        with pytest.raises(SettingsError, match="between 0 and 1"):
            Coverage(level)


def test_a_set_that_rules_forbid_comes_last() -> None:
    """All else is ahead of it, so that only the family of all sets may hold it."""
    potentials, _ = drawn(3)
    ruled = replace(potentials, rules=Rules(((0, 1),)))
    states = torch.tensor([[1, 0, 0, 0, 0, 0]]).expand(3, -1)
    standing = make_ranker(Exact(), ruled).standing(ruled, states)
    assert (standing.ahead == 1).all() and (standing.equal == 0).all()
