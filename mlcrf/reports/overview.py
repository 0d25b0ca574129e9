"""Couplings of so many labels that only clusters of them can be named, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcrf.checkpoint import Run
from mlcrf.reports.correlations import couplings, strongest_pairs, title
from mlcrf.reports.heatmap import COLOURS, Panel, draw_heatmap, drawing, save_figure
from mlcrf.reports.names import readable
from mlcrf.reports.ordering import MOST_NAMED, LabelOrder
from mlcrf.reports.reduction import reduce_couplings, reduce_matrix, strongest_colour

MOST_CELLS = 500  # along a side
_SIDE = 8.0  # inches
_LEAST_GAP = 0.017  # of the side, between the names of two clusters
_LEAST_SHARE = 0.004  # of all labels: smaller clusters are not outlined
_LETTERS = 22  # of a name
_LISTED = 15  # pairs of either sign

Pairs = Sequence[tuple[str, str, float]]


def draw_couplings(path: Path, run: Run, shown: LabelOrder, others: Sequence[Panel] = ()) -> None:
    """Draw what a run learned beside other matrices: every label named up to 120, else clusters.

    Args:
        path: ends in .png, .svg or .pdf.
        shown: the order of the labels.
        others: of the same labels, (L, L) each.

    Raises:
        MlcrfError: another ending, or the file cannot be written.

    Cost: of more than 120 labels O(E), and O(L^2) for each of the others.
    """
    names = run.labels.names
    if len(names) <= MOST_NAMED:
        learned = Panel(title(run), run.crf.pairwise_matrix().double().numpy())
        draw_heatmap(path, names, [learned, *others], shown.order)
        return
    cells = min(MOST_CELLS, len(names))
    panels = [Panel(title(run), reduce_couplings(*couplings(run.crf), shown, cells))]
    panels += [Panel(one.title, reduce_matrix(one.matrix, shown, cells)) for one in others]
    draw_overview(path, names, panels, shown, strongest_pairs(run.crf, names, count=_LISTED))


def draw_overview(
    path: Path,
    names: Sequence[str],
    panels: Sequence[Panel],
    shown: LabelOrder,
    pairs: tuple[Pairs, Pairs],
) -> None:
    """Draw reduced matrices side by side, clusters named, the strongest pairs in words beside them.

    Each panel has a scale of its own, symmetric about zero; the strongest 2 % of its cells share
    the strongest colour.

    Args:
        path: ends in .png, .svg or .pdf.
        panels: reduced matrices, at most `MOST_CELLS` along a side; see `mlcrf.reports.reduction`.
        shown: the order that they were reduced in.
        pairs: the strongest attractions and repulsions, strongest first.

    Raises:
        MlcrfError: another ending, or the file cannot be written.
    """
    width = len(panels) * (_SIDE + 0.6) + 3.2 + 3.4
    with drawing():
        figure = Figure(figsize=(width, _SIDE + 0.9), layout="constrained")
        ratios = [*([_SIDE] * len(panels)), 3.2]
        axes = figure.subplots(1, len(panels) + 1, width_ratios=ratios, squeeze=False)[0]
        for number, panel in enumerate(panels):
            _draw_panel(figure, axes[number], panel, shown)
            if number == 0:
                _name_rows(axes[number], names, shown, len(panel.matrix))
        _list_pairs(axes[-1], pairs)
        save_figure(figure, path)


def cluster_name(names: Sequence[str], leaders: Sequence[int], size: int, letters: int) -> str:
    """What a cluster is called: its first labels, and how many there are."""
    if not leaders:
        return f"the rest ({size:,})"
    return f"{', '.join(readable(names[label], letters) for label in leaders)} ({size:,})"


def _draw_panel(figure: Figure, axis: Axes, panel: Panel, shown: LabelOrder) -> None:
    cells = len(panel.matrix)
    sizes = np.abs(panel.matrix[np.isfinite(panel.matrix) & (panel.matrix != 0)])
    limit = strongest_colour(sizes)
    colours = mpl.colormaps[COLOURS].with_extremes(bad="0.85")
    image = axis.imshow(
        panel.matrix, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest"
    )
    per_label = cells / len(shown.order)
    for cluster in shown.clusters:
        if cluster.size >= _LEAST_SHARE * len(shown.order):
            low, high = ((cluster.start + k) * per_label - 0.5 for k in (0, cluster.size))
            box = [low, high, high, low, low], [low, low, high, high, low]
            axis.plot(*box, color="0.45", linewidth=0.5, scalex=False, scaley=False)
    axis.set_xticks([])
    axis.set_yticks([])
    labels = f"{len(shown.order):,} labels"
    each = "" if per_label == 1 else f", {1 / per_label:.3g} to a cell: the strongest is shown"
    axis.set_title(f"{panel.title}\n{labels}{each}", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8, pad=0.01, extend="both")


def _name_rows(axis: Axes, names: Sequence[str], shown: LabelOrder, cells: int) -> None:
    """Clusters, the largest first, or labels, as long as there is room for a name."""
    num_labels = len(shown.order)
    per_label = cells / num_labels
    if shown.clusters:
        largest = sorted(shown.clusters, key=lambda one: (-one.size, one.start))
        wanted = [
            (
                (one.start + one.size / 2) * per_label,
                cluster_name(names, one.leaders, one.size, _LETTERS),
            )
            for one in largest
        ]
    else:
        every = int(np.ceil(_LEAST_GAP * num_labels))
        wanted = [
            ((at + 0.5) * per_label, readable(names[shown.order[at]], 3 * _LETTERS))
            for at in range(0, num_labels, every)
        ]
    taken: list[tuple[float, str]] = []
    for position, text in wanted:
        if all(abs(position - other) >= _LEAST_GAP * cells for other, _ in taken):
            taken.append((position, text))
    axis.set_yticks([position - 0.5 for position, _ in taken], [text for _, text in taken])
    axis.tick_params(axis="y", length=2, labelsize=7)


def _list_pairs(axis: Axes, pairs: tuple[Pairs, Pairs]) -> None:
    axis.set_axis_off()
    lines: list[tuple[str, str, str]] = []
    for sign, found, colour in zip(
        ("attract", "repel"), pairs, ("#b2182b", "#2166ac"), strict=True
    ):
        lines.append((f"{sign} most" if found else f"none {sign}", "", colour))
        lines += [
            (
                f"{readable(one, _LETTERS)} \N{MULTIPLICATION SIGN} {readable(other, _LETTERS)}",
                f"{value:+.2f}",
                "black",
            )
            for one, other, value in found
        ]
        lines.append(("", "", "black"))
    step = min(0.028, 1 / max(1, len(lines)))
    for number, (words, value, colour) in enumerate(lines):
        height = 1 - (number + 0.5) * step
        style: dict[str, Any] = {
            "color": colour,
            "fontweight": "normal" if colour == "black" else "bold",
            "fontsize": 7.5,
            "va": "center",
            "transform": axis.transAxes,
        }
        axis.text(0, height, words, **style)
        axis.text(1, height, value, ha="right", **style)
