"""Split images into train, validation and test, stratified by label."""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.manifest import SPLIT_NAMES, Manifest, Split
from mlcrf.errors import DataError, SettingsError
from mlcrf.hints import counted
from mlcrf.labels import UNKNOWN


def split_manifest(
    manifest: Manifest, *, seed: int, validation: float = 0.1, test: float = 0.2
) -> Manifest:
    """Add missing splits to a data set, stratified by label.

    Without splits, `test` and `validation` are shares of all images. With training images but no
    validation, `validation` is a share of the training images; test images are never taken
    from given training images. With both, or without training images, nothing changes.

    Each label is stratified by both `present` and `unknown`, so that each split gets its share of
    the labelled images too. Labels too rare to be expected in a split even once are stratified
    together, by how many of them an image has: shares of less than one image would be rounded,
    mostly to none, and splits would differ in their number of labels an image. Rows with the same
    path get the same split.

    Args:
        seed: the same seed, order of rows and shares give the same splits.
        validation, test: shares in [0, 1); 0 makes none.

    Returns:
        The same rows in the same order, with splits, and a note with their sizes.

    Raises:
        SettingsError: shares out of range, or nothing left to train on.
        DataError: too few images for the shares, or an image in two splits.

    Cost: at most O(N L) per label; 25,000 images with 24 labels take seconds.

    Source: Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data (2011).
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise SettingsError(
            f"shares of validation {validation:g} and test {test:g}; expected both in [0, 1) "
            "with a sum below 1"
        )
    groups = _rows_by_path(manifest)
    if manifest.splits is None:
        splits = [Split.TRAIN] * len(manifest)
        shares = {Split.TEST: test, Split.VALIDATION: validation}
    else:
        _check_disjoint(manifest, groups)
        splits = list(manifest.splits)
        missing = Split.TRAIN in splits and Split.VALIDATION not in splits
        shares = {Split.VALIDATION: validation if missing else 0.0}
    pool = [rows for rows in groups if splits[rows[0]] is Split.TRAIN]
    shares = {split: share for split, share in shares.items() if share > 0}
    if not shares:
        return replace(manifest, splits=tuple(splits))
    _check_enough(manifest, len(pool), shares.values())
    total = len(pool)
    for done, (split, share) in enumerate(shares.items()):
        spare = len(shares) - done  # reserve one image for each later split and for training
        wanted = min(max(round(total * share), 1), len(pool) - spare)
        patterns = _patterns(manifest.targets)
        merged = np.array([patterns[rows].any(axis=0) for rows in pool])
        taken = _stratified(merged, wanted, spare, seed)
        for place in taken.tolist():
            for row in pool[place]:
                splits[row] = split
        pool = [rows for rows in pool if splits[rows[0]] is Split.TRAIN]
    counts = ", ".join(f"{split.value} {splits.count(split)}" for split in Split)
    made = " and ".join(split.value for split in shares)
    note = f"{made} made by iterative stratification with seed {seed} ({counts})"
    return replace(manifest, splits=tuple(splits), notes=(*manifest.notes, note))


def draw_validation(
    targets: NDArray[np.int8], *, seed: int, validation: float = 0.1
) -> NDArray[np.bool_]:
    """Choose validation rows (N,), as `split_manifest` does among training images.

    Raises:
        DataError: too few rows.
    """
    if len(targets) < 2:
        raise DataError(
            f"{counted(len(targets), 'row is', 'rows are')} "
            "too few to learn from and to choose penalties on"
        )
    chosen = np.zeros(len(targets), dtype=bool)
    wanted = min(max(round(len(targets) * validation), 1), len(targets) - 1)
    chosen[_stratified(_patterns(targets), wanted, 1, seed)] = True
    return chosen


def _rows_by_path(manifest: Manifest) -> list[list[int]]:
    """Return the rows of each image, in order of first occurrence."""
    groups: dict[str, list[int]] = {}
    for row, image in enumerate(manifest.images):
        groups.setdefault(image.address, []).append(row)
    return list(groups.values())


def _check_disjoint(manifest: Manifest, groups: list[list[int]]) -> None:
    assert manifest.splits is not None
    for rows in groups:
        found = sorted({manifest.splits[row].value for row in rows})
        if len(found) > 1:
            raise DataError(
                f"{manifest.images[rows[0]]} is in the splits "
                f"{' and '.join(found)}; keep it in one",
                manifest.name,
            )


def _check_enough(manifest: Manifest, available: int, shares: Collection[float]) -> None:
    """Require an image for the smallest share, and one to train on."""
    smallest = min(shares)
    needed = max(math.ceil(1 / smallest - 1e-9), 1 + len(shares))
    if available < needed:
        raise DataError(
            f"{counted(available, 'image is', 'images are')} "
            f"too few to take a share of {smallest:g} "
            f"from; at least {needed} are needed. Add images, or a column `split` with "
            "train, validation or test.",
            manifest.name,
        )


def _patterns(targets: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return which labels are present, and which unknown (N, 2 L)."""
    return np.hstack([targets == 1, targets == UNKNOWN])


def _stratified(
    patterns: NDArray[np.bool_], wanted: int, spare: int, seed: int
) -> NDArray[np.int64]:
    """Return about `wanted` rows, stratified by the columns of `patterns`.

    Columns of which a draw of `wanted` rows expects less than one are stratified together, by how
    many of them a row has. Stratification may change the size by a few images. If it would select
    none, or leave fewer than `spare`, exactly `wanted` positions are drawn at random.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    def is_common(columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
        expected: NDArray[np.bool_] = columns.sum(0) * wanted >= len(columns)
        return expected

    counts = patterns[:, ~is_common(patterns)].sum(1)
    at_least = counts[:, None] >= np.arange(1, counts.max(initial=0) + 1)
    columns = np.hstack([patterns, at_least])
    columns &= is_common(columns)
    draw = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=wanted, random_state=seed % 2**32)
    _, taken = next(draw.split(columns, columns))
    if not 0 < len(taken) <= len(patterns) - spare:
        taken = np.random.default_rng(seed % 2**32).permutation(len(patterns))[:wanted]
    return np.sort(taken)


def take_split(manifest: Manifest, name: str) -> Manifest:
    """Return the images of the split called `name`: train, validation (or val), test, or all.

    Raises:
        SettingsError: unknown split.
        DataError: the data have no splits, or no image in this split.
    """
    if name == "all":
        return manifest
    if name not in SPLIT_NAMES:
        raise SettingsError(f"--split {name}: expected train, validation, test or all")
    return manifest.part(SPLIT_NAMES[name])
