"""Rules as lines of text."""

import csv
import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from mlcrf.errors import LabelsError
from mlcrf.hints import did_you_mean
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules.limit import Limit
from mlcrf.rules.ruleset import Pair, Rule, Rules, find_cycle, rule_text

_ARROW = "=>"
_KINDS = ("exclusive", "never together", "at most N of", "at least N of", "exactly N of")
_LIMIT = re.compile(
    r"\s*(?P<kind>exclusive|never\s+together"
    r"|(?P<how>at\s+most|at\s+least|exactly)\s+(?P<number>\d+)\s+of)"
    r"\s*(\((?P<weight>[^)]*)\))?\s*:(?P<names>.*)",
    re.IGNORECASE,
)


def read_rules(
    lines: Iterable[tuple[int, str]], labels: LabelSpace, *, given: Rules = Rules(), place: str = ""
) -> Rules:
    """Return the rules in numbered lines of text, added to others; see `parse_rule`.

    Blank lines and lines that begin with # are skipped.

    Args:
        given: rules of the data set, which lines may repeat.
        place: name of the file, for messages.

    Raises:
        LabelsError: a line that is no rule or occurs twice, labels that imply each other in a
            circle, or rules that nothing can satisfy; names place and line.
    """
    found: dict[Rule, int] = {}
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            rule = parse_rule(line, labels)
        except LabelsError as error:
            raise LabelsError(f"{place}:{number}: {error}") from error
        double = next((one for one in found if _same(one, rule)), None)
        if double is not None:
            raise LabelsError(
                f"{place}:{number}: `{rule_text(rule, labels.names)}` is on line {found[double]} "
                "already; keep one of them"
            )
        found[rule] = number
    every = tuple(dict.fromkeys([*given.all, *found]))
    pairs = tuple(rule for rule in every if not isinstance(rule, Limit))
    cycle = find_cycle(pairs)
    if cycle:
        line_number = max(found.get(pair, 0) for pair in pairwise(cycle))
        raise LabelsError(
            f"{place}:{line_number}: labels imply each other in a circle: "
            f"{' => '.join(labels.names[label] for label in cycle)}; remove one"
        )
    rules = Rules(pairs, tuple(rule for rule in every if isinstance(rule, Limit)))
    _check_possible(rules, labels, found, place)
    return rules


def _same(one: Rule, other: Rule) -> bool:
    """Return whether two rules say the same, whatever the order of a group and the weight."""
    if isinstance(one, Limit) and isinstance(other, Limit):
        same = (one.least, one.most, one.is_hard) == (other.least, other.most, other.is_hard)
        return same and set(one.labels) == set(other.labels)
    return one == other


def _check_possible(rules: Rules, labels: LabelSpace, lines: dict[Rule, int], place: str) -> None:
    """Refuse rules that no label set satisfies, or that leave a label one value."""
    named = {label for group in rules.groups for label in group}
    for label in sorted(named) if rules.hard_limits else ():
        for value, never in ((1, "present"), (0, "absent")):
            if _is_possible(rules, label, value):
                continue
            kept = list(rules.all)
            for rule in rules.all:  # leave out what is not needed for the contradiction
                fewer = [one for one in kept if one != rule]
                if not _is_possible(_rules(fewer), label, value):
                    kept = fewer
            told = [
                f"line {lines[rule]}" if rule in lines else f"`{rule_text(rule, labels.names)}`"
                for rule in sorted(kept, key=lambda rule: lines.get(rule, 0))
            ]
            raise LabelsError(
                f"{place}: {' and '.join(told)} contradict each other: label "
                f"{labels.names[label]!r} could never be {never}; remove one, or give a limit a "
                "weight"
            )


def _is_possible(rules: Rules, label: int, value: int) -> bool:
    known = np.full(max(rules.num_labels, label + 1), UNKNOWN)
    known[label] = value
    return rules.completion(known) is not None


def _rules(rules: list[Rule]) -> Rules:
    return Rules(
        tuple(rule for rule in rules if not isinstance(rule, Limit)),
        tuple(rule for rule in rules if isinstance(rule, Limit)),
    )


def parse_rule(line: str, labels: LabelSpace) -> Pair | Limit:
    """Return the rule in a line of text.

        dog => animal                    an implication; also `dog,animal`
        exclusive: indoor, outdoor       no two of them together
        never together: snow, beach      the same for two labels
        at most 2 of: a, b, c            also `at least N of:` and `exactly N of:`
        never together (2.5): a, b       soft: a set that breaks it loses 2.5 nats

    Names with a comma stand in quotation marks.

    Raises:
        LabelsError: another form, an unknown label, a label alone or twice, or a number that is no
            limit on the group.
    """
    found = _LIMIT.fullmatch(line)
    if found is None:
        return _implication(line, labels)
    columns = tuple(_column(name, labels) for name in _cells(found["names"]))
    _check_group(columns, labels)
    kind, size = " ".join(found["kind"].lower().split()), len(columns)
    weight = None if found["weight"] is None else _weight(found["weight"])
    if found["how"] is None:
        if kind.startswith("never") and size > 2:
            raise LabelsError(
                f"never together: expected two labels, got {size}; write `exclusive:` if no two of "
                f"them are ever together, `at most {size - 1} of:` if never all are"
            )
        return Limit(columns, 0, 1, weight)
    number = int(found["number"])
    how = kind.removesuffix(f" {found['number']} of")
    if number > size:
        raise LabelsError(f"{kind}: names only {size} labels")
    if number == 0 or (number == size and how != "at least"):
        raise LabelsError(
            f"{kind} {size} labels: expected a number from 1 to {size - 1}"
            + ("; that is no limit" if how == "at most" and number else "")
        )
    if number == size:
        raise LabelsError(f"{kind} {size} labels: they would be in every image; leave them out")
    least = 0 if how == "at most" else number
    return Limit(columns, least, size if how == "at least" else number, weight)


def _implication(line: str, labels: LabelSpace) -> Pair:
    cells = _cells(line)
    names = [name.strip() for name in cells[0].split(_ARROW)] if len(cells) == 1 else cells
    kind, colon, _ = names[0].partition(":")
    if colon and names[0] not in labels:
        hint = did_you_mean(kind.strip().lower(), [one for one in _KINDS if "N" not in one])
        expected = ", ".join(f"`{one}:`" for one in _KINDS)
        raise LabelsError(
            f"unknown kind of rule {kind.strip()!r}"
            + (hint or f"; expected `dog => animal`, or {expected}")
        )
    if len(names) != 2:
        raise LabelsError(
            f"expected two label names separated by a comma or {_ARROW}, got {len(names)}: "
            f"{line.strip()!r}"
        )
    child, parent = (_column(name, labels) for name in names)
    if child == parent:
        raise LabelsError(f"label {names[0]!r} is paired with itself")
    return child, parent


def _cells(text: str) -> list[str]:
    try:
        (cells,) = csv.reader([text], strict=True, skipinitialspace=True)
    except csv.Error as error:
        raise LabelsError(f"invalid CSV: {error}") from error
    return [cell.strip() for cell in cells]


def _column(name: str, labels: LabelSpace) -> int:
    if not name:
        raise LabelsError("expected a label name, got nothing")
    return labels.index(name)


def _check_group(columns: tuple[int, ...], labels: LabelSpace) -> None:
    if len(columns) < 2:
        raise LabelsError(
            f"names only one label, {labels.names[columns[0]]!r}; expected two or more"
        )
    for at, column in enumerate(columns):
        if column in columns[:at]:
            raise LabelsError(f"names label {labels.names[column]!r} twice")


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise LabelsError(f"weight ({text}): expected a number of nats above 0, such as (2.5)")
    return weight
