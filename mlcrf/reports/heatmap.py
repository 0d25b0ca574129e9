"""Draw couplings as a heatmap, next to matrices to compare them with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlcrf.atomic import require_ending, write_bytes
from mlcrf.checkpoint import Run
from mlcrf.model import LabelCrf
from mlcrf.reports.correlations import couplings, strongest_colour, title
from mlcrf.reports.label_order import MOST_NAMED, LabelOrder, cluster_name
from mlcrf.reports.names import readable

FORMATS = (".png", ".svg", ".pdf")
MOST_CELLS = 500  # cells along a side
_SIDE = 8.0  # inches, with more than `MOST_NAMED` labels
_NUMBERS_UP_TO = 30  # labels; with more, numbers in cells would be unreadable
_LEAST_GAP = 0.017  # least share of the side between the names of two clusters
_LEAST_SHARE = 0.004  # share of all labels; smaller clusters are not outlined
_LETTERS = 22  # characters of a label's name within a cluster's name
_LONGEST = 32  # characters of a name if every label is named

# reproducible bytes, and names are not parsed as formulas
_STYLE: dict[Any, Any] = {"svg.hashsalt": "mlcrf", "font.size": 8, "text.parse_math": False}

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One symmetric matrix to draw.

    Attributes:
        title: text above the matrix.
        edges: pairs i < j (E, 2).
        values: the value of each pair (E,).
        other: the value of other pairs; NaN if unknown.
        rules: rules, child and parent (R, 2), shown as arrows instead of couplings.
    """

    title: str
    edges: Ints
    values: Floats
    other: float = 0.0
    rules: Ints = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))

    @classmethod
    def from_model(cls, title: str, model: LabelCrf) -> "Panel":
        return cls(title, *couplings(model), rules=model.rules.array)

    @classmethod
    def from_matrix(cls, title: str, matrix: Floats) -> "Panel":
        """Return the panel of a matrix (L, L) in which NaN means unknown."""
        edges = np.argwhere(np.triu(np.isfinite(matrix), 1))
        return cls(title, edges, matrix[edges[:, 0], edges[:, 1]], np.nan)

    def reduce(self, order: LabelOrder, cells: int) -> Floats:
        """Return a matrix (cells, cells) of the value of largest size among the pairs of each cell.

        A mean would hide a few strong couplings among many pairs without any. With as many cells as
        labels, it is the whole matrix in the given order.

        Cost: O(E); no matrix of all labels is built.
        """
        cell = order.place() * cells // len(order.order)
        rows, columns = cell[self.edges].T
        above, below = np.zeros((cells, cells)), np.zeros((cells, cells))
        np.maximum.at(above, (rows, columns), self.values)
        np.minimum.at(below, (rows, columns), self.values)
        above, below = np.maximum(above, above.T), np.minimum(below, below.T)
        listed = np.zeros((cells, cells), dtype=bool)
        listed[rows, columns] = listed[columns, rows] = True
        return np.where(listed, np.where(above >= -below, above, below), self.other)


def save_couplings(path: Path, run: Run, order: LabelOrder, others: Sequence[Panel] = ()) -> None:
    """Draw the couplings of a run, and other matrices of its labels, into a file.

    Raises:
        MlcrfError: the path does not end in .png, .svg or .pdf, or cannot be written.
    """
    panels = [Panel.from_model(title(run), run.crf), *others]
    save_heatmap(path, run.labels.names, panels, order)


def save_heatmap(
    path: Path, names: Sequence[str], panels: Sequence[Panel], order: LabelOrder
) -> None:
    """Draw matrices into a file; see `draw_heatmap`.

    Raises:
        MlcrfError: the path does not end in .png, .svg or .pdf, or cannot be written.
    """
    require_ending(path, FORMATS)
    write_bytes(path, draw_heatmap(names, panels, order, path.suffix.lower()[1:]))


def draw_heatmap(
    names: Sequence[str], panels: Sequence[Panel], order: LabelOrder, kind: str = "png"
) -> bytes:
    """Return the bytes of a file with the figure of `make_figure`; always the same bytes.

    Args:
        kind: png, svg or pdf.
    """
    figure = make_figure(names, panels, order)
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    out = BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(out, format=kind, dpi=150, metadata=metadata.get(kind))
    return out.getvalue()


def make_figure(names: Sequence[str], panels: Sequence[Panel], order: LabelOrder) -> Figure:
    """Draw matrices side by side with colours that diverge about zero.

    Up to 120 labels are all named, and up to 30 the cells show their values. With more labels, a
    cell shows the strongest value of several pairs, and clusters are named instead. Each panel has
    its own scale, symmetric about zero; unknown cells are grey.
    """
    every_name = len(names) <= MOST_NAMED
    side = 2.2 + 0.29 * len(names) if every_name else _SIDE + 0.9
    beside = 0.4 if every_name else 3.4
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(side * len(panels) + beside, side), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            if every_name:
                _draw_labels(figure, axis, names, panel, order)
            else:
                _draw_clusters(figure, axis, panel, order)
        if not every_name:
            _name_rows(axes[0], names, order)
    return figure


def _draw_labels(
    figure: Figure, axis: Axes, names: Sequence[str], panel: Panel, order: LabelOrder
) -> None:
    matrix = panel.reduce(order, len(names))
    np.fill_diagonal(matrix, np.nan)
    children, parents = order.place()[panel.rules].T
    matrix[children, parents] = matrix[parents, children] = np.nan
    limit = float(np.nanmax(np.abs(matrix))) if np.isfinite(matrix).any() else 1.0
    limit = limit or 1.0
    _draw_cells(figure, axis, matrix, limit)
    ordered = [readable(names[label], _LONGEST) for label in order.order]
    axis.set_xticks(range(len(names)), ordered, rotation=90)
    axis.set_yticks(range(len(names)), ordered)
    axis.set_title(panel.title, fontsize=10)
    axis.tick_params(length=0)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5}
    for child, parent in zip(children, parents, strict=True):
        axis.text(parent, child, "\N{RIGHTWARDS DOUBLE ARROW}", **style)
    if len(names) > _NUMBERS_UP_TO:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            text = _short(value, 1 if limit >= 2 else 2)
            colour = "white" if abs(value) > 0.6 * limit else "black"
            # within the cells, so that the layout, which is slow, needs not look at it
            axis.text(column, row, text, color=colour, in_layout=False, **style)


def _draw_clusters(figure: Figure, axis: Axes, panel: Panel, order: LabelOrder) -> None:
    """Draw a matrix with possibly several labels per cell, and clusters outlined."""
    num_labels = len(order.order)
    matrix = panel.reduce(order, min(MOST_CELLS, num_labels))
    sizes = np.abs(matrix[np.isfinite(matrix) & (matrix != 0)])
    _draw_cells(figure, axis, matrix, strongest_colour(sizes), extend="both")
    per_label = len(matrix) / num_labels
    for cluster in order.clusters:
        if cluster.size >= _LEAST_SHARE * num_labels:
            low, high = ((cluster.start + k) * per_label - 0.5 for k in (0, cluster.size))
            box = [low, high, high, low, low], [low, low, high, high, low]
            axis.plot(*box, color="0.45", linewidth=0.5, scalex=False, scaley=False)
    axis.set_xticks([])
    axis.set_yticks([])
    each = "" if per_label == 1 else f", {1 / per_label:.3g} to a cell: the strongest is shown"
    axis.set_title(f"{panel.title}\n{num_labels:,} labels{each}", fontsize=10)


def _draw_cells(
    figure: Figure, axis: Axes, matrix: Floats, limit: float, extend: str = "neither"
) -> None:
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="0.85")  # red attracts, blue repels
    image = axis.imshow(matrix, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=axis, shrink=0.8, pad=0.01, extend=extend)


def _name_rows(axis: Axes, names: Sequence[str], order: LabelOrder) -> None:
    """Name clusters, the largest first, or else labels, where space permits."""
    num_labels = len(names)
    cells = min(MOST_CELLS, num_labels)
    if order.clusters:
        wanted = [
            (one.start + one.size / 2, cluster_name(names, one, _LETTERS))
            for one in order.largest_clusters()
        ]
    else:
        every = int(np.ceil(_LEAST_GAP * num_labels))
        wanted = [
            (at + 0.5, readable(names[order.order[at]], 3 * _LETTERS))
            for at in range(0, num_labels, every)
        ]
    taken: list[tuple[float, str]] = []
    for position, text in wanted:
        if all(abs(position - other) >= _LEAST_GAP * num_labels for other, _ in taken):
            taken.append((position, text))
    places = [position * cells / num_labels - 0.5 for position, _ in taken]
    axis.set_yticks(places, [text for _, text in taken])
    axis.tick_params(axis="y", length=2, labelsize=7)


def _short(value: float, digits: int) -> str:
    """Format a number for a narrow cell: no sign on zero, no zero before the point."""
    rounded = round(value, digits) or 0.0
    return f"{rounded:.{digits}f}".replace("0.", ".") if digits > 1 else f"{rounded:.{digits}f}"
