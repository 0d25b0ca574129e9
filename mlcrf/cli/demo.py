"""`mlcrf demo`: train and evaluate on synthetic scenes, in under a minute."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.cli import console, options


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder to write to; an earlier demo is replaced.")
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Train and evaluate on synthetic scenes, and plot their couplings."""
    console.quiet()
    from mlcrf.demonstration import demo_record, format_demo, run_demo

    result = run_demo(out, seed=seed, log=console.log)
    from mlcrf.reports.text import to_json

    typer.echo(to_json(demo_record(result)) if as_json else format_demo(result))
