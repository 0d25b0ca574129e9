"""Rules between labels: closure, circles, and labels that break them."""

from itertools import product

import numpy as np
import pytest

from mlcrf.errors import LabelsError
from mlcrf.labels import LabelSpace
from mlcrf.rules import Limit, Rules, find_cycle
from tests.drawn_rules import random_rules

LABELS = LabelSpace(("animal", "dog", "puppy", "pet", "sky"))
RULES = Rules(((1, 0), (2, 1), (1, 3)))  # puppy => dog => animal and pet


def draw(rng: np.random.Generator, num_labels: int = 8) -> Rules:
    order = rng.permutation(num_labels).tolist()
    places = [(i, j) for i in range(num_labels) for j in range(i) if rng.random() < 0.25]
    return Rules(tuple((order[i], order[j]) for i, j in places))


def test_pairs_by_name_and_as_arrays() -> None:
    """All ways to say the same make the same value."""
    names = (("dog", "animal"), ("puppy", "dog"), ("dog", "pet"))
    assert Rules.from_names(names, LABELS) == RULES
    assert RULES.names(LABELS) == names
    assert Rules.from_array(RULES.array) == RULES
    assert RULES.renumbered([3, 2, 4, 1, 0]).pairs == ((3, 4), (1, 3), (3, 0))
    assert (RULES.num_labels, Rules().num_labels) == (4, 0)
    assert Rules().array.shape == (0, 2)


def test_what_follows() -> None:
    """Through others too, upwards and downwards."""
    assert RULES.closure == ((1, 0), (1, 3), (2, 0), (2, 1), (2, 3))
    assert RULES.with_parents([2]) == {0, 1, 2, 3} and RULES.with_parents([4]) == {4}
    assert RULES.with_children([3, 4]) == {1, 2, 3, 4}
    assert RULES.parents == {1: [0, 3], 2: [1]}
    assert RULES.heights(5).tolist() == [2, 1, 0, 2, 0]


def test_closing_is_what_one_rule_after_the_other_says() -> None:
    """On random labels and rules, until none says any more: upwards first, then downwards."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        rules = draw(rng)
        known = rng.integers(-1, 2, (20, 8))
        wanted = known.tolist()
        for row in wanted:
            for _ in range(8):
                for child, parent in rules.pairs:
                    row[parent] = 1 if row[child] == 1 else row[parent]
            for _ in range(8):
                for child, parent in rules.pairs:
                    row[child] = 0 if row[parent] == 0 and row[child] == -1 else row[child]
        assert rules.close(known).tolist() == wanted


def test_a_contradiction_is_what_no_label_set_agrees_with() -> None:
    """Found exactly where none does; it names an image and a pair that cannot both be."""
    rng = np.random.default_rng(1)
    contradictions = 0
    for _ in range(20):
        rules = draw(rng, 5)
        known = rng.integers(-1, 2, (6, 5))
        fine = [
            any(
                all(state[label] == row[label] or row[label] < 0 for label in range(5))
                and all(state[child] <= state[parent] for child, parent in rules.pairs)
                for state in product((0, 1), repeat=5)
            )
            for row in known.tolist()
        ]
        for row, possible in zip(known, fine, strict=True):
            assert (rules.contradiction(row[None]) is None) == possible
        found = rules.contradiction(known)
        assert (found is None) == all(fine)
        if found is not None:
            contradictions += 1
            image, (child, parent) = found
            present = {label for label in range(5) if known[image, label] == 1}
            assert not fine[image] and (child, parent) in rules.pairs
            assert known[image, parent] == 0 and child in rules.with_parents(present)
    assert contradictions > 5


@pytest.mark.parametrize("seed", range(30))
def test_limits_are_closed_and_contradicted_as_by_enumeration(seed: int) -> None:
    """Closed is what all label sets have that agree; without any there is a contradiction."""
    rng = np.random.default_rng(seed)
    rules = random_rules(rng, 6)
    every = np.array(list(product((0, 1), repeat=6)))
    allowed = every[rules.obeyed_by(every)]
    known = rng.integers(-1, 2, (20, 6)) * (rng.random((20, 6)) < 0.4) - 0
    known[rng.random((20, 6)) < 0.5] = -1
    for row in known:
        agreeing = allowed[((row < 0) | (allowed == row)).all(1)]
        assert (rules.contradiction(row[None]) is None) == (len(agreeing) > 0)
        found = rules.completion(row)
        assert (found is None) == (len(agreeing) == 0)
        assert bool(rules.disagreement(row)) == (len(agreeing) == 0)
        if len(agreeing):
            closed = rules.close(row[None])[0]
            same = (agreeing == agreeing[0]).all(0)
            assert closed.tolist() == np.where(same, agreeing[0], -1).tolist()
            assert (agreeing == found).all(1).any()
    repaired, broken = rules.repair(known)
    if len(allowed):
        assert rules.contradiction(repaired) is None
        fine = [rules.contradiction(row[None]) is None for row in known]
        named = {int(image) for images in broken.values() for image in images}
        assert named == {image for image, is_fine in enumerate(fine) if not is_fine}


def test_rules_of_some_labels() -> None:
    """What a limit says of the labels that stay, and of those that are left given the others."""
    rules = Rules(
        ((1, 0),), (Limit((2, 3, 4), 0, 1), Limit((0, 3), 1, 2), Limit((2, 4), 0, 1, 3.0))
    )
    some = rules.without_others([4, 2, 0])
    assert some.limits == (Limit((1, 0), 0, 1), Limit((1, 0), 0, 1, 3.0))
    known = [-1, -1, -1, 0, 0]
    assert rules.given(known, [0, 1, 2]) == Rules(((1, 0),), (Limit((0,), 1, 2),))
    assert rules.at_most.limits == (Limit((2, 3, 4), 0, 1),)


def test_rules_that_cannot_hold() -> None:
    """A circle, an unknown label, a column that there cannot be and another shape."""
    with pytest.raises(LabelsError, match="labels imply each other in a circle: dog => dog"):
        Rules.from_names([("dog", "dog")], LABELS)
    with pytest.raises(LabelsError, match="unknown label 'dogg'; did you mean 'dog'"):
        Rules.from_names([("dogg", "dog")], LABELS)
    with pytest.raises(LabelsError, match="imply each other in a circle"):
        Rules(((0, 1), (1, 2), (2, 0)))
    with pytest.raises(LabelsError, match="expected columns"):
        Rules(((0, -1),))
    with pytest.raises(LabelsError, match="expected int64"):
        Rules.from_array(np.zeros((2, 3), dtype=np.int64))
    assert find_cycle(RULES.pairs) == []
