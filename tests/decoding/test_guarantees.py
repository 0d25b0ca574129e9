"""Thresholds of a guarantee hold as often as promised, obey rules, and are left out in doubt."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcrf.choices import Decision, PrecisionOf
from mlcrf.crf import Potentials
from mlcrf.decoding import Decoder, Guarantee
from mlcrf.decoding.guarantees import (
    LEFT_OUT,
    label_thresholds,
    passed_cuts,
    pooled_threshold,
    scores_within_rules,
)
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact
from mlcrf.model import no_edges
from mlcrf.rules import Limit, Rules

SPLITS = 300
LEVELS = {PrecisionOf.LABEL: 0.8, PrecisionOf.ALL: 0.6}
MARGIN = 3 * math.sqrt(0.1 * 0.9 / SPLITS)  # three standard errors of the share


def drawn(generator: torch.Generator, images: int, labels: int = 3) -> tuple[Tensor, Tensor]:
    """Scores between 0 and 1, and targets that are right about as often as these say."""
    mood = torch.rand(images, 1, generator=generator)  # labels of an image depend on each other
    scores = (mood + torch.rand(images, labels, generator=generator)) / 2
    chance = scores.square() * 0.3 + 0.69 * (scores > 0.6)
    shared = torch.rand(images, 1, generator=generator).expand(-1, labels)
    return scores.double(), (shared < chance).long()


def precision(scores: Tensor, targets: Tensor, threshold: Tensor, dim: int | None = 0) -> Tensor:
    written = scores > threshold
    return (written & (targets == 1)).sum(dim) / written.sum(dim).clamp(min=1)


@pytest.mark.parametrize("of", list(PrecisionOf))
def test_precision_is_violated_as_seldom_as_promised(of: PrecisionOf) -> None:
    """In at most 10 % of splits the thresholds have a lower precision, and most are found."""
    generator = torch.Generator().manual_seed(0)
    level = LEVELS[of]
    asked = Guarantee(precision=level, of=of)
    scores, targets = drawn(generator, 100_000)
    violated, found = np.zeros(3), np.zeros(3)
    for _ in range(SPLITS):
        own, truth = drawn(generator, 600)
        if of is PrecisionOf.ALL:
            threshold = torch.tensor(pooled_threshold(asked, own, truth)[0])
            fails = (precision(scores, targets, threshold, None) < level).expand(3)
        else:
            threshold = torch.tensor(label_thresholds(asked, own, truth))
            fails = precision(scores, targets, threshold) < level
        is_found = (threshold < LEFT_OUT).expand(3)
        violated += (fails & is_found).numpy()
        found += is_found.numpy()
    assert (violated / SPLITS <= 0.1 + MARGIN).all()
    assert (found / SPLITS > 0.7).all()


def test_recall_is_violated_as_seldom_as_promised() -> None:
    """The exact binomial bound leaves too low a recall in at most 10 % of splits, and near it."""
    generator = torch.Generator().manual_seed(1)
    asked = Guarantee(recall=0.8)
    scores, targets = drawn(generator, 100_000)
    violated = np.zeros(3)
    for _ in range(SPLITS):
        threshold = torch.tensor(label_thresholds(asked, *drawn(generator, 200)))
        found = ((scores > threshold) & (targets == 1)).sum(0) / targets.sum(0)
        violated += (found < 0.8).numpy()
    share = violated / SPLITS
    assert (share <= 0.1 + MARGIN).all()
    assert (share > 0.02).all()


def test_cuts_are_those_of_the_binomial_distribution() -> None:
    """All cuts that pass are those whose probability, summed by hand, is small enough."""
    generator = np.random.default_rng(0)
    scores = generator.choice(np.linspace(0.05, 0.95, 60), 300)  # with ties
    is_right = generator.random(300) < 0.985
    found = set(passed_cuts(scores, is_right, 0.9, 0.9).tolist())
    error = 0.1 / 3
    fewest = math.log(error) / math.log(0.9)
    cuts = [0.0, *np.unique(scores)][:-1][::-1]
    expected, taken = set(), [int((scores > cut).sum()) for cut in cuts]
    for factor in (1, 2, 4):
        for cut, number in zip(cuts, taken, strict=True):
            if number < factor * fewest:
                continue
            hits = int(is_right[scores > cut].sum())
            tail = math.fsum(
                math.comb(number, k) * 0.9**k * 0.1 ** (number - k) for k in range(hits, number + 1)
            )
            if tail > error:
                break
            expected.add(float(cut))
    assert found == expected and len(found) > 5


def test_too_few_images_support_nothing() -> None:
    """A label that is right throughout, but seldom, is left out; so is one that is unknown."""
    scores = torch.linspace(0.1, 0.9, 40).double()[:, None].expand(-1, 2)
    targets = torch.ones(40, 2, dtype=torch.long)
    targets[:, 1] = -1
    assert label_thresholds(Guarantee(precision=0.95), scores, targets) == (LEFT_OUT, LEFT_OUT)
    lenient, unknown = label_thresholds(Guarantee(precision=0.8), scores, targets)
    assert lenient == 0 and unknown == LEFT_OUT
    assert pooled_threshold(Guarantee(precision=0.99), scores, targets) == (LEFT_OUT, None)
    assert label_thresholds(Guarantee(recall=0.99), scores, targets) == (LEFT_OUT, LEFT_OUT)


def test_what_is_written_obeys_the_rules() -> None:
    """Children need their parents, limited groups keep their limit, and both keep the promise."""
    generator = torch.Generator().manual_seed(2)
    rules = Rules(((0, 1), (1, 2)), (Limit((2, 3), 1, 1),))
    for measure in ("precision", "recall"):
        asked = Guarantee(**{measure: 0.6})
        marginals = torch.rand(500, 4, generator=generator)  # break implications, too
        scores = scores_within_rules(marginals, rules)
        targets = (torch.rand(500, 4, generator=generator) < scores**0.1).long()
        decoder = Decoder.promising(asked).calibrated(marginals, targets, rules, "drawn")
        unary = marginals.logit().double()
        potentials = Potentials(unary, no_edges(), torch.zeros(0).double(), rules)
        method = Exact()
        posterior = replace(method(potentials), marginals=marginals.double())
        chosen = decoder(posterior, potentials, method)
        assert rules.at_most.obeyed_by(chosen.byte().numpy()).all()
        thresholds = torch.tensor(decoder.threshold, dtype=torch.float64)
        assert torch.equal(chosen.bool(), scores > thresholds)
        assert chosen.any(0).all()


def test_a_label_that_implies_one_left_out_is_left_out() -> None:
    """The child alone would be supported; the parent's targets are unknown."""
    scores = torch.rand(300, 2, generator=torch.Generator().manual_seed(3)).double()
    targets = torch.ones(300, 2, dtype=torch.long)
    targets[:, 1] = -1
    for asked in (Guarantee(precision=0.9), Guarantee(recall=0.9)):
        assert label_thresholds(asked, scores, targets)[0] < LEFT_OUT
        assert label_thresholds(asked, scores, targets, Rules(((0, 1),))) == (LEFT_OUT, LEFT_OUT)


def test_signature_and_settings() -> None:
    """The signature names promise, confidence and images; what does not belong is refused."""
    decoder = Decoder.promising(Guarantee(precision=0.95))
    assert not decoder.is_ready
    marginals = torch.rand(50, 2)
    ready = decoder.calibrated(marginals, torch.ones(50, 2).long(), Rules(), "mine@abc")
    assert ready.signature == (
        "label-thresholds,precision:0.95,confidence:0.9,of:label,calibration:mine@abc"
    )
    assert ready.record()["guarantee"]["calibration"] == "mine@abc"
    for broken in (
        {"precision": 0.9, "recall": 0.9},
        {},
        {"precision": 1.0},
        {"recall": 0.9, "of": PrecisionOf.ALL},
    ):
        with pytest.raises(SettingsError):
            Guarantee(**broken)
    with pytest.raises(SettingsError, match="rule of its own"):
        Decoder(Decision.MAP, guarantee=Guarantee(precision=0.9))
