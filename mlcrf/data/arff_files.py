"""Load ARFF files of multi-label data, of Weka, Mulan and MEKA, as columns of plain values.

Rows may be dense or sparse; in a sparse row the first value of a nominal attribute, and 0 of a
number, is left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arff
from lxml import etree

from mlcrf.data.files import load_text
from mlcrf.data.problems import Problems
from mlcrf.errors import DataError
from mlcrf.labels import composed
from mlcrf.stores import Stored

_PART = re.compile(r"(.+)[-_](?:train|test|validation|val)", re.IGNORECASE)
_KEYWORD = re.compile(r"^[ \t]*@(relation|attribute|data)\b[ \t]*", re.IGNORECASE)
_COUNT = re.compile(r"-C\s+(-?\d+)")
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_INDEX = re.compile(r"[{,]\s*(\d+)(?=\s)")  # of a value in a sparse row
_NUMERIC = re.compile(r"(@attribute\b.*\s)(?:numeric|real|integer)\s*$", re.IGNORECASE)
_MOST_LABELS_SHOWN = 3
_REMEDIES = {  # by what the parser says
    "Bad @ATTRIBUTE type": "; expected numeric, real, integer, string or {value, value}",
    "Invalid numerical value": "; expected a number or ?",
    "not found in nominal declaration": "; expected one of the values that @attribute names",
    "Bad @DATA instance format": "; expected a value for each attribute",
}


@dataclass(frozen=True)
class ArffContent:
    """The attributes and rows of an ARFF file.

    Attributes:
        columns: attribute -> one cell per row (N,): a float, a text, or None if missing; those of
            labels come last, in the order of `labels`.
        nominal: attribute -> its declared values, the one that sparse rows leave out first.
        labels: attributes that are labels, as far as the file or the XML beside it says.
        lines: line of each row (N,).
    """

    columns: dict[str, list[object]]
    nominal: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    lines: list[int]


def load_arff(path: Path | Stored, problems: Problems) -> ArffContent:
    """Load an ARFF file.

    Labels are those of an XML file of Mulan beside it, NAME.xml or NAME-train.xml for
    NAME-train.arff, or else the first (last, if negative) `-C` attributes of MEKA's @relation.

    Raises:
        DataError: the file cannot be read, or its labels are no attributes.
    """
    text = load_text(path, problems)
    problems.raise_if_any()
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if _keyword(line) == "data"), len(lines))
    header = [_KEYWORD.sub(lambda found: f"@{found[1]} ", line) for line in lines[:start]]
    header = [_NUMERIC.sub(r"\1numeric", line) for line in header]  # the parser cuts integers
    try:
        content = arff.loads("\n".join([*header, *lines[start:]]))
    except arff.ArffException as error:
        line = error.line if error.line > 0 else None
        reason = re.sub(r"[,:]? *(at|in) line -?\d+[.:]?", "", str(error)).strip() or "wrong layout"
        remedy = next((said for what, said in _REMEDIES.items() if what in reason), "")
        raise DataError(f"cannot be read as ARFF: {reason}{remedy}", path, line) from error
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise DataError(f"cannot be read as ARFF: {' '.join(str(error).split())}", path) from error
    names = [composed(re.sub(r"\\(.)", r"\1", name)) for name, _ in content["attributes"]]
    cells = zip(*content["data"], strict=True) if content["data"] else ([] for _ in names)
    columns = dict(zip(names, map(list, cells), strict=True))
    if len(columns) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"attribute {double!r} occurs twice; rename one", path)
    kinds = dict(zip(names, (kind for _, kind in content["attributes"]), strict=True))
    nominal = {name: tuple(kind) for name, kind in kinds.items() if isinstance(kind, list)}
    labels = _find_labels(path, content["relation"], names)
    ordered = [name for name in names if name not in set(labels)] + list(labels)
    numbers = [
        at
        for at, line in enumerate(lines[start + 1 :], start + 2)
        if line.strip() and not line.strip().startswith("%")
    ]
    for at in numbers:
        _require_single_indices(path, at, lines[at - 1].strip())
    if any("_" in lines[at - 1] for at in numbers):
        texts = [_NUMERIC.sub(r"\1string", line) for line in header]
        _require_plain_numbers(
            path, arff.loads("\n".join([*texts, *lines[start:]])), kinds, numbers
        )
    return ArffContent({name: columns[name] for name in ordered}, nominal, labels, numbers)


def _require_single_indices(path: Path | Stored, at: int, row: str) -> None:
    """Refuse a sparse row that has two values of an attribute, of which the parser keeps one."""
    if not row.startswith("{"):
        return
    indices = list(map(int, _INDEX.findall(_QUOTED.sub("", row))))
    if len(set(indices)) < len(indices):
        double = next(index for index in indices if indices.count(index) > 1)
        raise DataError(f"attribute number {double} occurs twice in a row; remove one", path, at)


def _require_plain_numbers(
    path: Path | Stored, content: Any, kinds: dict[str, object], lines: list[int]
) -> None:
    """Refuse numbers such as `1_000`, which the parser reads; the content has them as texts."""
    for at, row in zip(lines, content["data"], strict=True):
        for cell, (name, kind) in zip(row, kinds.items(), strict=True):
            if kind == "NUMERIC" and isinstance(cell, str) and "_" in cell:
                raise DataError(f"attribute {name!r} is {cell!r}, expected a number", path, at)


def _keyword(line: str) -> str:
    found = _KEYWORD.match(line)
    return found[1].lower() if found else ""


def _find_labels(path: Path | Stored, relation: str, names: list[str]) -> tuple[str, ...]:
    """Return the attributes that are labels; none if nothing says so."""
    if isinstance(path, Path):
        part = _PART.fullmatch(path.stem)
        stems = [path.stem, *([part[1], f"{part[1]}-train"] if part else [])]
        for file in (path.with_name(f"{stem}.xml") for stem in stems):
            if file.is_file():
                return _load_names(file, path, names)
    counts = _COUNT.findall(relation)
    if not counts:
        return ()
    if len(counts) > 1 or "unsupervised.attribute" in relation:
        raise DataError(
            "@relation says -C, and that a filter has changed the attributes since, so that it may "
            "be wrong; name the labels with --labels FILE or --label-columns",
            path,
            1,
        )
    count = int(counts[0])
    if not 0 < abs(count) < len(names):
        raise DataError(f"@relation says -C {count}, of {len(names)} attributes", path, 1)
    return tuple(names[:count] if count > 0 else names[count:])


def _load_names(file: Path, path: Path, names: list[str]) -> tuple[str, ...]:
    """Return the names in an XML file of Mulan."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(file.read_bytes(), parser)
    except (OSError, etree.XMLSyntaxError) as error:
        raise DataError(f"cannot be read as XML: {error}", file) from error
    found = [
        composed(str(one.get("name") or ""))
        for one in root.iter("{*}label")
        if isinstance(one.tag, str)
    ]
    if not found:
        raise DataError("names no label; expected <labels> of <label name=...>", file)
    if missing := [name for name in found if name not in names]:
        some = ", ".join(map(repr, missing[:_MOST_LABELS_SHOWN]))
        raise DataError(f"{path.name} has no attribute {some}, which the file calls a label", file)
    return tuple(found)
