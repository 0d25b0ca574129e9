"""`mlcrf convert`: a table of predictions, or the parts of one, in another form."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Program
from mlcrf.cli import console, options, tagging
from mlcrf.cli.options import SelectionOptions, grouped

_FORM = "Form"


@grouped
def convert(
    table: Annotated[
        str,
        typer.Argument(
            help="Table that `predict` wrote, or the folder of parts of `predict --shard`; also "
            "s3://...",
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
        typer.Option("--for", help="Write what this program imports.", rich_help_panel=_FORM),
    ] = None,
    tidy: Annotated[
        bool,
        typer.Option(
            "--tidy",
            help="Write a row for each image and label, rather than one an image.",
            rich_help_panel=_FORM,
        ),
    ] = False,
    excel_safe: Annotated[
        bool,
        typer.Option(
            "--excel-safe",
            help="Make the .csv safe for Excel: escape formulas, add a UTF-8 byte-order mark.",
            rich_help_panel=_FORM,
        ),
    ] = False,
    image_url: Annotated[
        str | None,
        typer.Option(
            help="Beginning of the addresses of images in --for label-studio; by default those of "
            "its own local files.",
            rich_help_panel=_FORM,
        ),
    ] = None,
    url_root: Annotated[
        Path | None,
        typer.Option(help="Folder that --image-url stands for (default /).", rich_help_panel=_FORM),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Run that made the table, whose implications the selection of labels follows; a "
            ".parquet table and parts name theirs.",
            rich_help_panel=options.LABELS,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Convert a table of predictions, or merge the parts of one.

    Parts become the table that `predict` writes without --shard.
    """
    console.quiet()
    from mlcrf.prediction import PredictionWriter, choose_format

    read = tagging.read_table(options.parse_data(table), model, selected, probabilities=True)
    output = choose_format(
        program,
        tidy=tidy,
        excel_safe=excel_safe,
        origin=read.origin,
        image_url=image_url,
        url_root=url_root,
    )
    target, labels = options.parse_data(out), read.selection.labels
    writer = PredictionWriter(target, labels, overwrite=overwrite, output=output)
    console.write_predictions(writer, read.table, read.table, read.selection)
    console.report_predictions(writer, as_json=as_json, strict=strict)
