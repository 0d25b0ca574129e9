"""`mlcrf doctor`: versions, devices and disk space of this machine."""

import typer

from mlcrf.cli import console, options


def doctor(cache_dir: options.CacheDir = None, as_json: options.Json = False) -> None:
    """Show versions, devices, which backbones work offline, and free disk space."""
    console.quiet()
    from mlcrf.reports.inspection import format_machine, machine_record
    from mlcrf.reports.text import to_json

    record = machine_record(options.cache_dir(cache_dir))
    typer.echo(to_json(record) if as_json else format_machine(record))
