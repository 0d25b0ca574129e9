"""Pairs with a coupling, next to those that rules link."""

from itertools import combinations
from pathlib import Path

import numpy as np

from mlcrf.choices import Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.data.rules import with_rules
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules
from mlcrf.training.plan import choose_edges

RULES = Rules(((2, 1), (1, 0), (3, 0)))  # so c implies a too
TIED = {(1, 2), (0, 1), (0, 3), (0, 2)}


def make_manifest() -> Manifest:
    """Six labels, each much like the one before it, so that all of them tell of each other."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 6)) < 0.5).astype(np.int8)
    for label in range(1, 6):
        kept = rng.random(400) < 0.8
        targets[kept, label] = targets[kept, label - 1]
    images = tuple(as_image(f"im{row}.jpg") for row in range(400))
    return with_rules(Manifest(images, targets, LabelSpace(tuple("abcdef")), None, "made"), RULES)


def pairs_of(settings: TrainSettings, manifest: Manifest) -> set[tuple[int, int]]:
    edges = choose_edges(settings, manifest.labels, manifest.targets, manifest.rules).tolist()
    pairs = {(first, second) for first, second in edges}
    assert len(pairs) == len(edges)
    return pairs


def test_full_leaves_out_what_is_tied() -> None:
    """Every pair but a label and what it implies, through another label too."""
    manifest = make_manifest()
    everything = set(combinations(range(6), 2))
    assert pairs_of(TrainSettings(), manifest) == everything - TIED
    free = with_rules(manifest, Rules())
    assert pairs_of(TrainSettings(), free) == everything


def test_sparse_chooses_other_partners() -> None:
    """A label whose strongest partner is its parent has as many couplings as any."""
    settings = TrainSettings(structure=Structure.SPARSE, edges_per_label=1)
    manifest = make_manifest()
    assert (0, 1) in pairs_of(settings, with_rules(manifest, Rules()))
    chosen = pairs_of(settings, manifest)
    assert not chosen & TIED
    assert {label for pair in chosen for label in pair} == set(range(6))


def test_a_tree_keeps_what_rules_do_not_say() -> None:
    """Of the best tree those edges remain that join labels without an implication."""
    settings = TrainSettings(structure=Structure.TREE)
    manifest = make_manifest()
    tree = pairs_of(settings, with_rules(manifest, Rules()))
    assert tree & TIED
    assert pairs_of(settings, manifest) == tree - TIED


def test_a_file_is_taken_at_its_word(tmp_path: Path) -> None:
    """An edge between child and parent stays if a file names it."""
    path = tmp_path / "edges.csv"
    path.write_text("a,b\nb,e\n")
    settings = TrainSettings(structure=Structure.FILE, edges_file=str(path))
    assert pairs_of(settings, make_manifest()) == {(0, 1), (1, 4)}
