"""Options of data sets: where they are, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mlcrf.choices import Blank, Oddity, ScoredSplit
from mlcrf.cli import console
from mlcrf.cli.options.grouping import DATA

if TYPE_CHECKING:
    from mlcrf.data.manifest import Manifest
    from mlcrf.data.read_options import ReadOptions
    from mlcrf.labels import LabelSpace
    from mlcrf.stores import Stored

Data = Annotated[
    str, typer.Argument(help="Table or folder of images and labels, or s3://... of a table.")
]
AnySplit = Annotated[
    ScoredSplit,
    typer.Option(metavar="SPLIT", help="train, validation, test or all.", rich_help_panel=DATA),
]
LabelSetOfRun = Annotated[
    int | None,
    typer.Option(
        help="MIRFLICKR only: 24, 14 or 38 labels (default: as the run).", rich_help_panel=DATA
    ),
]
LabelSet = Annotated[
    int,
    typer.Option(
        help="MIRFLICKR only: 24 potential labels, 14 relevant, or 38 both.", rich_help_panel=DATA
    ),
]
LimitData = Annotated[
    int | None, typer.Option(min=1, help="Use the first N images only.", rich_help_panel=DATA)
]


@dataclass(frozen=True)
class ReadingOptions:
    """Options of reading a data set, for what it does not say itself."""

    panel: ClassVar[str] = DATA

    image_root: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// URL that image paths of a table are relative to."),
    ] = None
    label_sep: Annotated[str | None, typer.Option(help="Separator of labels in one column.")] = None
    label_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Columns that hold labels, separated by commas; others are left out.",
        ),
    ] = None
    ignore_columns: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Columns to leave out, separated by commas."),
    ] = None
    split_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of train, validation and test (default: split)."),
    ] = None
    blank: Annotated[
        Blank | None, typer.Option(help="Meaning of an empty cell of a table (default: unknown).")
    ] = None
    true: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Further word for 1 in a table; may be repeated."),
    ] = None
    false: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Further word for 0 in a table; may be repeated."),
    ] = None
    fold_case: Annotated[
        bool,
        typer.Option("--fold-case", help="Labels that differ in case or spaces are one."),
    ] = False
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Of a table of numbers: columns that are features, by names or patterns such as "
            "'x*', separated by commas (default: the only column of lists of numbers).",
        ),
    ] = None
    accept: Annotated[
        list[Oddity] | None,
        typer.Option(metavar="ODDITY", help="Read data in spite of this oddity; may be repeated."),
    ] = None

    def make(
        self,
        label_set: int = 24,
        labels: "LabelSpace | None" = None,
        accept: "Sequence[Oddity]" = (),
        run_features: tuple[str, ...] = (),
    ) -> "ReadOptions":
        """Make the options of a reader; raises as `parse_data`."""
        from mlcrf.data.read_options import ReadOptions

        return ReadOptions(
            label_set,
            None if self.image_root is None else parse_data(self.image_root),
            self.label_sep,
            labels,
            blank=self.blank,
            label_columns=None if self.label_columns is None else _columns(self.label_columns),
            ignore_columns=_columns(self.ignore_columns or ""),
            split_column=self.split_column,
            true_words=tuple(self.true or ()),
            false_words=tuple(self.false or ()),
            fold_case=self.fold_case,
            accept=frozenset((*(self.accept or ()), *accept)),
            features=None if self.features is None else _columns(self.features),
            run_features=run_features,
        )


def _columns(text: str) -> tuple[str, ...]:
    """Return the column names of a comma-separated text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def show_reading(manifest: "Manifest") -> None:
    """Print how a data set was understood, and notes on it, on standard error."""
    from mlcrf.data.plausibility import summarise

    for line in summarise(manifest).splitlines():
        console.log(line)
    for text in manifest.notes:
        console.note(text)


def show_notes(notes: Sequence[str], manifest: "Manifest") -> None:
    """Print the notes of a result that `show_reading` has not printed."""
    for text in notes:
        if text not in manifest.notes:
            console.note(text)


def parse_data(text: str) -> "Path | Stored":
    """Return a local path, or a place in an object store.

    Raises:
        DataError: the URL's scheme is unknown, it has no bucket, or the driver is not installed.
    """
    from mlcrf.stores import parse_target

    return parse_target(text)


def parse_source(text: str) -> "Path | Stored":
    """Return where data are; if that is a local path that does not exist, say so at once.

    Raises:
        DataError: there is no such path; see also `parse_data`.
    """
    from mlcrf.errors import DataError

    place = parse_data(text)
    if isinstance(place, Path) and not place.exists():
        raise DataError("there is no such file or folder", place)
    return place
