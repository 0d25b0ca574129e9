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
    out: Annotated[
        Path,
        typer.Option(help="To write: a picture, .png, .svg or .pdf, or a page to zoom in, .html."),
    ],
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

    Of more than 120 labels a picture shows the strongest coupling of every few and names clusters;
    a page, which has the run's couplings alone, names all and holds the 50,000 strongest.

    Of a run with --pairwise conditional, those where its gates are at zero. A label and what it
    implies have none: the rule says it all.
    """
    console.quiet()
    from mlcrf.atomic import require_ending, write_text
    from mlcrf.checkpoint import load_run
    from mlcrf.errors import RunError
    from mlcrf.reports import correlations, tables
    from mlcrf.reports.couplings_page import save_couplings_page
    from mlcrf.reports.heatmap import FORMATS, Panel, save_couplings
    from mlcrf.reports.label_order import given_order, order_labels

    require_ending(out, (*FORMATS, ".html"))
    if matrix_csv is not None:
        require_ending(matrix_csv, (".csv",))
    trained = load_run(run)
    if not len(trained.crf.edges):
        structure = trained.settings.structure.value
        raise RunError(
            f"{run}: has no couplings to draw: it was trained with --structure {structure}"
        )
    names = trained.labels.names
    others, agreements = [], []
    if compare is not None:
        other = correlations.load_comparison(compare, trained)
        others.append(Panel.from_matrix(Path(compare).stem, other))
        learned = trained.crf.pairwise_matrix().double().numpy()
        agreements = correlations.rank_agreements(learned, other)
    edges, values = correlations.couplings(trained.crf)
    ordered = order is Order.CLUSTER
    shown = order_labels(edges, values, len(names)) if ordered else given_order(len(names))
    page = out.suffix.lower() == ".html"
    if page:
        kept = save_couplings_page(out, trained, shown)
    else:
        kept = len(edges)
        save_couplings(out, trained, shown, others)
    if matrix_csv is not None:
        matrix = trained.crf.pairwise_matrix().double().numpy()
        write_text(matrix_csv, correlations.format_matrix(matrix, names))
    attract, repel = correlations.strongest_pairs(trained.crf, names, count=top)
    if as_json:
        record = {
            "out": str(out),
            "couplings": len(edges),
            "couplings_in_it": kept,
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
    some = f", the {kept:,} strongest of {len(edges):,} couplings" if kept < len(edges) else ""
    typer.echo(f"page: {out}{some}" if page else f"picture: {out}")
