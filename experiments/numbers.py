"""Multi-label data sets of numbers, as Mulan publishes them: ARFF files and their labels in XML.

A folder holds NAME-train.arff and NAME-test.arff, the official split, and NAME.xml, the names of
the labels; every other attribute is a feature.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.labels import LabelSpace

Arrays = tuple[NDArray[np.float32], NDArray[np.int8]]


@dataclass(frozen=True)
class Numbers:
    """Features, float32 (N, D), and targets of 1 and 0, int8 (N, L), to learn from and to test."""

    labels: LabelSpace
    train: Arrays
    test: Arrays


def read_numbers(folder: Path, name: str) -> Numbers:
    """Read a data set; a nominal feature becomes one column for each value but the first."""
    train = read_dataset(folder / f"{name}-train.arff")
    known = ReadOptions(labels=train.labels, run_features=train.feature_names)
    test = read_dataset(folder / f"{name}-test.arff", known)
    assert train.features is not None and test.features is not None
    return Numbers(train.labels, (train.features, train.targets), (test.features, test.targets))
