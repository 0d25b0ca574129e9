"""The learned couplings as a picture, beside what they are compared with."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlcrf.atomic import replacing, require_ending

FORMATS = (".png", ".svg", ".pdf")
COLOURS = "RdBu_r"  # red attracts, blue repels
_NUMBERS_UP_TO = 30  # labels; with more, the numbers in the cells could not be read


@dataclass(frozen=True)
class Panel:
    """One matrix to draw: symmetric, of all labels or reduced; NaN where nothing is known."""

    title: str
    matrix: NDArray[np.float64]


def draw_heatmap(
    path: Path, names: Sequence[str], panels: Sequence[Panel], order: NDArray[np.int64]
) -> None:
    """Draw matrices side by side with colours that diverge about zero.

    Each panel has a scale of its own, symmetric about zero; unknown cells are grey. Values are
    written into the cells up to 30 labels.

    Args:
        path: ends in .png, .svg or .pdf.
        order: in which the labels are shown (L,).

    Raises:
        MlcrfError: another ending, or the file cannot be written.
    """
    require_ending(path, FORMATS)
    size = 2.2 + 0.29 * len(names)
    with drawing():
        figure = Figure(figsize=(size * len(panels) + 0.4, size), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(figure, axis, names, panel, order)
        save_figure(figure, path)


def drawing() -> AbstractContextManager[None]:
    """Settings of a picture: the same bytes again, and names are no formulas."""
    return mpl.rc_context({"svg.hashsalt": "mlcrf", "font.size": 8, "text.parse_math": False})


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, with no date in it.

    Raises:
        MlcrfError: another ending than those of `FORMATS`, or the file cannot be written.
    """
    require_ending(path, FORMATS)
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with replacing(path) as temporary:
        figure.savefig(
            temporary,
            format=path.suffix.lower()[1:],
            dpi=150,
            metadata=metadata.get(path.suffix.lower()),
        )


def _draw_panel(
    figure: Figure, axis: Axes, names: Sequence[str], panel: Panel, order: NDArray[np.int64]
) -> None:
    shown = panel.matrix[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    limit = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    limit = limit or 1.0
    colours = mpl.colormaps[COLOURS].with_extremes(bad="0.85")
    image = axis.imshow(shown, cmap=colours, vmin=-limit, vmax=limit)
    ordered = [names[column] for column in order]
    axis.set_xticks(range(len(names)), ordered, rotation=90)
    axis.set_yticks(range(len(names)), ordered)
    axis.set_title(panel.title, fontsize=10)
    axis.tick_params(length=0)
    if len(names) <= _NUMBERS_UP_TO:
        for (row, column), value in np.ndenumerate(shown):
            if np.isfinite(value):
                dark = abs(value) > 0.6 * limit
                axis.text(
                    column,
                    row,
                    _short(value, 1 if limit >= 2 else 2),
                    ha="center",
                    va="center",
                    fontsize=5,
                    color="white" if dark else "black",
                )
    figure.colorbar(image, ax=axis, shrink=0.8, pad=0.01)


def _short(value: float, digits: int) -> str:
    """A number for a narrow cell: no sign on zero, no zero before the point."""
    rounded = round(value, digits) or 0.0
    return f"{rounded:.{digits}f}".replace("0.", ".") if digits > 1 else f"{rounded:.{digits}f}"
