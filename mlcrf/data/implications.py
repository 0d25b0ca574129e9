"""Implications between labels: loaded from a file, and data made to obey them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from mlcrf.data.manifest import Manifest
from mlcrf.data.pairs import load_pairs
from mlcrf.errors import LabelsError
from mlcrf.implications import Implications, find_cycle
from mlcrf.labels import UNKNOWN, LabelSpace

HEADER = ("child", "parent")
_MOST_NOTES = 10  # implications that are named, of those that the data break


def load_implications(
    path: Path, labels: LabelSpace, *, given: Implications = Implications()
) -> Implications:
    """Load implications, `child,parent` or `child => parent` a line, and add them to others.

    A first line `child,parent` and blank lines are skipped.

    Args:
        given: those that the data set has of its own; the file may repeat them.

    Returns:
        Those given, then those of the file that are new.

    Raises:
        DataError, LabelsError: see `mlcrf.data.pairs.load_pairs`; and where labels imply each
            other in a circle, which is named with its last line.
    """
    lines = load_pairs(path, labels, HEADER, directed=True)
    pairs = tuple(dict.fromkeys([*given.pairs, *lines]))
    cycle = find_cycle(pairs)
    if cycle:
        line = max(lines.get(pair, 0) for pair in pairwise(cycle))
        raise LabelsError(
            f"{path}:{line}: labels imply each other in a circle: "
            f"{' => '.join(labels.names[label] for label in cycle)}; take one out"
        )
    return Implications(pairs)


def with_implications(manifest: Manifest, implications: Implications) -> Manifest:
    """Return the same images with these implications, and targets that obey them.

    An image that has a child has its parents, whatever the data say of them; and where a parent
    is absent and a child unknown, the child is absent. The notes say how often the data said
    otherwise, pair by pair, and how many unknown labels became known.

    Args:
        implications: between the labels of the manifest, in place of those that it has.
    """
    targets, broken = implications.repair(manifest.targets)
    names = manifest.labels.names
    notes = [
        f"{_images(count)} {names[child]} without {names[parent]}: {names[parent]} was set"
        for (child, parent), count in list(broken.items())[:_MOST_NOTES]
    ]
    more = list(broken.values())[_MOST_NOTES:]
    if more:
        notes.append(f"{len(more)} more implications were broken {sum(more)} times, and repaired")
    learned = int(((manifest.targets == UNKNOWN) & (targets != UNKNOWN)).sum())
    if learned:
        notes.append(f"{learned} unknown labels follow from implications and were filled in")
    return replace(
        manifest, targets=targets, implications=implications, notes=(*manifest.notes, *notes)
    )


def _images(count: int) -> str:
    return "1 image has" if count == 1 else f"{count} images have"
