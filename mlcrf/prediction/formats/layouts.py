"""What the rows of a table of predictions are: one a photo, or one a photo and label."""

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from mlcrf.labels import LabelSpace
from mlcrf.prediction.record import Prediction


class Layout(Protocol):
    """Columns with their types, and the rows of a photo; texts are as the system names files."""

    columns: dict[str, pa.DataType]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """The rows of one photo, a value a column."""
        ...


class WideLayout:
    """One row a photo: `image`, `labels`, and for every label `p:LABEL`, `independent:LABEL`."""

    def __init__(self, labels: LabelSpace) -> None:
        scores = [f"{kind}:{name}" for name in labels for kind in ("p", "independent")]
        self.columns = {"image": pa.string(), "labels": pa.list_(pa.string())}
        self.columns |= dict.fromkeys(scores, pa.float32())

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """One."""
        both = zip(prediction.marginals, prediction.independent, strict=True)
        scores = [score for pair in both for score in pair]
        yield [str(prediction.image), list(prediction.labels), *scores]


class TidyLayout:
    """One row a photo and label: `image`, `label`, `present`, `p`, `independent`."""

    def __init__(self, labels: LabelSpace) -> None:
        self._labels = labels
        self.columns = {
            "image": pa.string(),
            "label": pa.string(),
            "present": pa.bool_(),
            "p": pa.float32(),
            "independent": pa.float32(),
        }

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """As many as there are labels, in their order."""
        present = frozenset(prediction.labels)
        scores = zip(self._labels, prediction.marginals, prediction.independent, strict=True)
        for name, p, independent in scores:
            yield [str(prediction.image), name, name in present, p, independent]
