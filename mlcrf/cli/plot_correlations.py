"""`mlcrf plot-correlations`: the learned matrix as a picture, a table, and beside others."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Order
from mlcrf.cli import console


def plot_correlations(
    run: Annotated[
        Path, typer.Argument(help="Run directory, or a name that `mlcrf models` lists.")
    ],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf.")],
    compare: Annotated[
        str | None,
        typer.Option(
            help="phi or cooccurrence of the run's training labels, or a square CSV file."
        ),
    ] = None,
    order: Annotated[Order, typer.Option(help="Of the labels in the picture.")] = Order.CLUSTER,
    matrix_csv: Annotated[
        Path | None, typer.Option(help="Write the learned matrix there, as CSV.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many strongest pairs to list.")] = 10,
    as_json: console.Json = False,
) -> None:
    """Draw the learned couplings between labels: red attracts, blue repels.

    Of a run with --pairwise conditional, those where its gates are at zero. A label and what it
    implies have none: the rule says it all.
    """
    console.quiet()
    import numpy as np

    from mlcrf.atomic import require_ending, write_text
    from mlcrf.checkpoint import load_run
    from mlcrf.errors import RunError
    from mlcrf.reports import correlations, tables
    from mlcrf.reports.heatmap import FORMATS, Panel, cluster_order, draw_heatmap

    require_ending(out, FORMATS)
    if matrix_csv is not None:
        require_ending(matrix_csv, (".csv",))
    trained = load_run(run)
    if not len(trained.crf.edges):
        structure = trained.settings.structure.value
        raise RunError(
            f"{run}: has no couplings to draw: it was trained with --structure {structure}"
        )
    names = trained.labels.names
    learned = trained.crf.pairwise_matrix().double().numpy()
    panels = [Panel(correlations.title(trained), learned)]
    agreements = []
    if compare is not None:
        other = correlations.load_comparison(compare, trained)
        panels.append(Panel(Path(compare).stem, other))
        agreements = correlations.rank_agreements(learned, other)
    shown = cluster_order(learned) if order is Order.CLUSTER else np.arange(len(names))
    draw_heatmap(out, names, panels, shown)
    if matrix_csv is not None:
        write_text(matrix_csv, correlations.format_matrix(learned, names))
    attract, repel = correlations.strongest_pairs(trained.crf, names, count=top)
    if as_json:
        record = {
            "out": str(out),
            "attractions": attract,
            "repulsions": repel,
            "rank_correlation": {
                one.over: {
                    "pairs": one.pairs,
                    "correlation": one.correlation,
                    "same_sign": one.same_sign,
                }
                for one in agreements
            },
        }
        typer.echo(tables.to_json(record))
        return
    typer.echo(tables.format_pairs(attract, repel))
    if compare is not None:
        typer.echo(tables.format_agreements(compare, agreements))
    typer.echo(f"picture: {out}")
