"""Load rules between labels, and make data obey them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.data.pairs import load_pairs
from mlcrf.errors import LabelsError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules import Rules, find_cycle

HEADER = ("child", "parent")
_MOST_NOTES = 10  # broken rules that are named


def load_rules(path: Path, labels: LabelSpace, *, given: Rules = Rules()) -> Rules:
    """Load rules, one `child,parent` or `child => parent` per line, and add them to others.

    A first line `child,parent` and blank lines are skipped.

    Args:
        given: rules of the data set; the file may repeat them.

    Returns:
        The given rules, then new ones from the file.

    Raises:
        DataError, LabelsError: see `mlcrf.data.pairs.load_pairs`; also if labels imply each
            other in a circle.
    """
    lines = load_pairs(path, labels, HEADER, directed=True)
    pairs = tuple(dict.fromkeys([*given.pairs, *lines]))
    cycle = find_cycle(pairs)
    if cycle:
        line = max(lines.get(pair, 0) for pair in pairwise(cycle))
        raise LabelsError(
            f"{path}:{line}: labels imply each other in a circle: "
            f"{' => '.join(labels.names[label] for label in cycle)}; remove one"
        )
    return Rules(pairs)


def with_rules(manifest: Manifest, rules: Rules) -> Manifest:
    """Return the same images with these rules, and targets that obey them.

    An image that has a child is given all its parents; if a parent is absent and a child unknown,
    the child is absent. Notes count the changes per implication and the labels filled in.

    Args:
        rules: replace the manifest's own.
    """
    targets, broken = rules.repair(manifest.targets)
    names = manifest.labels.names
    notes = [
        f"{_images(count)} {names[child]} without {names[parent]}: {names[parent]} was set"
        for (child, parent), count in list(broken.items())[:_MOST_NOTES]
    ]
    more = list(broken.values())[_MOST_NOTES:]
    if more:
        notes.append(f"{len(more)} more rules were broken {sum(more)} times, and repaired")
    learned = int(((manifest.targets == UNKNOWN) & (targets != UNKNOWN)).sum())
    if learned:
        notes.append(f"{learned} unknown labels follow from rules and were filled in")
    return replace(manifest, targets=targets, rules=rules, notes=(*manifest.notes, *notes))


def _images(count: int) -> str:
    return "1 image has" if count == 1 else f"{count} images have"
