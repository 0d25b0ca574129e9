"""Join tables with different labels to one data set."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Oddity
from mlcrf.data.label_map import find_table, load_label_map
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.plausibility import spelling
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset
from mlcrf.data.rules import with_rules
from mlcrf.errors import DataError, LabelsError
from mlcrf.hints import counted
from mlcrf.images import Image
from mlcrf.images.number_rows import NumberRow
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules import Rules, find_cycle
from mlcrf.stores import Stored

_SHOWN = 3  # contradictions that are named


def read_datasets(
    places: Sequence[Path | Stored],
    options: ReadOptions = ReadOptions(),
    *,
    names: Path | None = None,
    positives: Sequence[str] = (),
) -> Manifest:
    """Read one data set of any known layout, or several as one; see `join_tables`.

    Args:
        options: hold for every table; `labels` are those of all tables together.
        names: file of names that mean the same label; see `mlcrf.data.label_map`.
        positives: tables that list only a part of what is present, as in `places` or by their file
            names; see `with_mentions`.

    Raises:
        DataError: see `read_dataset` and `join_tables`; or a table is given twice, or one of
            `positives` is none of the tables.
        LabelsError: labels other than those of `options`, or a wrong file of names.
        SettingsError: see `read_dataset`.
    """
    if len(places) == 1 and names is None and not positives:
        return read_dataset(places[0], options)
    partial = _find_tables(positives, {str(place): place for place in places})
    tables: dict[str, Manifest] = {}
    for place in places:
        name = str(place)
        if name in tables:
            raise DataError("is given twice; leave out one", place)
        accept = options.accept | ({Oddity.NO_ABSENT} if name in partial else set())
        tables[name] = read_dataset(place, replace(options, labels=None, accept=accept))
        if name in partial:
            tables[name] = with_mentions(tables[name], name)
    if options.fold_case:
        tables = _with_one_spelling(tables)
    if names is not None:
        renaming = load_label_map(names, {name: one.labels for name, one in tables.items()})
        tables = {name: _renamed(one, renaming[name]) for name, one in tables.items()}
    joined = join_tables(tables)
    return joined if options.labels is None else joined.relabelled(options.labels)


def with_mentions(table: Manifest, name: str) -> Manifest:
    """Return a table as a source that lists only a part of what is present.

    What it lists is present; what it does not list is unknown, and `Manifest.mentions` keeps that
    it is not listed: 0, or, in a table without any 0, an empty cell.

    Args:
        name: name of the source in results.
    """
    targets = table.targets
    silent = targets == (0 if (targets == 0).any() else UNKNOWN)
    said = np.where(silent, 0, np.where(targets == 1, 1, UNKNOWN)).astype(np.int8)
    known = np.where(targets == 1, 1, UNKNOWN).astype(np.int8)
    return replace(table, targets=known, mentions={name: said})


def join_tables(tables: Mapping[str, Manifest]) -> Manifest:
    """Join data sets to one with all of their labels and images.

    A label is unknown for an image where no table speaks of it: a table of lists speaks of the
    labels that it lists at all. An image that is in several tables, by the path of its file, is
    one image with the answers of all; a label that one table calls present and another absent
    becomes unknown, and a note counts and names the first of these.

    An image has the split of any table that gives it one. If no table does, there are no splits;
    else images without one are training images.

    Args:
        tables: name in messages -> data set.

    Raises:
        DataError: an image in two splits.
        LabelsError: implications of different tables that form a circle.
    """
    if len(tables) == 1:
        return next(iter(tables.values()))
    labels = LabelSpace(
        tuple(dict.fromkeys(name for one in tables.values() for name in one.labels))
    )
    row_of: dict[str, int] = {}
    images: list[Image] = []
    places: dict[str, NDArray[np.int64]] = {}  # rows of each table's images
    for name, table in tables.items():
        for image in table.images:
            if image.key not in row_of:
                row_of[image.key] = len(images)
                images.append(image)
        places[name] = np.array([row_of[image.key] for image in table.images], dtype=np.int64)
    given: dict[str, NDArray[np.int8]] = {}
    for name, table in tables.items():
        given[name] = _spread(table.targets, table.labels, labels, places[name], len(images))
    answers = np.stack(list(given.values()))
    present, absent = (answers == 1).any(0), (answers == 0).any(0)
    targets = np.where(present, 1, np.where(absent, 0, UNKNOWN)).astype(np.int8)
    targets[present & absent] = UNKNOWN
    keys = [image.name for image in images]
    notes = [f"{name}: {note}" for name, one in tables.items() for note in one.notes]
    lines = {
        file: _line_of_each(lines, places[name], len(images))
        for name, one in tables.items()
        for file, lines in one.lines.items()
    }
    where = {name: _places_in(name, lines.get(name)) for name in tables}
    notes += _contradictions(given, present & absent, keys, labels, where)
    splits, note = _join_splits(tables, places, keys, where)
    features = {one.feature_names for one in tables.values()}
    if len(features) > 1:
        raise DataError(f"{' and '.join(tables)}: have not the same features; give one table alone")
    _require_same_features(tables, images, row_of)
    manifest = Manifest(
        tuple(images),
        targets,
        labels,
        splits,
        "+".join(one.name for one in tables.values()),
        (*notes, *note),
        lists_positives=all(one.lists_positives for one in tables.values()),
        layout=f"{len(tables)} tables",
        facts=tuple(_facts(tables, places)),
        mentions={
            source: _spread(said, one.labels, labels, places[name], len(images))
            for name, one in tables.items()
            for source, said in one.mentions.items()
        },
        feature_names=features.pop(),
        lines=lines,
    )
    rules = _join_rules(tables, labels)
    return with_rules(manifest, rules) if len(rules) else manifest


def _require_same_features(
    tables: Mapping[str, Manifest], images: Sequence[Image], row_of: Mapping[str, int]
) -> None:
    """Refuse a row that has other features in another table."""
    for name, table in tables.items():
        for image in table.images:
            first = images[row_of[image.key]]
            both = [one.features for one in (image, first) if isinstance(one, NumberRow)]
            if len(both) == 2 and not np.array_equal(*both):  # type: ignore[arg-type]
                raise DataError(f"{name}: row {image} has other features in another table")


def _spread(
    values: NDArray[np.int8],
    own: LabelSpace,
    labels: LabelSpace,
    rows: NDArray[np.int64],
    count: int,
) -> NDArray[np.int8]:
    """Return a table's values among all images and labels, unknown elsewhere."""
    columns = np.array([labels.index(name) for name in own])
    result = np.full((count, len(labels)), UNKNOWN, dtype=np.int8)
    np.maximum.at(result, (rows[:, None], columns), values)  # rows of one image agree
    return result


def _line_of_each(
    lines: NDArray[np.int64], rows: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return a table's line of each of all images, 0 for others."""
    result = np.zeros(count, dtype=np.int64)
    result[rows] = lines
    return result


def _places_in(name: str, lines: NDArray[np.int64] | None) -> Callable[[int], str]:
    """Return a function from an image to its place in a table, such as `tags.csv:7`."""
    return lambda row: name if lines is None or not lines[row] else f"{name}:{lines[row]}"


def _find_tables(wanted: Sequence[str], tables: Mapping[str, object]) -> set[str]:
    """Return the full names of tables."""
    found = {}
    for text in wanted:
        name = find_table(text, tables)
        if name is None:
            raise DataError(f"--lists {text}=positives: expected one of {', '.join(tables)}")
        found[name] = text
    return set(found)


def _contradictions(
    given: Mapping[str, NDArray[np.int8]],
    contradicted: NDArray[np.bool_],
    images: Sequence[str],
    labels: LabelSpace,
    where: Mapping[str, Callable[[int], str]],
) -> Iterator[str]:
    """Yield a note on labels that one table calls present and another absent."""
    found = np.argwhere(contradicted)
    if not len(found):
        return
    told = []
    for row, column in found[:_SHOWN].tolist():
        says = [
            f"{answers[row, column]} in {where[name](row)}"
            for name, answers in given.items()
            if answers[row, column] != UNKNOWN
        ]
        told.append(f"{images[row]}: {labels.names[column]} is {' and '.join(says)}")
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    yield (
        "tables contradict each other in "
        f"{counted(len(found), 'answer')}, taken as unknown: "
        f"{'; '.join(told)}{more}"
    )


def _join_splits(
    tables: Mapping[str, Manifest],
    places: Mapping[str, NDArray[np.int64]],
    images: Sequence[str],
    where: Mapping[str, Callable[[int], str]],
) -> tuple[tuple[Split, ...] | None, list[str]]:
    """Return the split of each image (N,), and a note on images that none is given for."""
    split_of: dict[int, tuple[Split, str]] = {}
    for name, table in tables.items():
        for row, split in zip(places[name].tolist(), table.splits or (), strict=False):
            before, first = split_of.setdefault(row, (split, name))
            if before is not split:
                raise DataError(
                    f"{images[row]} is in the split {before} of {where[first](row)}, and "
                    f"{split} of {where[name](row)}; keep it in one"
                )
    if not split_of:
        return None, []
    without = len(images) - len(split_of)
    note = (
        f"{counted(without, 'image is', 'images are')} "
        "in tables without splits only: taken for training"
    )
    splits = [split_of[row][0] if row in split_of else Split.TRAIN for row in range(len(images))]
    return tuple(splits), [note] if without else []


def _join_rules(tables: Mapping[str, Manifest], labels: LabelSpace) -> Rules:
    pairs = [pair for one in tables.values() for pair in one.rules.names(one.labels)]
    cycle = find_cycle(pairs)
    if cycle:
        raise LabelsError(
            f"{' and '.join(tables)}: labels imply each other in a circle: {' => '.join(cycle)}"
        )
    limits = [
        limit.renumbered({at: labels.index(name) for at, name in enumerate(one.labels)})
        for one in tables.values()
        for limit in one.rules.limits
    ]
    together = Rules.from_names(dict.fromkeys(pairs), labels)
    return replace(together, limits=tuple(dict.fromkeys(limits)))


def _facts(
    tables: Mapping[str, Manifest], places: Mapping[str, NDArray[np.int64]]
) -> Iterator[str]:
    """Yield what each table gives, and what it shares with others."""
    owners = Counter(label for one in tables.values() for label in one.labels)
    holders = Counter(row for rows in places.values() for row in set(rows.tolist()))
    for name, table in tables.items():
        rows = set(places[name].tolist())
        shared_rows = sum(holders[row] > 1 for row in rows)
        shared_labels = sum(owners[label] > 1 for label in table.labels)
        known = int((table.targets != UNKNOWN).sum())
        partial = ", as a part of what is present" if table.mentions else ""
        yield (
            f"{name} ({table.layout}): "
            f"{counted(len(rows), 'image')} ({shared_rows} of them in other tables "
            f"too), {counted(len(table.labels), 'label')} ({shared_labels} in other tables too), "
            f"{known} known answers, {int((table.targets == 1).sum())} of them present{partial}"
        )
        yield from (f"{name}: {fact}" for fact in table.facts)


def _renamed(table: Manifest, names: Mapping[str, str]) -> Manifest:
    labels = LabelSpace(tuple(names.get(label, label) for label in table.labels))
    return replace(table, labels=labels)


def _with_one_spelling(tables: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Return the tables with labels that differ in spelling named as in the first that has them."""
    first: dict[str, str] = {}
    result = {}
    for name, table in tables.items():
        names = {label: first.setdefault(spelling(label), label) for label in table.labels}
        result[name] = _renamed(table, names)
    return result
