"""Estimates of a tag's errors from answers that were not chosen by chance."""

import torch

from mlcrf.review.quality import estimate_quality


def test_answers_near_the_boundary_and_spot_checks() -> None:
    """The share of right tags among the answers is not that among all photos."""
    covered, widths = 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        scores = 3 * torch.randn(2000, generator=generator) - 2
        truth = torch.bernoulli((1.5 * scores + 0.5).sigmoid(), generator=generator).long()
        answers = torch.full((2000,), -1)
        asked = scores.abs().argsort()[:60]
        asked = torch.cat([asked, torch.randperm(2000, generator=generator)[:20]])
        answers[asked] = truth[asked]
        found = estimate_quality(scores, answers, scores > 0)
        assert found is not None
        is_open = answers < 0
        right = int(truth[is_open & (scores > 0)].sum())
        missed = int(truth[is_open & (scores <= 0)].sum())
        covered += found.right.low <= right <= found.right.high
        covered += found.missed.low <= missed <= found.missed.high
        widths.append((found.right.high - found.right.low) / found.tagged)
        assert found.tagged == int((is_open & (scores > 0)).sum())
    assert covered >= 0.9 * 80
    assert sorted(widths)[20] < 0.4  # of the tagged photos


def test_answers_that_confirm_likely_photos() -> None:
    """With many more answers of yes than of no, the learner expects the tag too often."""
    covered = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(2000, generator=generator)
        logits = 1.1 * scores - 3
        truth = torch.bernoulli(logits.sigmoid(), generator=generator).long()
        confirmed = torch.bernoulli((logits + 2.5).sigmoid(), generator=generator).long()
        answers = torch.full((2000,), -1)
        asked = scores.argsort(descending=True)[:60]
        answers[asked] = confirmed[asked]
        asked = scores.abs().argsort()[:8]
        answers[asked] = truth[asked]
        found = estimate_quality(scores, answers, scores > 0)
        if found is not None:
            right = int(truth[(answers < 0) & (scores > 0)].sum())
            covered.append(found.right.low <= right <= found.right.high)
    assert len(covered) > 30
    assert sum(covered) >= 0.9 * len(covered)


def test_too_few_answers_say_nothing() -> None:
    answers = torch.full((100,), -1)
    answers[:5], answers[5:9] = 1, 0
    assert estimate_quality(torch.zeros(100), answers, torch.zeros(100) > 0) is None
    answers[9] = 0
    assert estimate_quality(torch.zeros(100), answers, torch.zeros(100) > 0) is not None
