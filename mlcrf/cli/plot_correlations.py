"""`mlcrf plot-correlations`: plot the learned couplings as a heatmap or a page."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Order, Structure
from mlcrf.cli import console, options


def plot_correlations(
    run: options.RunDirectory,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write or to replace: a heatmap (.png, .svg, .pdf) or a zoomable page "
            "(.html)."
        ),
    ],
    compare: Annotated[
        str | None,
        typer.Option(
            help="Compare with phi or cooccurrence of the training labels, or a square CSV file."
        ),
    ] = None,
    order: Annotated[Order, typer.Option(help="Order of the labels.")] = Order.CLUSTER,
    matrix_csv: Annotated[
        Path | None, typer.Option(help="CSV file to write the learned matrix to.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Number of strongest pairs to list.")] = 10,
    as_json: options.Json = False,
) -> None:
    """Plot the learned couplings between labels.

    Red means that labels attract each other, blue that they repel. With more than 120 labels, a
    cell of the heatmap shows the strongest coupling among several labels, and clusters are named.
    The page names every label and holds the 50,000 strongest couplings; it does not show the
    comparison.

    A run with --pairwise conditional is drawn with all gates set to zero (the couplings common to
    all images). Pairs linked by an implication have no coupling.
    """
    console.quiet()
    from mlcrf.shipped_models import find_run

    find_run(run)
    from mlcrf.atomic import require_ending, write_text
    from mlcrf.errors import RunError
    from mlcrf.reports import correlations
    from mlcrf.reports.couplings_page import save_couplings_page
    from mlcrf.reports.heatmap import FORMATS, Panel, save_couplings
    from mlcrf.reports.label_order import given_order, order_labels
    from mlcrf.reports.text import to_json

    require_ending(out, (*FORMATS, ".html"))
    if matrix_csv is not None:
        require_ending(matrix_csv, (".csv",))
    trained = options.load_run(run)
    if not len(trained.crf.edges):
        structure = trained.settings.structure
        why = f"it was trained with --structure {structure.value}"
        if structure not in (Structure.INDEPENDENT, Structure.LATENT):
            why += ", and validation images supported none (see metrics.json)"
        raise RunError(f"{run}: has no couplings to draw: {why}")
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
        typer.echo(to_json(record))
        return
    typer.echo(correlations.format_pairs(attract, repel))
    if compare is not None:
        typer.echo(correlations.format_agreements(compare, agreements))
    some = f", the {kept:,} strongest of {len(edges):,} couplings" if kept < len(edges) else ""
    typer.echo(f"page: {out}{some}" if page else f"heatmap: {out}")
