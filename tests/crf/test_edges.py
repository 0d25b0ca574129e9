"""Edge sets: the best tree, the strongest partners, and pairs from a file."""

import math
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from mlcrf.crf import edges as module
from mlcrf.crf.edges import load_edges, strongest_edges, tree_edges
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.labels import LabelSpace

Pair = tuple[int, int]
LABELS = LabelSpace(("sea", "sky", "tree", "sun set"))


def draw_targets(
    num_images: int, num_labels: int, *, unknown: float = 0.0, seed: int = 0
) -> NDArray[np.int8]:
    """Correlated labels: each is that before it, turned now and then, some of them unknown."""
    rng = np.random.default_rng(seed)
    states = (rng.random((num_images, num_labels)) < 0.3).astype(np.int8)
    for label in range(1, num_labels):
        kept = rng.random(num_images) < rng.uniform(0.2, 0.9)
        states[kept, label] = states[kept, label - 1]
    states[rng.random(states.shape) < unknown] = -1
    return states


def information(targets: NDArray[np.int8], first: int, second: int) -> float:
    """Mutual information by the formula of the module, image by image."""
    counts = {(a, b): 0 for a in (0, 1) for b in (0, 1)}
    for a, b in targets[:, [first, second]].tolist():
        if a >= 0 and b >= 0:
            counts[a, b] += 1
    n = sum(counts.values())
    of_first = {a: (counts[a, 0] + counts[a, 1] + 1) / (n + 2) for a in (0, 1)}
    of_second = {b: (counts[0, b] + counts[1, b] + 1) / (n + 2) for b in (0, 1)}
    q = {(a, b): (c + of_first[a] * of_second[b]) / (n + 1) for (a, b), c in counts.items()}
    return math.fsum(
        value * math.log(value / ((q[a, 0] + q[a, 1]) * (q[0, b] + q[1, b])))
        for (a, b), value in q.items()
        if value
    )


def pairs_of(edges: Tensor) -> list[Pair]:
    """Return pairs as tuples, once checked: int64 (E, 2), i < j, each once, in row order."""
    assert edges.dtype == torch.int64
    assert edges.ndim == 2
    pairs = [(i, j) for i, j in edges.tolist()]
    assert all(i < j for i, j in pairs)
    assert pairs == sorted(set(pairs))
    return pairs


def is_tree(pairs: tuple[Pair, ...], num_labels: int) -> bool:
    """Return whether num_labels - 1 pairs join all labels."""
    reached = {0}
    for _ in pairs:
        reached |= {label for pair in pairs if reached & set(pair) for label in pair}
    return len(pairs) == num_labels - 1 and len(reached) == num_labels


@pytest.mark.parametrize("unknown", [0.0, 0.3, 0.7, 1.0])
def test_information_is_that_of_the_formula(unknown: float) -> None:
    """It holds with many and few known labels, and images with one known label of two."""
    targets = draw_targets(60, 7, unknown=unknown)
    targets[:, 3] = 0  # never present
    targets[:, 4] = np.where(targets[:, 4] == 0, -1, targets[:, 4])  # never known to be absent
    ((start, found, _),) = module._information(targets)
    assert start == 0
    for i, j in combinations(range(7), 2):
        assert found[i, j] == pytest.approx(information(targets, i, j), abs=2e-12)
        assert found[j, i] == found[i, j]
    assert bool((found >= 0).all())


@pytest.mark.parametrize("unknown", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_tree_is_the_best_of_all(seed: int, unknown: float) -> None:
    """No spanning tree of five labels has a larger sum of mutual information."""
    targets = draw_targets(80, 5, unknown=unknown, seed=seed)
    gain = {pair: information(targets, *pair) for pair in combinations(range(5), 2)}
    trees = [pairs for pairs in combinations(gain, 4) if is_tree(pairs, 5)]
    assert len(trees) == 125
    best = max(trees, key=lambda pairs: math.fsum(gain[pair] for pair in pairs))
    assert pairs_of(tree_edges(targets)) == list(best)


def test_tree_finds_the_tree_that_made_the_labels() -> None:
    """With images enough, it is the tree along which labels were drawn, whatever its sign."""
    rng = np.random.default_rng(0)
    parents = [0, 0, 0, 1, 1, 2, 5, 5, 7]  # of labels 1 to 9
    targets = np.empty((20_000, 10), dtype=np.int8)
    targets[:, 0] = rng.random(20_000) < 0.5
    for label, parent in enumerate(parents, 1):
        turned = rng.random(20_000) < (0.15 if label % 2 else 0.85)
        targets[:, label] = targets[:, parent] ^ turned
    assert pairs_of(tree_edges(targets)) == sorted(zip(parents, range(1, 10), strict=True))


@pytest.mark.parametrize("unknown", [0.0, 0.2, 0.9])
def test_blocks_make_no_difference(unknown: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and images in small blocks give the same edges as all at once."""
    targets = draw_targets(300, 23, unknown=unknown)
    targets[:, 20:] = targets[:, :3]  # and so do ties
    tree, strongest = tree_edges(targets), strongest_edges(targets, 3)
    for pairs, states in ((23, 100), (5 * 23, 7), (1, 23 * 300)):
        monkeypatch.setattr(module, "_BLOCK_PAIRS", pairs)
        monkeypatch.setattr(module, "_BLOCK_TARGETS", states)
        assert torch.equal(tree_edges(targets), tree)
        assert torch.equal(strongest_edges(targets, 3), strongest)


@pytest.mark.parametrize("per_label", [1, 2, 4])
@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize("without", [(), ((2, 1), (1, 3), (6, 7))])
def test_strongest_partners(
    per_label: int, unknown: float, without: tuple[Pair, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The union over labels of those with which each has the most, but for what is ruled out."""
    monkeypatch.setattr(module, "_BLOCK_PAIRS", 3 * 8)
    targets = draw_targets(200, 8, unknown=unknown)
    wanted: set[Pair] = set()
    for label in range(8):
        ruled_out = {label, *(sum(pair) - label for pair in without if label in pair)}
        others = sorted(set(range(8)) - ruled_out, key=lambda j: -information(targets, label, j))
        wanted |= {(min(label, j), max(label, j)) for j in others[:per_label]}
    given = torch.tensor(without, dtype=torch.int64).reshape(-1, 2)
    assert pairs_of(strongest_edges(targets, per_label, without=given)) == sorted(wanted)


def test_more_partners_than_labels_is_every_pair() -> None:
    """Asking for more than there are gives the full graph."""
    targets = draw_targets(197, 6)  # a prime: no pair is independent to the last count
    assert pairs_of(strongest_edges(targets, 99)) == list(combinations(range(6), 2))


@pytest.mark.parametrize("present", [0.3, 0.7])
def test_attraction_and_repulsion_both_count(present: float) -> None:
    """A label that is the opposite of another is as strong a partner as its copy."""
    targets = draw_targets(500, 3)
    targets[:, 0] = np.random.default_rng(1).random(500) < present
    copy, opposite = targets.copy(), targets.copy()
    copy[:, 2], opposite[:, 2] = targets[:, 0], 1 - targets[:, 0]
    for states in (copy, opposite):
        assert (0, 2) in pairs_of(tree_edges(states))
        assert (0, 2) in pairs_of(strongest_edges(states, 1))


def test_rare_labels_that_never_meet_are_no_partners() -> None:
    """Two rare labels that are never together count for less than one meeting of two others."""
    targets = np.zeros((100_000, 4), dtype=np.int8)
    targets[:3, 0] = targets[3:6, 1] = 1  # never together
    targets[6:9, 2] = targets[8:11, 3] = 1  # once, in image 8
    assert pairs_of(strongest_edges(targets, 1))[-1] == (2, 3)
    ((_, found, _),) = module._information(targets)
    assert found[2, 3] > 1000 * found[0, 1]


def test_ties_go_to_the_first() -> None:
    """Copies of one label are all alike: the tree is the first label's star, and so on."""
    targets = np.repeat(draw_targets(50, 1), 4, axis=1)
    assert pairs_of(tree_edges(targets)) == [(0, 1), (0, 2), (0, 3)]
    assert pairs_of(strongest_edges(targets, 1)) == [(0, 1), (0, 2), (0, 3)]
    assert pairs_of(strongest_edges(targets, 2)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    many = np.repeat(draw_targets(50, 1), 300, axis=1)
    assert pairs_of(strongest_edges(many, 1)) == [(0, label) for label in range(1, 300)]
    assert pairs_of(tree_edges(many)) == [(0, label) for label in range(1, 300)]


def test_images_with_one_known_label_change_nothing() -> None:
    """Unknown labels are no counts: images that show no pair leave both edge sets alone."""
    targets = draw_targets(100, 6, unknown=0.2)
    lone = np.full((60, 6), -1, dtype=np.int8)
    lone[np.arange(60), np.arange(60) % 6] = np.arange(60) % 2
    more = np.concatenate([targets, lone])
    assert torch.equal(tree_edges(more), tree_edges(targets))
    assert torch.equal(strongest_edges(more, 2), strongest_edges(targets, 2))


def test_nothing_known() -> None:
    """Without data there is a tree all the same, and no partner."""
    for targets in (np.zeros((0, 4), np.int8), np.full((9, 4), -1, np.int8)):
        assert pairs_of(tree_edges(targets)) == [(0, 1), (0, 2), (0, 3)]
        assert pairs_of(strongest_edges(targets, 2)) == []
    assert pairs_of(tree_edges(np.ones((5, 1), np.int8))) == []
    assert pairs_of(strongest_edges(np.ones((5, 1), np.int8), 2)) == []


def test_tensors_and_other_integers() -> None:
    """Torch or numpy, int8 or int64: the same edges."""
    targets = draw_targets(100, 6, unknown=0.2)
    wanted = tree_edges(targets)
    for same in (torch.from_numpy(targets), torch.from_numpy(targets).long(), targets.astype(int)):
        assert torch.equal(tree_edges(same), wanted)
    full = draw_targets(100, 6)
    assert torch.equal(tree_edges(full.astype(bool)), tree_edges(full))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros(3, np.int8), r"expected integers \(N, L\), got int8 \(3,\)"),
        (np.zeros((3, 0), np.int8), r"expected integers \(N, L\), got int8 \(3, 0\)"),
        (np.zeros((3, 2)), r"expected integers \(N, L\), got float64 \(3, 2\)"),
        (np.full((3, 2), 2), r"expected 1 \(present\), 0 \(absent\) or -1 \(unknown\)"),
        (np.full((3, 2), -2), r"expected 1 \(present\), 0 \(absent\) or -1 \(unknown\)"),
    ],
)
def test_targets_that_are_none(targets: NDArray[np.int8], message: str) -> None:
    """Other shapes, types and values are refused."""
    with pytest.raises(DataError, match=message):
        tree_edges(targets)
    with pytest.raises(DataError, match=message):
        strongest_edges(targets, 1)


def test_no_partner_asked_for() -> None:
    """At least one partner a label."""
    with pytest.raises(SettingsError, match="expected at least 1, got 0"):
        strongest_edges(draw_targets(9, 3), 0)


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matrix of all pairs of labels is ever made: a quarter of one would be seen."""
    monkeypatch.setattr(module, "_BLOCK_PAIRS", 2**14)
    targets = np.zeros((2000, 1500), dtype=np.int8)
    rng = np.random.default_rng(0)
    targets[np.arange(2000)[:, None], rng.integers(0, 1500, (2000, 5))] = 1
    for choose in (tree_edges, lambda states: strongest_edges(states, 5)):
        tracemalloc.start()
        choose(targets)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * 1500**2 / 2


def write(folder: Path, text: str) -> Path:
    path = folder / "edges.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "sky,sea\nsun set,sea\n",
        "label_a,label_b\nsea,sun set\nsea,sky\n",
        '\ufefflabel_a,label_b\r\n"sea", sky\r\n\r\n"sun set",sea',
    ],
)
def test_load_edges(text: str, tmp_path: Path) -> None:
    """With or without header, in any order, quoted or not, whatever the line ends."""
    assert pairs_of(load_edges(write(tmp_path, text), LABELS)) == [(0, 1), (0, 3)]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("sea,sky\nsee,sky\n", LabelsError, ":2: unknown label 'see'; did you mean 'sea'"),
        ("label_a,label_b\nsea,Zz\n", LabelsError, ":2: unknown label 'Zz'$"),
        ("sea,sky\ntree,tree\n", LabelsError, ":2: label 'tree' is paired with itself"),
        ("sea,sky\n\nsky,sea\n", LabelsError, ":3: the pair 'sky', 'sea' is on line 1"),
        ("sea\n", DataError, ":1: expected two label names separated by a comma, got 1: 'sea'"),
        ("sea,sky,tree\n", DataError, ":1: expected two label names .* got 3: 'sea,sky,tree'"),
        ("sea;sky\n", DataError, ":1: expected two label names .* got 1: 'sea;sky'"),
        ("sea,\n", LabelsError, ":1: unknown label ''"),
        ("", DataError, "contains no label pair; expected lines such as `sea,sky`"),
        ("label_a,label_b\n\n", DataError, "contains no label pair"),
        ('sea,"sky\n', DataError, ":1: invalid CSV: unexpected end of data"),
    ],
)
def test_faults_of_the_file(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """Each names the file and the line, and what to do where that is not plain."""
    path = write(tmp_path, text)
    with pytest.raises(error, match=message) as caught:
        load_edges(path, LABELS)
    assert str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, or one that is not text."""
    with pytest.raises(DataError, match=r"none\.csv: cannot read label pairs: No such file"):
        load_edges(tmp_path / "none.csv", LABELS)
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"sea,\xff\n")
    with pytest.raises(DataError, match="cannot read label pairs: not UTF-8 text"):
        load_edges(path, LABELS)


def test_pairs_without_evidence_are_left_out() -> None:
    """Of 60 independent labels few are coupled by chance; a pair that belongs together stays."""
    rng = np.random.default_rng(0)
    targets = (rng.random((2000, 60)) < 0.05).astype(np.int8)
    targets[:, 1] = np.where(rng.random(2000) < 0.9, targets[:, 0], targets[:, 1])
    every = strongest_edges(targets, 4)
    evident = pairs_of(strongest_edges(targets, 4, false_share=0.05))
    assert len(every) > 100
    assert (0, 1) in evident
    assert len(evident) <= 3
    unknown = np.where(rng.random(targets.shape) < 0.3, -1, targets)
    assert (0, 1) in pairs_of(strongest_edges(unknown, 4, false_share=0.05))
    assert pairs_of(strongest_edges(targets[:, 2:3], 4, false_share=0.05)) == []


def test_evidence_is_that_of_the_step_up_procedure() -> None:
    """The same pairs as SciPy's chi-squared tests and false discovery rates of all pairs."""
    targets = draw_targets(300, 12)
    targets[:, 1] |= targets[:, 0]
    targets[:, 3] &= targets[:, 2]
    pairs = list(combinations(range(12), 2))
    (_, found, known) = next(module._information(targets))
    chance = [stats.chi2.sf(2 * known[pair] * found[pair], 1) for pair in pairs]
    adjusted = stats.false_discovery_control(chance)
    for share in (0.01, 0.2, 0.6):
        wanted = [pair for pair, one in zip(pairs, adjusted, strict=True) if one <= share]
        assert pairs_of(strongest_edges(targets, 11, false_share=share)) == wanted
