"""The picture of many labels."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcrf.reports.correlations import couplings
from mlcrf.reports.heatmap import Panel
from mlcrf.reports.ordering import given_order, order_labels
from mlcrf.reports.overview import cluster_name, draw_couplings
from tests.reports.making import make_clustered
from tests.reports.webpage.making import make_run

NAMES = tuple(f"$\\frac$ <b>{number}</b>" for number in range(300))


@pytest.mark.parametrize("clustered", [True, False])
def test_its_size_does_not_grow_with_the_labels(tmp_path: Path, clustered: bool) -> None:
    """Names that would be no formula are no error, and no picture is wider than a screen or two."""
    edges, _, _ = make_clustered(300, 5)
    run = make_run(tmp_path / "run", NAMES, edges=torch.from_numpy(edges))
    shown = order_labels(*couplings(run.crf), 300) if clustered else given_order(300)
    other = Panel("other", np.full((300, 300), np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_couplings(tmp_path / "a.png", run, shown, [other])
    assert max(Image.open(tmp_path / "a.png").size) < 4000


def test_a_cluster_is_called_by_its_leaders() -> None:
    """Long names are cut; labels that nothing places are the rest."""
    assert cluster_name(("sea", "x" * 40), (1, 0), 1200, 5) == "xxxx…, sea (1,200)"
    assert cluster_name((), (), 7, 5) == "the rest (7)"
