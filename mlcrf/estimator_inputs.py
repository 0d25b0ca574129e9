"""Features and targets as scikit-learn's users give them: arrays, data frames, sparse matrices."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from mlcrf.labels import UNKNOWN

REAL = (np.float64, np.float32)  # types of features that are read as they are
_MOST_ROUNDING = 1e-4  # to 32 bits, relative to the standard deviation of a feature


def as_dense(features: Any) -> NDArray[np.floating]:
    """Return features, which may be sparse, as an array."""
    dense: NDArray[np.floating] = features.toarray() if sparse.issparse(features) else features
    return dense


def shift_of(exact: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return what to subtract of each feature before it is rounded to 32 bits (D,), else 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        size, spread = np.abs(exact).max(0), exact.std(0)
    is_lost = (spread > 0) & (size * float(np.finfo(np.float32).eps) > _MOST_ROUNDING * spread)
    shift: NDArray[np.float64] = np.where(is_lost, exact.mean(0), 0.0).astype(np.float64)
    return shift


def as_single(exact: NDArray[np.floating], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return features (N, D) as numbers of 32 bits.

    Raises:
        ValueError: one is too large for them.
    """
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = (exact - shift if shift.any() else exact).astype(
            np.float32, copy=False
        )
    if not np.isfinite(single).all():
        raise ValueError("Input X contains infinity or a value too large for dtype('float32').")
    return single


def names_of(frame: pd.DataFrame) -> list[str]:
    """Return the names of labels.

    Raises:
        ValueError: one stands twice.
    """
    names = [str(one) for one in frame.columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"label {twice[0]!r} has several columns")
    return names


def by_name(given: Any, count: int, *, is_single: bool) -> pd.DataFrame | None:
    """Return label values that are given by the names of labels; None if they have no names."""
    if isinstance(given, pd.DataFrame):
        return given
    if isinstance(given, pd.Series):
        if is_single or isinstance(given.index, pd.RangeIndex):
            return None
        given = given.to_dict()
    return pd.DataFrame(given, index=range(count)) if isinstance(given, Mapping) else None


def without_na(given: Any) -> Any:
    """Return a DataFrame with NaN in place of pandas' NA; anything else as it is."""
    if not isinstance(given, pd.DataFrame) or not given.isna().any(axis=None):
        return given
    return given.astype(object).where(given.notna(), np.nan)


def read_classes(given: Any) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """Return the one or two classes of targets (N,), and which has the second (N, 1)."""
    values = column_or_1d(given)
    check_classification_targets(values)
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) > 2:
        raise ValueError(
            "Only binary classification is supported. The type of the target is multiclass: "
            "give a column of 0 and 1 for each label"
        )
    return classes, codes.astype(np.int8)[:, None]


def read_targets(given: Any, names: Sequence[str] | None, count: int) -> NDArray[np.int8]:
    """Return label values as 1, 0 and -1 for unknown (N, L).

    Raises:
        ValueError: another shape, or another value.
    """
    if sparse.issparse(given):
        given = given.toarray()
    values = check_array(
        given, dtype=np.float64, ensure_all_finite="allow-nan", ensure_2d=False, input_name="Y"
    )
    if values.ndim != 2:
        raise ValueError(
            f"Y: expected a column for each label, (n_samples, n_labels), got shape {values.shape}"
        )
    if len(values) != count:
        raise ValueError(f"X has {count} rows and Y has {len(values)}; expected as many")
    unknown = np.isnan(values)
    wrong = ~unknown & (values != 0) & (values != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name = column if names is None else names[column]
        raise ValueError(
            f"Y: expected 0, 1 or NaN (unknown), got {values[row, column]:g} "
            f"in row {row} of label {str(name)!r}"
        )
    return np.where(unknown, UNKNOWN, values).astype(np.int8)
