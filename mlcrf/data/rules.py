"""Load rules between labels, and make data obey them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.manifest import Manifest
from mlcrf.data.pairs import load_lines
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules import Limit, Rule, Rules, read_rules, rule_text

_HEADER = ["child", "parent"]
_MOST_NOTES = 10  # broken rules that are named


def load_rules(path: Path, labels: LabelSpace, *, given: Rules = Rules()) -> Rules:
    """Load rules, one on each line, and add them to others; see `mlcrf.rules.lines.parse_rule`.

    A first line `child,parent`, blank lines and lines that begin with # are skipped.

    Args:
        given: rules of the data set; the file may repeat them.

    Returns:
        The given rules, then new ones from the file.

    Raises:
        DataError: no such file, not UTF-8, or no rule in it.
        LabelsError: see `mlcrf.rules.read_rules`.
    """
    lines = list(enumerate(load_lines(path, "rules"), 1))
    if lines and [cell.strip() for cell in lines[0][1].split(",")] == _HEADER:
        lines = lines[1:]
    if not any(line.strip() and not line.lstrip().startswith("#") for _, line in lines):
        raise DataError("contains no rule; expected lines such as `dog => animal`", path)
    return read_rules(lines, labels, given=given, place=str(path))


def with_rules(manifest: Manifest, rules: Rules) -> Manifest:
    """Return the same images with these rules, and targets that obey them; see `Rules.repair`.

    Notes count the changes per rule and the labels filled in.

    Args:
        rules: replace the manifest's own.
    """
    targets, broken = rules.repair(manifest.targets)
    notes = [_note(manifest, *one) for one in list(broken.items())[:_MOST_NOTES]]
    more = [len(images) for images in list(broken.values())[_MOST_NOTES:]]
    if more:
        notes.append(f"{len(more)} more rules were broken {sum(more)} times, and repaired")
    learned = int(((manifest.targets == UNKNOWN) & (targets != UNKNOWN)).sum())
    if learned:
        notes.append(f"{learned} unknown labels follow from rules and were filled in")
    return replace(manifest, targets=targets, rules=rules, notes=(*manifest.notes, *notes))


def _note(manifest: Manifest, rule: Rule, images: NDArray[np.int64]) -> str:
    names, count = manifest.labels.names, len(images)
    if isinstance(rule, Limit):
        first = manifest.images[images[0]].name
        return (
            f"{count} image{'' if count == 1 else 's'} of {manifest.name} "
            f"{'breaks' if count == 1 else 'break'} the rule `{rule_text(rule, names)}`, the first "
            f"is {first} ({manifest.place(images[0])}): the labels in question count as unknown "
            "there; correct them, or give the rule a weight"
        )
    child, parent = (names[label] for label in rule)
    has = "1 image has" if count == 1 else f"{count} images have"
    first = f"; the first is in {manifest.place(images[0])}" if manifest.lines else ""
    return f"{has} {child} without {parent}: {parent} was set{first}"
