"""`mlcrf merge`: the parts that `predict --shard` made, as one table."""

from typing import Annotated

import typer

from mlcrf.cli import console


def merge(
    folder: Annotated[str, typer.Argument(help="Folder of part-*.parquet, or s3://... of one.")],
    out: Annotated[
        str,
        typer.Option(
            help="File to write, also s3://...: .csv, .jsonl or .parquet; .json with --for."
        ),
    ],
    tidy: console.Tidy = False,
    excel_safe: console.ExcelSafe = False,
    program: console.ForProgram = None,
    image_url: console.ImageUrl = None,
    url_root: console.UrlRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    strict: console.Strict = False,
    as_json: console.Json = False,
) -> None:
    """Make one table of the parts of `predict --shard`: the one that it makes without."""
    console.quiet()
    from mlcrf.prediction import PredictionWriter, Shards, choose_form

    shards = Shards(console.parse_data(folder))
    form = choose_form(
        program,
        tidy=tidy,
        excel_safe=excel_safe,
        digest=shards.digest,
        image_url=image_url,
        url_root=url_root,
    )
    target = console.parse_data(out)
    writer = PredictionWriter(target, shards.labels, overwrite=overwrite, form=form)
    with console.bar("photos") as progress, writer:
        for done, prediction in enumerate(shards, start=1):
            writer.write(prediction)
            progress(done, len(shards))
        writer.require_one()
    console.report_predictions(writer, as_json=as_json, strict=strict)
