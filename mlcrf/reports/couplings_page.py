"""Write the couplings of up to thousands of labels as one compact, zoomable HTML page."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.checkpoint import Run
from mlcrf.reports.correlations import couplings, strongest_colour, strongest_pairs, title
from mlcrf.reports.html_page import save_page
from mlcrf.reports.label_order import LabelOrder, cluster_name
from mlcrf.reports.names import readable

MOST_PAIRS = 50_000  # strongest couplings in the page
_LISTED = 20  # listed pairs of each sign
_CLUSTERS = 60  # listed clusters
_LETTERS = 80  # characters of a name
_LEVELS = 32767  # steps of a coupling on each side of zero


def save_couplings_page(path: Path, run: Run, shown: LabelOrder) -> int:
    """Write the couplings of a run as one self-contained HTML file.

    The matrix is a zoomable canvas with a search for labels. Labels may contain any text; see
    `save_page`. The same run gives the same bytes.

    Args:
        shown: order of the labels.

    Returns:
        The number of couplings in the page: all, or the 50,000 strongest, each stored in eight
        bytes and rounded to a 32,767th of the largest.

    Raises:
        MlcrfError: the file cannot be written.

    Cost: O(E log E).
    """
    names = [readable(name, _LETTERS) for name in run.labels]
    edges, values = couplings(run.crf)
    kept = np.argsort(np.abs(values), kind="stable")[-MOST_PAIRS:]
    attract, repel = strongest_pairs(run.crf, tuple(names), count=_LISTED)
    context = {
        "title": readable(title(run), 200),
        "run": readable(run.path.name),
        "num_labels": len(names),
        "kept": len(kept),
        "couplings": len(edges),
        "gates": run.crf.rank,
        "attractions": attract,
        "repulsions": repel,
        "clusters": [
            [readable(names[label], _LETTERS) for label in one.leaders] + [one.size]
            for one in shown.largest_clusters()[:_CLUSTERS]
            if one.leaders
        ],
        "num_clusters": sum(bool(one.leaders) for one in shown.clusters),
        "data": _data(names, shown, edges[kept], values[kept], run.rules.array)
        | {"all": len(edges)},
    }
    save_page(path, "matrix", context)
    return len(kept)


def _data(
    names: list[str],
    shown: LabelOrder,
    edges: NDArray[np.int64],
    values: NDArray[np.float64],
    rules: NDArray[np.int64],
) -> dict[str, Any]:
    """Return the data of the script: labels by position, couplings from weak to strong."""
    place = shown.place()
    wide = len(names) > 2**16
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return {
        "names": [names[label] for label in shown.order],
        "clusters": [[one.start, one.size, cluster_name(names, one, 24)] for one in shown.clusters],
        "wide": wide,
        "ends": _packed(place[edges], "<u4" if wide else "<u2"),
        "values": _packed(np.rint(values * (_LEVELS / largest)), "<i2"),
        "unit": largest / _LEVELS,
        "strongest": strongest_colour(np.abs(values)),
        "rules": place[rules].tolist(),
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
