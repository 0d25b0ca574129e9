"""`mlcrf doctor`: versions, devices and space of this machine."""

import typer

from mlcrf.cli import console


def doctor(cache_dir: console.CacheDir = None, as_json: console.Json = False) -> None:
    """Show versions, devices, backbones available offline, and free disk space."""
    console.quiet()
    from mlcrf.reports.inspection import format_machine, machine_record
    from mlcrf.reports.tables import to_json

    record = machine_record(console.cache_dir(cache_dir))
    typer.echo(to_json(record) if as_json else format_machine(record))
