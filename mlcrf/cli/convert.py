"""`mlcrf convert`: convert a table of predictions, or its parts, to another format."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Program
from mlcrf.cli import console, options, tagging
from mlcrf.cli.mistakes import refuse_run
from mlcrf.cli.options import SelectionOptions, grouped
from mlcrf.cli.sources import require_there

_FORMAT = "Format"


@grouped
def convert(
    table: Annotated[
        str,
        typer.Argument(
            help="Table that `predict` wrote, or the folder of parts of `predict --shard`; also "
            "s3://..."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="<path>",
            help="File to write, also s3://...: .csv, .jsonl or .parquet; .json with --for.",
        ),
    ],
    selected: SelectionOptions,
    program: Annotated[
        Program | None,
        typer.Option("--for", help="Write what this program imports.", rich_help_panel=_FORMAT),
    ] = None,
    tidy: Annotated[
        bool,
        typer.Option(
            "--tidy",
            help="Write one row per image and label instead of one row per image.",
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    excel_safe: Annotated[
        bool,
        typer.Option(
            "--excel-safe",
            help="Make the .csv safe for Excel: escape formulas, add a UTF-8 byte-order mark.",
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    image_url: Annotated[
        str | None,
        typer.Option(
            help="URL prefix of images for --for label-studio; by default Label Studio's "
            "local-files URL.",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    url_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder that --image-url points to (default /).", rich_help_panel=_FORMAT
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Run that made the table; the selected labels obey its rules. Not needed "
            "for a .parquet table or parts, which store them.",
            rich_help_panel=options.LABELS,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Convert a table of predictions, or its parts, to another format.

    Parts are merged into the table that `predict` writes without --shard.
    """
    console.quiet()
    refuse_run(
        table, "a table of predictions", f"To tag images: mlcrf predict IMAGES --model {table}"
    )
    require_there([table])
    from mlcrf.prediction import PredictionWriter, choose_format

    read = tagging.read_table(options.parse_data(table), model, selected, probabilities=True)
    output = choose_format(
        program,
        tidy=tidy,
        excel_safe=excel_safe,
        origin=read.origin,
        image_url=image_url,
        url_root=url_root,
        abstains=read.table.abstains,
        families=read.table.families,
    )
    target, labels = options.parse_data(out), read.selection.labels
    writer = PredictionWriter(target, labels, overwrite=overwrite, output=output)
    console.write_predictions(writer, read.table, read.table, read.selection)
    console.report_predictions(writer, as_json=as_json, strict=strict)
