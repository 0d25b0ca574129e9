"""The picture of the couplings, of few labels and of many."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mlcrf.errors import MlcrfError
from mlcrf.reports.correlations import couplings
from mlcrf.reports.heatmap import Panel, draw_heatmap, save_couplings, save_heatmap
from mlcrf.reports.label_order import LabelOrder, cluster_order, given_order, order_labels
from tests.reports.making import make_clustered
from tests.reports.webpage.making import make_run

NAMES = tuple(f"$\\frac$ <b>{number}</b>" for number in range(300))


def draw_matrix(num_labels: int) -> NDArray[np.float64]:
    matrix = np.random.default_rng(0).normal(size=(num_labels, num_labels))
    return np.triu(matrix, 1) + np.triu(matrix, 1).T


@pytest.mark.parametrize("num_labels", [1, 2, 24, 80])
def test_any_number_of_labels_is_drawn(tmp_path: Path, num_labels: int) -> None:
    """The picture grows with the labels, so that their names stay legible."""
    matrix = draw_matrix(num_labels)
    names = [f"label {k}" for k in range(num_labels)]
    order = LabelOrder(cluster_order(matrix))
    save_heatmap(tmp_path / "a.png", names, [Panel.from_matrix("couplings", matrix)], order)
    assert Image.open(tmp_path / "a.png").height >= 40 * num_labels


@pytest.mark.parametrize("clustered", [True, False])
def test_its_size_does_not_grow_with_many_labels(tmp_path: Path, clustered: bool) -> None:
    """Names that would be no formula are no error, and no picture is wider than a screen or two."""
    edges, _, _ = make_clustered(300, 5)
    run = make_run(tmp_path / "run", NAMES, edges=torch.from_numpy(edges))
    order = order_labels(*couplings(run.crf), 300) if clustered else given_order(300)
    other = Panel.from_matrix("other", np.full((300, 300), np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_couplings(tmp_path / "a.png", run, order, [other])
    assert max(Image.open(tmp_path / "a.png").size) < 4000


def test_long_names_and_rules_fit() -> None:
    """Names are cut, and a rule is marked without a complaint of the layout or the font."""
    names = ["x" * 300, "bell\x07", "gpj.\u202eexe"]
    panel = Panel("t", np.array([[0, 1]]), np.array([1.0]), rules=np.array([[2, 0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_heatmap(names, [panel], given_order(3))


def test_same_matrix_same_bytes() -> None:
    """Two SVG files of one matrix are equal: no date, no random names."""
    panels = [Panel.from_matrix("t", draw_matrix(2))]
    first, second = (draw_heatmap(["x", "y"], panels, given_order(2), "svg") for _ in range(2))
    assert first == second


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    """An ending that is none of ours names those that are."""
    with pytest.raises(MlcrfError, match=r"\.png, \.svg, \.pdf"):
        save_heatmap(tmp_path / "a.bmp", ["x"], [], given_order(1))


@pytest.mark.parametrize("cells", [1, 7, 20, 53])
def test_a_cell_shows_its_strongest_coupling(cells: int) -> None:
    """By a loop over pairs; of the sparse couplings and of the same as a matrix."""
    edges, values, _ = make_clustered(53, 3)
    order = LabelOrder(np.random.default_rng(1).permutation(53))
    place = order.place()
    expected = np.zeros((cells, cells))
    matrix = np.zeros((53, 53))
    for (i, j), value in zip(edges.tolist(), values.tolist(), strict=True):
        matrix[i, j] = matrix[j, i] = value
        for row, column in ((i, j), (j, i)):
            at = int(place[row]) * cells // 53, int(place[column]) * cells // 53
            if abs(value) > abs(expected[at]):
                expected[at] = value
    assert Panel("t", edges, values).reduce(order, cells) == pytest.approx(expected)
    dense = Panel.from_matrix("t", matrix).reduce(order, cells)
    assert np.isnan(np.diagonal(dense)).all() == (cells == 53)
    assert np.nan_to_num(dense) == pytest.approx(expected)


def test_a_cell_is_unknown_only_if_all_of_it_is() -> None:
    """One known value is enough."""
    matrix = np.full((4, 4), np.nan)
    matrix[0, 2] = matrix[2, 0] = -0.5
    small = Panel.from_matrix("t", matrix).reduce(given_order(4), 2)
    assert small[0, 1] == small[1, 0] == -0.5
    assert np.isnan(np.diagonal(small)).all()
