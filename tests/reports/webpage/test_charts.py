"""Shapes follow from figures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mlcrf.metrics import PrecisionRecall, Reliability
from mlcrf.model import LabelCrf, no_edges
from mlcrf.reports.webpage import charts
from tests.reports.making import make_clustered


def make_model(
    num_labels: int, edges: torch.Tensor | None = None, **settings: torch.Tensor
) -> LabelCrf:
    torch.manual_seed(0)
    model = LabelCrf(1, num_labels, edges=edges, **settings)
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


def test_the_heatmap_is_the_matrix() -> None:
    """Every pair has its coupling, in a colour that grows with its size; symmetric."""
    model = make_model(6)
    heatmap = charts.make_heatmap(model)
    assert heatmap is not None and sorted(heatmap.labels) == list(range(6))
    matrix = model.pairwise_matrix().double().numpy()
    levels = {}
    for i, first in enumerate(heatmap.labels):
        for j, second in enumerate(heatmap.labels):
            cell = heatmap.rows[i][j]
            assert cell == heatmap.rows[j][i]
            if first == second:
                assert cell == charts.Cell("d", "")
                continue
            value = matrix[first, second]
            assert float(cell.text.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
                value, abs=0.005
            )
            assert cell.style[0] == ("a" if value > 0 else "r")
            levels[abs(value)] = int(cell.style[1])
    ordered = [levels[size] for size in sorted(levels)]
    assert ordered == sorted(ordered) and ordered[-1] == charts.LEVELS


def test_rules_and_missing_pairs_have_no_value() -> None:
    """A label and what it implies are marked on both sides; a pair without an edge is empty."""
    model = make_model(3, torch.tensor([[0, 1]]), implications=torch.tensor([[2, 0]]))
    heatmap = charts.make_heatmap(model)
    assert heatmap is not None and heatmap.has_rules
    at = {label: place for place, label in enumerate(heatmap.labels)}
    assert heatmap.rows[at[2]][at[0]] == heatmap.rows[at[0]][at[2]] == charts.Cell("i", "⇒")
    assert heatmap.rows[at[1]][at[2]] == charts.Cell("n", "")


def test_of_many_labels_the_strongest_are_drawn() -> None:
    """Never more than 80, the ends of the strongest pair among them; without edges, none."""
    chain = torch.tensor([[label, label + 1] for label in range(199)])
    model = make_model(200, chain)
    heatmap = charts.make_heatmap(model)
    assert heatmap is not None and 70 < len(heatmap.labels) <= charts.MOST_LABELS
    strongest = chain[model.pairwise.detach().abs().argmax()].tolist()
    assert set(strongest) <= set(heatmap.labels)
    assert charts.make_heatmap(make_model(3, no_edges())) is None


def test_couplings_of_zero_are_drawn() -> None:
    """A model that learned nothing has a heatmap without colours."""
    model = make_model(4)
    torch.nn.init.zeros_(model.pairwise)
    heatmap = charts.make_heatmap(model)
    assert heatmap is not None and heatmap.strongest == 1.0 and not heatmap.reached
    assert {cell.style for row in heatmap.rows for cell in row} == {"d", "n"}


def test_many_labels_have_a_picture_of_all() -> None:
    """Up to 80 the table shows all; beyond, a picture of bounded size and clusters by name."""
    assert charts.make_overview(make_model(80), [""] * 80) is None
    edges, _, _ = make_clustered(500, 5)
    names = [f"label {number}" for number in range(500)]
    shown = charts.make_overview(make_model(500, torch.from_numpy(edges)), names)
    assert shown is not None
    kind, _, data = shown.picture.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, picture.size) == ("data:image/png;base64", (shown.cells, shown.cells))
    assert all(size >= len(leaders) > 0 for leaders, size in shown.clusters)
