"""From figures to shapes: what the template draws, in units of its own.

Plots are 100 by 100 with the origin below on the left; the template scales them.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlcrf.metrics import PrecisionRecall, Reliability
from mlcrf.model import LabelCrf
from mlcrf.reports.correlations import couplings
from mlcrf.reports.heatmap import COLOURS
from mlcrf.reports.ordering import cluster_order, order_labels
from mlcrf.reports.reduction import reduce_couplings, strongest_colour

LEVELS = 8  # of colour on either side of zero
MOST_LABELS = 80  # in one heatmap; with more no label could be read
_FEW_ANSWERS = 20  # in a bin of probability, where the frequency is mostly chance
_CELLS = 400  # along a side of the picture of all labels
_CLUSTERS = 30  # in the list beside it


@dataclass(frozen=True)
class Interval:
    """A difference with its interval on a scale from -100 to 100, to the right if it is better."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Point:
    """A bin of probability in the reliability plot."""

    x: float
    y: float
    count: int
    few: bool


@dataclass(frozen=True)
class Cell:
    """One pair of labels in the heatmap: a class of the style sheet, and its value as text."""

    style: str
    text: str


@dataclass(frozen=True)
class Heatmap:
    """Couplings as a table.

    Attributes:
        labels: which ones, in the order of rows and columns.
        rows: cells of each.
        strongest: the size of coupling from which the colour is the strongest.
        reached: whether any coupling shown is larger than that.
        has_rules: whether any label shown implies another one.
    """

    labels: list[int]
    rows: list[list[Cell]]
    strongest: float
    reached: bool
    has_rules: bool


@dataclass(frozen=True)
class Overview:
    """Couplings of all labels, where they are too many for a table.

    Attributes:
        picture: data URI; cells: along a side.
        clusters: names of the first labels of each, and how many there are, the largest first.
        num_clusters: those left out of `clusters` included.
    """

    picture: str
    cells: int
    clusters: list[tuple[list[str], int]]
    num_clusters: int


def interval(value: float, low: float, high: float, *, lower_is_better: bool) -> Interval | None:
    """The glyph of a difference, each on a scale of its own; None if it is no number."""
    if not all(map(math.isfinite, (value, low, high))):
        return None
    sign = -1 if lower_is_better else 1
    scale = 100 * sign / (max(abs(value), abs(low), abs(high)) or 1)
    ends = sorted((scale * low, scale * high))
    return Interval(round(ends[0], 1), round(scale * value, 1), round(ends[1], 1))


def curve_path(curve: PrecisionRecall) -> str:
    """Precision over recall as an SVG path; it begins at recall 0 with its first precision."""
    x, y = 100 * curve.recall, 100 - 100 * curve.precision
    return _path([(0.0, y[0]), *zip(x, y, strict=True)])


def reliability_points(bins: Reliability) -> list[Point]:
    """The bins that are not empty."""
    return [
        Point(
            round(100 * float(bins.probability[b]), 1),
            round(100 - 100 * float(bins.frequency[b]), 1),
            int(bins.count[b]),
            few=bool(bins.count[b] < _FEW_ANSWERS),
        )
        for b in np.flatnonzero(bins.count)
    ]


def reliability_path(points: Iterable[Point]) -> str:
    """A line through the bins."""
    return _path((point.x, point.y) for point in points)


def count_bars(bins: Reliability) -> list[float]:
    """Height of each bin's bar, up to 100, on a logarithmic scale."""
    heights = np.log1p(bins.count)
    return [round(100 * float(h / (heights.max() or 1)), 1) for h in heights]


def make_heatmap(model: LabelCrf) -> Heatmap | None:
    """The couplings of up to 80 labels, those of the strongest ones; None if there are none.

    Labels with strong attraction stand side by side; see `cluster_order`.

    Cost: O(E) and O(80^3); a matrix of all labels is never made.
    """
    edges, values = couplings(model)
    if not len(edges):
        return None
    labels = _labels_of_strongest(edges, values, model.num_labels)
    place = np.full(model.num_labels, -1)
    place[labels] = np.arange(len(labels))
    matrix = np.full((len(labels), len(labels)), np.nan)
    shown = (place[edges] >= 0).all(1)
    first, second = place[edges[shown]].T
    matrix[first, second] = matrix[second, first] = values[shown]
    implied = np.zeros(matrix.shape, dtype=bool)
    for child, parent in place[model.implications.numpy()]:
        if min(child, parent) >= 0:
            implied[child, parent] = implied[parent, child] = True
    order = cluster_order(np.nan_to_num(matrix))
    sizes = np.abs(matrix[np.isfinite(matrix)])
    strongest = strongest_colour(sizes)
    rows = [
        [_cell(matrix[i, j], bool(implied[i, j]), i == j, strongest) for j in order] for i in order
    ]
    return Heatmap(
        labels[order].tolist(),
        rows,
        strongest,
        reached=bool(sizes.max() > strongest),
        has_rules=bool(implied.any()),
    )


def make_overview(model: LabelCrf, names: Sequence[str]) -> Overview | None:
    """The couplings of all labels as a picture; None of up to 80, which `make_heatmap` shows.

    Cost: that of `order_labels`; the picture is at most 400 pixels wide.
    """
    if model.num_labels <= MOST_LABELS or not len(model.edges):
        return None
    edges, values = couplings(model)
    order = order_labels(edges, values, model.num_labels)
    cells = min(_CELLS, model.num_labels)
    grid = reduce_couplings(edges, values, order, cells)
    limit = strongest_colour(np.abs(grid[grid != 0]))
    pixels = mpl.colormaps[COLOURS](np.clip(grid / limit, -1, 1) / 2 + 0.5, bytes=True)
    out = io.BytesIO()
    Image.fromarray(pixels[..., :3]).quantize(64).save(out, "PNG", optimize=True)
    clusters = [one for one in order.clusters if one.leaders]
    largest = sorted(clusters, key=lambda one: (-one.size, one.start))[:_CLUSTERS]
    return Overview(
        f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}",
        cells,
        [([names[label] for label in one.leaders], one.size) for one in largest],
        len(clusters),
    )


def _labels_of_strongest(
    edges: NDArray[np.int64], values: NDArray[np.float64], num_labels: int
) -> NDArray[np.int64]:
    if num_labels <= MOST_LABELS:
        return np.arange(num_labels)
    found: set[int] = set()
    # of so many couplings as these many labels can have, one must be with another label
    strongest = np.argsort(-np.abs(values), kind="stable")[: MOST_LABELS * MOST_LABELS]
    for pair in edges[strongest].tolist():
        if len(found | set(pair)) > MOST_LABELS:
            break
        found |= set(pair)
    return np.array(sorted(found), dtype=np.int64)


def _cell(value: float, implied: bool, same: bool, strongest: float) -> Cell:
    if same:
        return Cell("d", "")
    if implied:
        return Cell("i", "⇒")
    if math.isnan(value):
        return Cell("n", "")
    level = min(LEVELS, math.ceil(LEVELS * abs(value) / strongest))
    sign = "a" if value > 0 else "r"
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return Cell(f"{sign}{level}" if level else "n", text)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
