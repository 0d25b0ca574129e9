"""Growth as pictures."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from growth import FULL_UP_TO
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_TITLES = {
    "labels": "labels L, 8 images a call",
    "images": "images a call, 24 labels",
    "chains": "chains an image, 24 labels, 8 images a call",
}
_MARKS = "osv^D<>Pp"


def plot_growth(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write growth-labels.png, growth-images.png and growth-chains.png; returns their paths."""
    paths = []
    for axis, title in _TITLES.items():
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
        points = [row for row in rows if row["axis"] == axis and "seconds" in row]
        _draw(left, points, title, "ms an image", _milliseconds)
        _draw(right, points, title, "peak memory of the call, MB", _megabytes)
        if axis == "labels":
            for axes in (left, right):
                axes.axvline(FULL_UP_TO * 1.2, color="grey", linewidth=0.8, linestyle=":")
                axes.set_title(
                    "all pairs coupled | 10 neighbours a label", fontsize=9, color="grey"
                )
        names = {row["method"] for row in points}
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
        assert names, f"nothing was measured against {axis}"
        paths.append(folder / f"growth-{axis}.png")
        figure.savefig(paths[-1], dpi=110)
        plt.close(figure)
    return paths


def _draw(axes: Axes, points: list[dict[str, Any]], title: str, unit: str, value: Any) -> None:
    for number, name in enumerate(dict.fromkeys(row["method"] for row in points)):
        of_method = [row for row in points if row["method"] == name]
        label = f"{name}, on trees" if name == "junction-tree" else name
        axes.plot(
            [row["size"] for row in of_method],
            [value(row) for row in of_method],
            marker=_MARKS[number % len(_MARKS)],
            markersize=4,
            linewidth=1.2,
            color=f"C{number}",
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlabel=title, ylabel=unit)
    axes.grid(visible=True, which="major", linewidth=0.4)


def _milliseconds(row: dict[str, Any]) -> float:
    return 1e3 * float(row["seconds"]) / int(row["images"])


def _megabytes(row: dict[str, Any]) -> float:
    return max(float(row["peak_mb"]), 0.1)  # a page more or less is no measurement
