"""`mlcrf models`: list the models that come with the package."""

import typer

from mlcrf.cli import console, options


def models(as_json: options.Json = False) -> None:
    """List the models that come with mlcrf.

    A model's name can be used wherever a run directory is expected.
    """
    console.quiet()
    from mlcrf.reports.shipped import format_models, models_record
    from mlcrf.reports.text import to_json

    record = models_record()
    typer.echo(to_json(record) if as_json else format_models(record))
