"""Label sets chosen together: against all combinations of label sets, on a few small images."""

from collections.abc import Sequence
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from mlcrf.choices import Decision
from mlcrf.decoding import Admissible, Decoder, maximise_f1_of_means
from mlcrf.errors import SettingsError
from mlcrf.prediction import PredictJob
from mlcrf.rules import Rules

LABELS = 4


def draw(num_images: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, LABELS, generator=generator, dtype=torch.float64)
    return (2 * logits - 1).sigmoid()


def free(marginals: Tensor, k: int, rules: Rules = Rules()) -> Admissible:
    return Admissible(torch.full(marginals.shape, -1), rules, k, k)


def f1_of_means(chosen: Sequence[Sequence[int]], marginals: list[list[float]]) -> float:
    """F1 of mean precision and mean recall, label by label, with probabilities for the truth."""
    precision = recall = 0.0
    for label in range(LABELS):
        hits = sum(p[label] for h, p in zip(chosen, marginals, strict=True) if h[label])
        count = sum(h[label] for h in chosen)
        precision += hits / count / LABELS if count else 0
        recall += hits / sum(p[label] for p in marginals) / LABELS
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("num_images", "k"), [(3, 1), (4, 2)])
def test_near_the_best_of_all(num_images: int, k: int) -> None:
    """Of 30 cases most are the best of all, and all are close; the value is what it says."""
    every = range(LABELS)
    sets = [tuple(int(label in one) for label in every) for one in combinations(every, k)]
    shares = []
    for seed in range(30):
        marginals = draw(num_images, seed)
        states, value = maximise_f1_of_means(marginals, free(marginals, k))
        assert states.sum(1).tolist() == [k] * num_images
        p = marginals.tolist()
        assert value == pytest.approx(f1_of_means(states.tolist(), p))
        best = max(f1_of_means(chosen, p) for chosen in product(sets, repeat=num_images))
        shares.append(value / best)
    assert max(shares) < 1 + 1e-9
    assert sum(share > 1 - 1e-9 for share in shares) >= 20
    assert min(shares) > 0.85


def test_other_images_decide() -> None:
    """A sure label is not wanted a second time where that costs precision; rules hold."""
    marginals = torch.tensor([[0.9, 0.1], [0.3, 0.1]], dtype=torch.float64)
    states, _ = maximise_f1_of_means(marginals, free(marginals, 1))
    assert states.tolist() == [[1, 0], [0, 1]]
    alone, _ = maximise_f1_of_means(marginals[1:], free(marginals[1:], 1))
    assert alone.tolist() == [[1, 0]]
    wide = draw(12, 0)
    states, _ = maximise_f1_of_means(wide, free(wide, 2, Rules(((0, 3), (1, 3)))))
    assert states.sum(1).tolist() == [2] * 12
    assert bool((states[:, :2].amax(1) <= states[:, 3]).all())


def test_images_are_not_tagged_by_it() -> None:
    """A row of predictions must not depend on other rows."""
    with pytest.raises(SettingsError, match="f1-of-means chooses for all images together"):
        PredictJob("", Decoder(Decision.F1_OF_MEANS, k=3))
