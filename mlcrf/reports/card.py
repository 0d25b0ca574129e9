"""What a finished run says of itself: a model card and a picture of its couplings."""

from mlcrf import atomic
from mlcrf.reports.correlations import strongest_pairs
from mlcrf.reports.heatmap import Panel, cluster_order, draw_heatmap
from mlcrf.reports.tables import format_pairs, format_training
from mlcrf.training.run import TrainReport


def save_card(report: TrainReport) -> None:
    """Write `README.md` and, where labels are coupled, `plots/couplings.png` into the run.

    Raises:
        MlcrfError: the files cannot be written.
    """
    run = report.run
    names = run.labels.names
    learned = run.crf.pairwise_matrix().double().numpy()
    parts = [f"# A tagger for {len(names)} labels, trained on {run.data}", _summary(report)]
    if len(run.crf.edges):
        title = f"learned couplings, {run.data}"
        picture = run.path / "plots" / "couplings.png"
        draw_heatmap(picture, names, [Panel(title, learned)], cluster_order(learned))
        pairs = format_pairs(*strongest_pairs(learned, names))
        parts.append(
            "## Couplings\n\n![Learned couplings](plots/couplings.png)\n\n" + _block(pairs)
        )
    parts.append("## Labels\n\n" + ", ".join(names))
    atomic.write_text(run.path / "README.md", "\n\n".join(parts) + "\n")


def _summary(report: TrainReport) -> str:
    settings = report.run.settings
    network = "trained with the heads" if report.run.backbone_weights else "frozen"
    unaries = f"from {settings.head} hidden units" if settings.head else "linear in its features"
    return "\n\n".join(
        [
            f"Backbone {settings.backbone} ({network}); unaries {unaries}; objective "
            f"{settings.objective.value}; seed {settings.seed}.",
            "It says which of the labels below a photo has, as well as the training data could "
            "teach. It knows no others, was not tested for fairness, and is not meant for "
            "decisions about people.",
            "How good it is on photos that it has not seen, beside the independent baseline that "
            "is stored with it: `mlcrf evaluate RUN DATA`.",
            "## Training\n\n" + _block(format_training(report)),
        ]
    )


def _block(text: str) -> str:
    return f"```\n{text}\n```"
