"""Read what other sources say of images: evidence of labels, not truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Oddity
from mlcrf.data.manifest import Manifest
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset
from mlcrf.errors import DataError, SettingsError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.stores import Stored, parse_target

Hints = dict[str, dict[str, NDArray[np.int8]]]  # source -> image key -> 1 named, 0 not, -1 nothing


def parse_hints(texts: list[str]) -> dict[str, Path | Stored]:
    """Return the table of each source, from texts such as `tags.csv` or `flickr=tags.csv`.

    Without a name a source is called as its file, without its suffix.

    Raises:
        SettingsError: no table, or two tables of one source.
    """
    tables: dict[str, Path | Stored] = {}
    for text in texts:
        name, sign, place = text.partition("=")
        if not sign or "/" in name:  # a path with a sign in it
            name, place = "", text
        if not place:
            raise SettingsError(f"--hints {text}: expected TABLE or NAME=TABLE")
        table = parse_target(place)
        name = name or Path(str(table)).stem
        if name in tables:
            raise SettingsError(
                f"--hints {text}: source {name!r} is given twice; name them apart by NAME=TABLE"
            )
        tables[name] = table
    return tables


def require_other_table(tables: Mapping[str, Path | Stored], data: Sequence[Path | Stored]) -> None:
    """Refuse hints that are the table that is learned from or scored, as they are never wrong.

    Raises:
        DataError: a source's table is one of the data.
    """
    for place in tables.values():
        if any(_is_same(place, one) for one in data):
            raise DataError(
                "is DATA itself, so that as hints it would never be wrong; give what another "
                "source says of the images, or leave out --hints",
                place,
            )


def _is_same(one: Path | Stored, other: Path | Stored) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.exists() and other.exists() and one.samefile(other)
    return str(one) == str(other)


def describe_copies(hints: Hints, manifest: Manifest) -> list[str]:
    """Return a note for each source that never contradicts the annotations, as a copy would."""
    notes = []
    nothing = np.full(len(manifest.labels), UNKNOWN, dtype=np.int8)
    for name, rows in hints.items():
        said = np.stack([rows.get(image.key, nothing) for image in manifest.images])
        both = (said != UNKNOWN) & (manifest.targets != UNKNOWN)
        same = said == manifest.targets
        if both.any() and same[both].all() and (said[both] == 1).any():
            notes.append(
                f"hints of {name!r} agree with the annotations wherever both speak of a label "
                f"({both.sum()} times): if they were copied from each other, the source is trusted "
                "too much"
            )
    return notes


def read_hints(
    tables: Mapping[str, Path | Stored],
    labels: LabelSpace,
    options: ReadOptions = ReadOptions(),
    *,
    tell: Callable[[Manifest], None] = lambda manifest: None,
) -> Hints:
    """Read what sources say of images, for these labels; their other labels are left out.

    In a list of labels, labels that are not listed are not named, if the table lists them at all.

    Args:
        tables: any data set that training reads, by the name of the source.
        tell: called with each table as it was understood.

    Raises:
        DataError: a table cannot be read, or has none of the labels.
    """
    hints: Hints = {}
    for name, place in tables.items():
        manifest = read_dataset(place, replace(options, accept=frozenset(Oddity)))
        tell(manifest)
        common = [label for label in manifest.labels if label in labels.names]
        if not common:
            raise DataError(
                f"has none of the labels {', '.join(labels.names[:5])}"
                f"{' and so on' if len(labels) > 5 else ''}; check its names, or use another table",
                place,
            )
        rows = np.full((len(manifest), len(labels)), UNKNOWN, dtype=np.int8)
        ours = [labels.index(label) for label in common]
        rows[:, ours] = manifest.targets[:, [manifest.labels.index(label) for label in common]]
        hints[name] = {image.key: row for image, row in zip(manifest.images, rows, strict=True)}
    return hints
