"""The picture of the couplings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcrf.errors import MlcrfError
from mlcrf.reports.heatmap import Panel, draw_heatmap
from mlcrf.reports.ordering import cluster_order


def test_clustering_puts_attracting_labels_together() -> None:
    """Two blocks that are interleaved come out side by side."""
    matrix = np.array([[0, 0, 5, 0], [0, 0, 0, 5], [5, 0, 0, 0], [0, 5, 0, 0.0]])
    place = np.argsort(cluster_order(matrix))
    assert abs(place[0] - place[2]) == 1
    assert abs(place[1] - place[3]) == 1


@pytest.mark.parametrize("num_labels", [1, 2, 24, 80])
def test_any_number_of_labels_is_drawn(tmp_path: Path, num_labels: int) -> None:
    """The picture grows with the labels, so that their names stay legible."""
    matrix = np.random.default_rng(0).normal(size=(num_labels, num_labels))
    matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T
    names = [f"label {k}" for k in range(num_labels)]
    path = tmp_path / "heatmap.png"
    draw_heatmap(path, names, [Panel("couplings", matrix)], cluster_order(matrix))
    assert Image.open(path).height >= 40 * num_labels


def test_same_matrix_same_bytes(tmp_path: Path) -> None:
    """Two SVG files of one matrix are equal: no date, no random names."""
    matrix = np.array([[0, 1], [1, 0.0]])
    for name in ("a.svg", "b.svg"):
        draw_heatmap(tmp_path / name, ["x", "y"], [Panel("t", matrix)], np.arange(2))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    """An ending that is none of ours names those that are."""
    with pytest.raises(MlcrfError, match=r"\.png, \.svg, \.pdf"):
        draw_heatmap(tmp_path / "a.bmp", ["x"], [Panel("t", np.zeros((1, 1)))], np.arange(1))
