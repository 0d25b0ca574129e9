"""Multi-label data sets of numbers, as Mulan publishes them: ARFF files and their labels in XML.

A folder holds NAME-train.arff and NAME-test.arff, the official split, and NAME.xml, the names of
the labels; every other attribute is a feature.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mlcrf.labels import LabelSpace

_ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\S+)\s+(.*)", re.IGNORECASE)

Arrays = tuple[NDArray[np.float32], NDArray[np.int8]]


@dataclass(frozen=True)
class Numbers:
    """Features, float32 (N, D), and targets of 1 and 0, int8 (N, L), to learn from and to test."""

    labels: LabelSpace
    train: Arrays
    test: Arrays


def read_numbers(folder: Path, name: str) -> Numbers:
    """Read a data set; a nominal feature becomes one column for each value but the first."""
    labels = [label.attrib["name"] for label in ElementTree.parse(folder / f"{name}.xml").getroot()]
    train, test = (_read(folder / f"{name}-{part}.arff", labels) for part in ("train", "test"))
    return Numbers(LabelSpace(tuple(labels)), train, test)


def _read(path: Path, labels: list[str]) -> Arrays:
    names, kinds, rows = [], [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := _ATTRIBUTE.match(line):
            names.append(re.sub(r"\\(.)", r"\1", found[1].strip("'")))
            kinds.append(found[2].strip())
        elif line and line[0] not in "@%":
            rows.append(line)
    columns = dict(zip(names, _columns(kinds, rows), strict=True))
    targets = np.concatenate([columns.pop(label) for label in labels], axis=1)
    return np.concatenate(list(columns.values()), axis=1), targets.astype(np.int8)


def _columns(kinds: list[str], rows: list[str]) -> Iterator[NDArray[np.float32]]:
    """Yield the columns of each attribute (N, C); a sparse row leaves out first values."""
    values = [
        [one.strip() for one in kind.strip("{}").split(",")] if kind[0] == "{" else ["0"]
        for kind in kinds
    ]
    cells = np.array([[first[0] for first in values]] * len(rows), dtype=object)
    for row, line in enumerate(rows):
        if line[0] == "{":
            for cell in filter(None, line.strip("{} ").split(",")):
                column, value = cell.split()
                cells[row, int(column)] = value
        else:
            cells[row] = line.split(",")
    for column, kind in enumerate(kinds):
        given = cells[:, column]
        if kind[0] == "{":
            yield np.stack([given == one for one in values[column][1:]], 1).astype(np.float32)
        else:
            yield given.astype(np.float32)[:, None]
