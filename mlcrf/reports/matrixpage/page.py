"""Couplings of up to thousands of labels put into a page, compactly and with nothing loaded."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from mlcrf.atomic import write_text
from mlcrf.checkpoint import Run
from mlcrf.reports.correlations import couplings, strongest_pairs, title
from mlcrf.reports.names import readable
from mlcrf.reports.ordering import LabelOrder
from mlcrf.reports.overview import cluster_name
from mlcrf.reports.reduction import strongest_colour
from mlcrf.version import __version__

MOST_PAIRS = 50_000  # couplings, the strongest
_LISTED = 20  # pairs of either sign
_CLUSTERS = 60  # in the list
_LETTERS = 80  # of a name
_LEVELS = 32767  # of a coupling on either side of zero


def save_matrix_page(path: Path, run: Run, shown: LabelOrder) -> int:
    """Write the couplings of a run as one HTML file that loads nothing and stands alone.

    The matrix is a canvas that zooms; a label is found by its name. Names may hold anything: they
    are escaped, and a policy in the page forbids every script and style but the two that come
    with it. The same run gives the same bytes.

    Args:
        shown: the order of the labels.

    Returns:
        How many couplings are in the page: all, or the 50,000 strongest, eight bytes each, values
        rounded to a 32,767th of the largest.

    Raises:
        MlcrfError: the file cannot be written.

    Cost: O(E log E).
    """
    environment = Environment(
        loader=PackageLoader("mlcrf.reports.matrixpage"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [readable(name, _LETTERS) for name in run.labels]
    edges, values = couplings(run.crf)
    kept = np.argsort(np.abs(values), kind="stable")[-MOST_PAIRS:]
    attract, repel = strongest_pairs(run.crf, tuple(names), count=_LISTED)
    largest = sorted(shown.clusters, key=lambda one: (-one.size, one.start))
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
            for one in largest[:_CLUSTERS]
            if one.leaders
        ],
        "num_clusters": sum(bool(one.leaders) for one in shown.clusters),
        "data": _data(names, shown, edges[kept], values[kept], run.crf.implications.numpy())
        | {"all": len(edges)},
        "version": __version__,
    }
    for kind in ("css", "js"):
        text = environment.get_template(f"matrix.{kind}").render()
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        context[f"{kind}_hash"] = f"sha256-{digest}"
    write_text(path, environment.get_template("matrix.html").render(context))
    return len(kept)


def _data(
    names: list[str],
    shown: LabelOrder,
    edges: NDArray[np.int64],
    values: NDArray[np.float64],
    rules: NDArray[np.int64],
) -> dict[str, Any]:
    """What the script draws; labels by where they stand, couplings from weak to strong."""
    place = shown.place()
    wide = len(names) > 2**16
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return {
        "names": [names[label] for label in shown.order],
        "clusters": [
            [one.start, one.size, cluster_name(names, one.leaders, one.size, 24)]
            for one in shown.clusters
        ],
        "wide": wide,
        "ends": _packed(place[edges], "<u4" if wide else "<u2"),
        "values": _packed(np.rint(values * (_LEVELS / largest)), "<i2"),
        "unit": largest / _LEVELS,
        "strongest": strongest_colour(np.abs(values)),
        "rules": place[rules].tolist(),
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
