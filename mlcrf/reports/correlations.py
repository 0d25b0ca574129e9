"""Learned couplings, and their agreement with counts or a published matrix."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray

from mlcrf.checkpoint import Run, load_splits
from mlcrf.data.manifest import Split
from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.reports.names import some_names
from mlcrf.reports.text import format_table

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation of two matrices over label pairs.

    Attributes:
        over: description of the pairs.
        pairs: number of pairs.
        correlation: -1 to 1; NaN with fewer than three pairs.
        same_sign: number of pairs with the same sign in both.
    """

    over: str
    pairs: int
    correlation: float
    same_sign: int


def cooccurrence(targets: NDArray[np.int8]) -> Floats:
    """Return the number of images in which both labels are present, with zero diagonal (L, L)."""
    present = (targets == 1).astype(np.float64)
    counts: Floats = present.T @ present
    np.fill_diagonal(counts, 0)
    return counts


def phi(targets: NDArray[np.int8]) -> Floats:
    """Return Pearson's correlation of label pairs over images where both are known (L, L).

    NaN if a label does not vary among these images; zero diagonal.
    """
    known = (targets >= 0).astype(np.float64)
    present = (targets == 1).astype(np.float64)
    both = known.T @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        first = present.T @ known / both
        together = present.T @ present / both
        variance = first * (1 - first)
        spread = np.sqrt(variance * variance.T)
        result: Floats = np.where(spread > 0, (together - first * first.T) / spread, np.nan)
    np.fill_diagonal(result, 0)
    return result


def title(run: Run) -> str:
    """Return the title of a heatmap of a run's couplings."""
    closed = ", gates at zero" if run.crf.rank else ""
    return f"learned couplings, {run.data}{closed}"


def rank_agreements(learned: Floats, other: Floats, *, above: float = 0.1) -> list[RankAgreement]:
    """Return rank correlations over all known pairs, and over pairs with |other| > `above`."""
    rows, columns = np.triu_indices(len(learned), 1)
    ours, theirs = learned[rows, columns], other[rows, columns]
    known = np.isfinite(theirs)
    strong = known & (np.abs(np.nan_to_num(theirs)) > above)
    result = [_agreement("all known pairs", ours[known], theirs[known])]
    if not strong.all() and strong.any():
        result.append(_agreement(f"pairs above {above:g} in size", ours[strong], theirs[strong]))
    return result


def strongest_colour(sizes: Floats) -> float:
    """Return the size shown in the strongest colour: 2 % of couplings are larger."""
    if not len(sizes):
        return 1.0
    return float(np.percentile(sizes, 98)) or float(sizes.max()) or 1.0


def couplings(model: LabelCrf) -> tuple[NDArray[np.int64], Floats]:
    """Return pairs i < j (E, 2) and their couplings (E,), with all gates at zero."""
    return model.edges.numpy(), model.pairwise.detach().double().numpy()


def strongest_pairs(
    model: LabelCrf, names: tuple[str, ...], *, count: int = 10
) -> tuple[list[tuple[str, str, float]], list[tuple[str, str, float]]]:
    """Return the strongest attractions and the strongest repulsions, strongest first."""
    edges, values = couplings(model)
    order = np.argsort(-values, kind="stable")

    def named(places: NDArray[np.int64]) -> list[tuple[str, str, float]]:
        return [(names[edges[k, 0]], names[edges[k, 1]], float(values[k])) for k in places]

    attractions = [pair for pair in named(order[:count]) if pair[2] > 0]
    repulsions = [pair for pair in named(order[::-1][:count]) if pair[2] < 0]
    return attractions, repulsions


def load_comparison(what: str, run: Run) -> Floats:
    """Load a matrix (L, L) to compare the couplings of a run with.

    Args:
        what: `phi` or `cooccurrence`, computed on the run's training and validation images, or the
            path of a square CSV file.

    Raises:
        DataError: the file, or the run's table of splits, cannot be read.
    """
    if what not in ("phi", "cooccurrence"):
        return load_matrix(Path(what), run.labels)
    manifest = load_splits(run)
    fitted = np.array([split is not Split.TEST for split in manifest.splits or ()])
    targets = manifest.targets[fitted]
    return phi(targets) if what == "phi" else cooccurrence(targets)


def load_matrix(path: Path, labels: LabelSpace) -> Floats:
    """Load a square CSV of label pairs, with label names in the first row and column.

    Labels are matched by name, with space and hyphen read as underscore; an empty cell is unknown
    (NaN). Missing labels are unknown, and other labels are left out.

    Raises:
        DataError: cannot be read, not square, not symmetric, a cell is not a number, or fewer than
            two labels in common.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; expected phi, "
            "cooccurrence, or a CSV file of a square matrix of labels"
        ) from error
    if not rows or len(rows) != len(rows[0]):
        raise DataError(f"{path}: expected a square matrix with names in the first row and column")
    names = [_plain(name) for name in rows[0][1:]]
    values = np.full((len(names), len(names)), np.nan)
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(names) + 1 or _plain(row[0]) != names[line - 2]:
            raise DataError(f"{path}:{line}: expected {names[line - 2]!r} and {len(names)} values")
        for column, cell in enumerate(row[1:]):
            try:
                values[line - 2, column] = float(cell) if cell.strip() else np.nan
            except ValueError:
                raise DataError(f"{path}:{line}: {cell!r} is not a number") from None
    if not np.allclose(values, values.T, equal_nan=True):
        raise DataError(f"{path}: not symmetric")
    ours = [_plain(name) for name in labels]
    result = np.full((len(ours), len(ours)), np.nan)
    column_of = {name: column for column, name in reversed(list(enumerate(names)))}
    shared = [(at, column_of[name]) for at, name in enumerate(ours) if name in column_of]
    if len(shared) < 2:
        raise DataError(
            f"{path}: has fewer than two labels of this run; expected {some_names(labels.names)}"
        )
    here, there = np.array(shared).T
    result[np.ix_(here, here)] = values[np.ix_(there, there)]
    return result


def format_matrix(matrix: Floats, names: tuple[str, ...]) -> str:
    """Format a square matrix as CSV text that `load_matrix` reads."""
    import pandas as pd  # loaded only here, because that takes half a second

    frame = pd.DataFrame(matrix, names, names)
    text: str = frame.to_csv(index_label="label", float_format="%.6g", lineterminator="\n")
    return text


def format_pairs(
    attractions: Sequence[tuple[str, str, float]], repulsions: Sequence[tuple[str, str, float]]
) -> str:
    """Format the strongest couplings, attractions on the left."""
    left, right = (
        [[f"{one} - {other}", f"{value:+.2f}"] for one, other, value in pairs]
        for pairs in (attractions, repulsions)
    )
    rows = [[*one, *other] for one, other in zip_longest(left, right, fillvalue=["", ""])]
    return format_table(["attract", "", "repel", ""], rows)


def format_agreements(name: str, agreements: Sequence[RankAgreement]) -> str:
    """Format rank correlations, one per line."""
    lines = []
    for one in agreements:
        is_known = not np.isnan(one.correlation)
        value = f"{one.correlation:+.3f}" if is_known else "not known of so few or equal pairs"
        lines.append(
            f"rank correlation with {name}, {one.over} ({one.pairs}): {value}, "
            f"same sign in {one.same_sign}"
        )
    return "\n".join(lines)


def _agreement(over: str, ours: Floats, theirs: Floats) -> RankAgreement:
    value = float(scipy.stats.spearmanr(ours, theirs).statistic) if len(ours) > 2 else float("nan")
    same_sign = int((np.sign(ours) == np.sign(theirs)).sum())
    return RankAgreement(over, len(ours), value, same_sign)


def _plain(name: str) -> str:
    return name.strip().replace(" ", "_").replace("-", "_")
