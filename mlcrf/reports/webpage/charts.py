"""Shapes for the report's template: paths, points and bars.

Plots are 100 by 100 with the origin at the bottom left; the template scales them.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlcrf.metrics import PrecisionRecall, Reliability
from mlcrf.model import LabelCrf
from mlcrf.reports.correlations import couplings
from mlcrf.reports.heatmap import Panel, draw_heatmap
from mlcrf.reports.label_order import order_labels

_FEW_ANSWERS = 20  # answers in a bin; with fewer, its frequency is mostly chance


@dataclass(frozen=True)
class Interval:
    """A difference and its interval, on a scale from -100 (worse) to 100 (better)."""

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


def interval(value: float, low: float, high: float, *, lower_is_better: bool) -> Interval | None:
    """Return a difference scaled to its own size; None if it is not finite."""
    if not all(map(math.isfinite, (value, low, high))):
        return None
    sign = -1 if lower_is_better else 1
    scale = 100 * sign / (max(abs(value), abs(low), abs(high)) or 1)
    ends = sorted((scale * low, scale * high))
    return Interval(round(ends[0], 1), round(scale * value, 1), round(ends[1], 1))


def curve_path(curve: PrecisionRecall) -> str:
    """Return precision over recall as an SVG path, with the first precision at recall 0."""
    x, y = 100 * curve.recall, 100 - 100 * curve.precision
    return _path([(0.0, y[0]), *zip(x, y, strict=True)])


def reliability_points(bins: Reliability) -> list[Point]:
    """Return a point for each bin that is not empty."""
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
    """Return a line through the points as an SVG path."""
    return _path((point.x, point.y) for point in points)


def count_bars(bins: Reliability) -> list[float]:
    """Return the height of each bin's bar, up to 100, on a logarithmic scale."""
    heights = np.log1p(bins.count)
    return [round(100 * float(h / (heights.max() or 1)), 1) for h in heights]


def couplings_image(model: LabelCrf, names: Sequence[str]) -> str | None:
    """Return the heatmap of all couplings as a data URI, or None if there are none."""
    if not len(model.edges):
        return None
    order = order_labels(*couplings(model), model.num_labels)
    content = draw_heatmap(names, [Panel.from_model("", model)], order)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
