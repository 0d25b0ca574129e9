"""Sources that list only a part of what is present: their evidence, their shares, their runs."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials, full_edges
from mlcrf.data.joining import with_mentions
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact
from mlcrf.model import no_edges
from mlcrf.objectives import ContrastiveDivergence, exact_likelihood_loss, independent_loss
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training.extraction import Environment
from mlcrf.training.mentions import _shares, code_silence, draw_unmentioned
from mlcrf.training.plan import make_plan
from mlcrf.training.run import train

SAID = {
    "flickr": np.array([[1, 0, 0], [0, -1, 0]], dtype=np.int8),
    "robot": np.array([[0, 0, -1], [0, 0, -1]], dtype=np.int8),
}
TARGETS = np.array([[1, -1, -1], [-1, -1, 0]], dtype=np.int8)
SHARES = np.array([[0.5, 0.3, 0.9], [0.2, 0.4, 0.1]])


def test_codes_of_what_is_not_mentioned() -> None:
    """Each combination of silent sources has a code; what is known keeps its value."""
    coded, silence = code_silence(TARGETS, SAID)
    evidence = silence.evidence(SHARES).double().numpy()
    for row, column in itertools.product(range(2), range(3)):
        silent = [n for n, said in enumerate(SAID.values()) if said[row, column] == 0]
        if TARGETS[row, column] >= 0 or not silent:
            assert coded[row, column] == TARGETS[row, column]
            continue
        expected = math.fsum(math.log(1 - SHARES[source, column]) for source in silent)
        assert evidence[-1 - coded[row, column], column] == pytest.approx(expected, abs=1e-6)


def test_the_likelihood_of_mentions_equals_the_sum_over_label_sets() -> None:
    """Of the CRF, and without couplings of the baseline and of sampling, with its gradient."""
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    coded, silence = code_silence(TARGETS, SAID)
    targets, evidence = torch.from_numpy(coded).long(), silence.evidence(SHARES).double()
    coupled = Potentials(unary, full_edges(3), torch.tensor([1.0, -2.0, 0.5]).double())
    total = 0.0
    for row in range(2):
        weights = {}
        for state in itertools.product((0, 1), repeat=3):
            score = float(coupled.log_score(torch.tensor([state, state]))[row].detach())
            said = math.prod(
                1.0 if not y else 1 - SHARES[n, i] if one[row, i] == 0 else 1.0
                for i, y in enumerate(state)
                for n, one in enumerate(SAID.values())
                if TARGETS[row, i] < 0
            )
            agrees = all(t in (-1, y) for t, y in zip(TARGETS[row], state, strict=True))
            weights[state] = (math.exp(score), math.exp(score) * said * agrees)
        whole, seen = (math.fsum(column) for column in zip(*weights.values(), strict=True))
        total -= math.log(seen / whole) / 2
    found = exact_likelihood_loss(coupled, targets, exact=Exact(), silence=evidence)
    assert float(found.detach()) == pytest.approx(total, abs=1e-6)

    alone = Potentials(unary, no_edges(), torch.zeros(0).double())
    exact = exact_likelihood_loss(alone, targets, silence=evidence)
    simple = independent_loss(alone, targets, silence=evidence)
    assert float(exact.detach()) == pytest.approx(float(simple.detach()), abs=1e-6)
    [expected] = torch.autograd.grad(exact, unary)
    sampled = Potentials(unary.float(), no_edges(), torch.zeros(0))
    losses = simple, ContrastiveDivergence(silence=evidence.float())(sampled, targets)
    for loss in losses:
        [gradient] = torch.autograd.grad(loss, unary)
        assert torch.allclose(gradient, expected, atol=1e-5)


def test_shares_are_those_of_the_surest_images() -> None:
    """Of a label mentioned in 40 % of its images; images known to lack it do not count."""
    rng = np.random.default_rng(0)
    present = np.arange(20000) < 10000
    said = (present & (rng.random(20000) < 0.4)).astype(np.int8)[:, None]
    scores = (present + 0.1 * rng.random(20000)).astype(np.float32)[:, None]
    targets = np.where(said == 1, 1, -1).astype(np.int8)
    absent = np.arange(20000) >= 19000
    scores[absent], targets[absent] = 9, 0
    assert _shares(scores, targets, said)[0] == pytest.approx(0.4, abs=0.05)


def test_drawn_labels_are_as_frequent_as_they_are_likely() -> None:
    targets = torch.full((20000, 1), -2)
    targets[:10] = 1
    drawn = draw_unmentioned(
        targets, torch.full((20000, 1), 0.5), torch.tensor([[0.0], [math.log(0.25)]]), seed=0
    )
    assert bool((drawn[:10] == 1).all())
    assert float(drawn[10:].float().mean()) == pytest.approx(0.125 / 0.625, abs=0.01)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Scenes of whose present labels half are lost in training and validation images."""
    folder = tmp_path_factory.mktemp("scenes")
    make_dataset(folder, num_images=240, image_size_px=32)
    data = read_dataset(folder / "labels.csv")
    lost = np.random.default_rng(0).random(data.targets.shape) < 0.5
    lost &= (np.array(data.splits) != Split.TEST)[:, None]
    return with_mentions(replace(data, targets=np.where(lost, np.int8(0), data.targets)), "tags")


def test_a_run_predicts_presence_not_mention(scenes: Manifest, tmp_path: Path) -> None:
    """It finds about as many labels as there are, keeps the shares, and resumes with the same."""
    settings = TrainSettings(penalties=(0.3,), pairwise_penalties=(0.01,))
    environment = Environment(cache_dir=cache_dir(None))
    run = train(scenes, tmp_path / "run", settings, environment).run
    shares = run.mentions["tags"]
    assert list(shares) == list(scenes.labels)
    assert 0.3 < np.mean(list(shares.values())) < 0.6
    assert run.settings.objective == "exact-likelihood"
    again = train(scenes, tmp_path / "run", settings, environment, resume=True).run
    assert again.digest == run.digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "pseudo-likelihood"}, "--lists positives goes with objective auto or"),
        ({"finetune": "all"}, "--lists positives goes with finetune auto or none, not all"),
        ({"structure": "latent"}, "does not go with --structure latent"),
    ],
)
def test_refused_settings(scenes: Manifest, change: dict[str, str], says: str) -> None:
    settings = TrainSettings.model_validate(change)
    with pytest.raises(SettingsError, match=says):
        make_plan(settings, scenes.labels, no_edges(), scenes.rules, mentions=True)
