"""Shapes follow from figures."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from mlcrf.metrics import PrecisionRecall, Reliability
from mlcrf.model import LabelCrf, no_edges
from mlcrf.reports.webpage import charts


def make_model(num_labels: int, edges: torch.Tensor | None = None) -> LabelCrf:
    torch.manual_seed(0)
    model = LabelCrf(1, num_labels, edges=edges)
    torch.nn.init.normal_(model.pairwise)
    return model


def test_better_is_always_to_the_right() -> None:
    """A fall of what is better low, and a rise of what is better high, give one drawing."""
    rise = charts.interval(2.0, -1.0, 4.0, lower_is_better=False)
    fall = charts.interval(-2.0, -4.0, 1.0, lower_is_better=True)
    assert rise == fall == charts.Interval(-25.0, 50.0, 100.0)
    assert charts.interval(float("nan"), 0.0, 1.0, lower_is_better=True) is None
    assert charts.interval(0.0, 0.0, 0.0, lower_is_better=True) == charts.Interval(0, 0, 0)


def test_a_curve_begins_at_no_recall() -> None:
    """Up is down in a drawing."""
    curve = PrecisionRecall(np.array([0.5, 1.0]), np.array([1.0, 0.25]))
    assert charts.curve_path(curve) == "M0.0 0.0L50.0 0.0L100.0 75.0"


def test_empty_bins_have_no_point() -> None:
    """Points of bins with few answers are marked; bars are logarithmic."""
    bins = Reliability(
        np.array([99, 0, 9]), np.array([0.1, np.nan, 0.9]), np.array([0.2, np.nan, 1])
    )
    points = charts.reliability_points(bins)
    assert points == [charts.Point(10.0, 80.0, 99, False), charts.Point(90.0, 0.0, 9, True)]
    assert charts.count_bars(bins) == [100.0, 0.0, 50.0]


def test_couplings_are_a_picture_if_there_are_any() -> None:
    """A PNG inside the page; without edges, none."""
    kind, _, data = (charts.couplings_image(make_model(3), "abc") or "").partition(",")
    assert kind == "data:image/png;base64"
    assert min(Image.open(io.BytesIO(base64.b64decode(data))).size) > 200
    assert charts.couplings_image(make_model(3, no_edges()), "abc") is None
