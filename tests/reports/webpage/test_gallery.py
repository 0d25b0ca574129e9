"""Which images are shown and why, against loops in plain Python."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import Run
from mlcrf.choices import EngineName
from mlcrf.evaluation import Answers
from mlcrf.model import no_edges
from mlcrf.reports.webpage import gallery
from mlcrf.reports.webpage.gallery import Kind, times
from tests.reports.webpage.making import ask, draw_targets, make_photos, make_run

LABELS = ("sea", "sky", "bird", "indoor")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "run", LABELS)


@pytest.fixture(scope="module")
def answers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Thirty images, a third of whose labels nobody knows."""
    names = tuple(f"{number}.jpg".encode() for number in range(30))
    images = make_photos(tmp_path_factory.mktemp("photos"), names)
    return ask(run, images, draw_targets(run, images, unknown=0.3))[0]


def test_surprise_is_the_log_ratio_of_the_best_sets(run: Run, answers: Answers) -> None:
    """By enumeration: of all sets, and of those that agree with what is annotated."""
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    features = torch.from_numpy(extractor.matrix(answers.manifest.images))
    with torch.no_grad():
        potentials = run.crf(features)
    edges, couplings = potentials.edges.tolist(), potentials.pairwise.tolist()
    assert answers.surprise is not None
    for row, targets in enumerate(answers.manifest.targets.tolist()):
        unary = potentials.unary[row].tolist()
        scores = {
            states: math.fsum(u * y for u, y in zip(unary, states, strict=True))
            + math.fsum(
                w * states[i] * states[j] for (i, j), w in zip(edges, couplings, strict=True)
            )
            for states in itertools.product((0, 1), repeat=4)
        }
        agreeing = [
            value
            for states, value in scores.items()
            if all(t in (-1, y) for t, y in zip(targets, states, strict=True))
        ]
        expected = max(scores.values()) - max(agreeing)
        assert answers.surprise[row] == pytest.approx(expected, abs=1e-4)


def test_surprise_of_a_mixture_over_scenes(answers: Answers, tmp_path: Path) -> None:
    """There is no score to compare; the probabilities of both sets are summed over the scenes."""
    mixture = make_run(tmp_path / "run", LABELS, edges=no_edges(), scenes=2)
    images = list(answers.manifest.images)[:6]
    said, _ = ask(mixture, images)
    extractor = FeatureExtractor(mixture.make_backbone(), engine=EngineName.TORCH)
    with torch.no_grad():
        potentials = mixture.crf(torch.from_numpy(extractor.matrix(images)))
    scenes = potentials.gates.double().softmax(-1)
    present = (potentials.unary[:, None] + potentials.shifts.detach()).double().sigmoid()

    def probability(row: int, states: list[int]) -> float:
        return math.fsum(
            float(weight)
            * math.prod(float(p) if y else 1 - float(p) for p, y in zip(ps, states, strict=True))
            for weight, ps in zip(scenes[row], present[row], strict=True)
        )

    assert said.surprise is not None
    for row, value in enumerate(said.surprise.tolist()):
        best = probability(row, said.crf.map_states[row].tolist())
        annotated = probability(row, said.manifest.targets[row].tolist())
        assert value == pytest.approx(math.log(best / annotated), abs=1e-4)


def test_surprises_are_sorted_and_differ_in_what_is_known(answers: Answers) -> None:
    """Falling; an image is among them if and only if a known label is not as expected."""
    rows = gallery.find_surprises(answers)
    assert answers.surprise is not None
    assert (np.diff(answers.surprise[rows]) <= 0).all()
    differ = {
        row
        for row, (targets, best) in enumerate(
            zip(answers.manifest.targets.tolist(), answers.crf.map_states.tolist(), strict=True)
        )
        if any(t >= 0 and t != y for t, y in zip(targets, best, strict=True))
    }
    assert set(rows.tolist()) == differ and differ
    for row in rows:
        tags = gallery.annotated_tags(answers, row) + gallery.expected_tags(answers, row)
        marked = [tag for tag in tags if tag.kind is not Kind.PLAIN]
        assert marked and all(tag.probability is not None for tag in marked)
        assert all(answers.manifest.targets[row, tag.label] >= 0 for tag in marked)


def test_changes_are_those_with_other_answers(answers: Answers) -> None:
    """Better, worse and neither are all that differ; the most labels put right come first."""
    changes = gallery.find_changes(answers)
    ours, theirs = (one.tolist() for one in gallery.chosen(answers))
    gains = {}
    for row, targets in enumerate(answers.manifest.targets.tolist()):
        if ours[row] != theirs[row]:
            wrong = [
                sum(t >= 0 and bool(t) != y for t, y in zip(targets, said, strict=True))
                for said in (ours[row], theirs[row])
            ]
            gains[row] = wrong[1] - wrong[0]
    assert {row for row, gain in gains.items() if gain > 0} == set(changes.better.tolist())
    assert {row for row, gain in gains.items() if gain < 0} == set(changes.worse.tolist())
    assert changes.neither == sum(gain == 0 for gain in gains.values())
    assert gains and changes.better.size and changes.worse.size
    better = [gains[row] for row in changes.better.tolist()]
    assert better == sorted(better, reverse=True)
    worse = [gains[row] for row in changes.worse.tolist()]
    assert worse == sorted(worse)


def test_tags_of_an_answer() -> None:
    """Right, false, missed, not known, and absent as it should be, which is not shown."""
    said = np.array([True, True, False, True, False])
    targets = np.array([1, 0, 1, -1, 0], dtype=np.int8)
    other = np.array([True, False, False, True, False])
    tags = gallery.answer_tags(said, targets, other)
    assert [(tag.label, tag.kind, tag.changed) for tag in tags] == [
        (0, Kind.PLAIN, False),
        (1, Kind.FALSE, True),
        (2, Kind.MISSED, False),
        (3, Kind.OPEN, False),
    ]


def test_of_many_tags_those_that_say_something_stay() -> None:
    """Forty at most, marked ones first, and how many more."""
    tags = [gallery.Tag(label) for label in range(60)]
    tags[59] = gallery.Tag(59, Kind.FALSE)
    kept, more = gallery.cut(tags)
    assert len(kept) == 40 and more == 20 and kept[0].label == 59


@pytest.mark.parametrize(
    ("nats", "text"),
    [
        (0.1, "1.1"),
        (math.log(9.94), "9.9"),
        (math.log(1234), "1,200"),
        (math.log(99_000), "99,000"),
        (math.log(3e7), "more than 10⁷"),
        (2000.0, "more than 10⁸⁶⁸"),
    ],
)
def test_times(nats: float, text: str) -> None:
    """Two digits, a power of ten where that is large, and no overflow."""
    assert times(nats) == text
