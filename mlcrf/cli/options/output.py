"""Options of what is written: labels, their names, files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mlcrf.cli.options.grouping import LABELS

if TYPE_CHECKING:
    from mlcrf.labels import LabelSpace
    from mlcrf.prediction import LabelSelection
    from mlcrf.rules import Rules

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Rename = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with your own label names, one `label,name` per line.",
        rich_help_panel=LABELS,
    ),
]


@dataclass(frozen=True)
class SelectionOptions:
    """The labels that are written, and their names."""

    panel: ClassVar[str] = LABELS

    rename: Rename = None
    only: Annotated[
        str | None,
        typer.Option(
            help="Labels to write, separated by commas; labels that they imply are written too."
        ),
    ] = None
    never: Annotated[
        str | None,
        typer.Option(help="Labels not to write, separated by commas; nor labels that imply them."),
    ] = None
    min_prob: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out chosen labels with a lower probability."),
    ] = 0

    def make_selection(self, labels: "LabelSpace", rules: "Rules") -> "LabelSelection":
        """Make the selection among these labels."""
        from mlcrf.prediction import LabelSelection, load_names

        return LabelSelection(
            labels,
            rules,
            renamed=load_names(self.rename, labels) if self.rename else None,
            only=_names(self.only),
            never=_names(self.never) or (),
            min_prob=self.min_prob,
        )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
