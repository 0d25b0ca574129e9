"""Implications between labels, such as dog => animal: loaded, checked, and data made to obey."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.manifest import UNKNOWN, Implication, Manifest
from mlcrf.data.pairs import ARROW, load_pairs
from mlcrf.errors import LabelsError
from mlcrf.labels import LabelSpace

HEADER = ("child", "parent")
_MOST_NOTES = 10  # rules that are named, of those that the data break


def load_implications(
    path: Path, labels: LabelSpace, *, given: Iterable[Implication] = ()
) -> tuple[Implication, ...]:
    """Load implications, `child,parent` or `child => parent` a line, beside those that hold anyhow.

    A first line `child,parent` and blank lines are skipped.

    Args:
        given: those that the data set has of its own; the file may repeat them.

    Returns:
        Those given, then those of the file that are new.

    Raises:
        DataError, LabelsError: see `mlcrf.data.pairs.load_pairs`; and where labels imply each
            other in a circle, which is named with its last line.
    """
    pairs = load_pairs(path, labels, HEADER, directed=True)
    lines = {
        (labels.names[child], labels.names[parent]): at for (child, parent), at in pairs.items()
    }
    together = tuple(dict.fromkeys([*given, *lines]))
    circle = _circle(together)
    if circle:
        line = max(lines.get(rule, 0) for rule in pairwise(circle))
        raise LabelsError(
            f"{path}, line {line}: labels imply each other in a circle: "
            f"{f' {ARROW} '.join(circle)}; take one out"
        )
    return together


def with_implied(names: Iterable[str], rules: Iterable[Implication]) -> frozenset[str]:
    """Labels and all that they imply, rules that hang together followed."""
    parents: dict[str, list[str]] = {}
    for child, parent in rules:
        parents.setdefault(child, []).append(parent)
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += parents.get(name, ())
    return frozenset(found)


def with_implications(manifest: Manifest, implications: Iterable[Implication]) -> Manifest:
    """The same images with these implications, and targets that obey them.

    An image that has a child has its parents, whatever the data say of them; and where a parent
    is absent and a child unknown, the child is absent. The notes say how often the data said
    otherwise, rule by rule, and how many unknown labels became known.

    Args:
        implications: in place of those that the manifest has.

    Raises:
        LabelsError: an unknown label, or labels that imply each other in a circle.
    """
    rules = tuple(implications)
    for name in sorted({name for rule in rules for name in rule} - set(manifest.labels)):
        manifest.labels.index(name)  # says which, and the closest
    circle = _circle(rules)
    if circle:
        raise LabelsError(
            f"{manifest.name}: labels imply each other in a circle: {f' {ARROW} '.join(circle)}"
        )
    targets = manifest.targets.copy()
    broken = _obey(targets, _in_order(rules, manifest.labels))
    notes = [
        f"{_images(count)} {rule[0]} without {rule[1]}: {rule[1]} was set"
        for rule, count in list(broken.items())[:_MOST_NOTES]
    ]
    more = list(broken.values())[_MOST_NOTES:]
    if more:
        notes.append(f"{len(more)} more implications were broken {sum(more)} times, and repaired")
    learned = int(((manifest.targets == UNKNOWN) & (targets != UNKNOWN)).sum())
    if learned:
        notes.append(f"{learned} unknown labels follow from implications and were filled in")
    return replace(manifest, targets=targets, implications=rules, notes=(*manifest.notes, *notes))


def _obey(
    targets: NDArray[np.int8], rules: Mapping[Implication, tuple[int, int]]
) -> dict[Implication, int]:
    """Repair targets in place; how many images broke each rule, of those that any did.

    Args:
        rules: their columns (child, parent), those into a label before those out of it.
    """
    broken = {}
    for rule, (child, parent) in rules.items():
        has_child = targets[:, child] == 1
        count = int((has_child & (targets[:, parent] == 0)).sum())
        if count:
            broken[rule] = count
        targets[has_child, parent] = 1
    for child, parent in reversed(list(rules.values())):
        targets[(targets[:, parent] == 0) & (targets[:, child] == UNKNOWN), child] = 0
    return broken


def _in_order(
    rules: tuple[Implication, ...], labels: LabelSpace
) -> dict[Implication, tuple[int, int]]:
    """Rules with their columns, those into a label before those out of it."""
    column = {name: at for at, name in enumerate(labels)}
    rank = {name: at for at, name in enumerate(_sorter(rules).static_order())}
    ordered = sorted(rules, key=lambda rule: (rank[rule[0]], rank[rule[1]]))
    return {(child, parent): (column[child], column[parent]) for child, parent in ordered}


def _circle(rules: Iterable[Implication]) -> list[str]:
    """Labels each of which implies the next, ending where they began; empty if there are none."""
    try:
        _sorter(rules).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def _sorter(rules: Iterable[Implication]) -> "TopologicalSorter[str]":
    """Children before parents."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for child, parent in rules:
        sorter.add(parent, child)
    return sorter


def _images(count: int) -> str:
    return "1 image has" if count == 1 else f"{count} images have"
