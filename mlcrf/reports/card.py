"""Write the model card of a finished run, with a heatmap of its couplings."""

from mlcrf import atomic
from mlcrf.choices import Finetune
from mlcrf.hints import counted
from mlcrf.reports.correlations import couplings, format_pairs, strongest_pairs
from mlcrf.reports.heatmap import save_couplings
from mlcrf.reports.label_order import order_labels
from mlcrf.reports.names import some_names
from mlcrf.reports.training_tables import (
    format_hints,
    format_mentions,
    format_teaching,
    format_training,
)
from mlcrf.training.extending import TaughtReport
from mlcrf.training.run import TrainReport

_MOST_LISTED = 200  # labels, and rules


def save_card(report: TrainReport | TaughtReport) -> None:
    """Write `README.md` and, where labels are coupled, `plots/couplings.png` into the run.

    Raises:
        MlcrfError: the files cannot be written.
    """
    run = report.run
    names = run.labels.names
    parts = [
        f"# A tagger for {counted(len(names), 'label')}, trained on {run.data}",
        _summary(report),
    ]
    if len(run.crf.edges):
        parts.append("## Couplings")
        heatmap = run.path / "plots" / "couplings.png"
        save_couplings(heatmap, run, order_labels(*couplings(run.crf), len(names)))
        parts.append("![Learned couplings](plots/couplings.png)")
        parts.append(_block(format_pairs(*strongest_pairs(run.crf, names))))
    if len(run.rules):
        rules = [f"- {rule}" for rule in run.rules.lines(names)[:_MOST_LISTED]]
        if len(run.rules) > len(rules):
            more = len(run.rules) - len(rules)
            rules.append(f"- and {more:,} more; `mlcrf inspect RUN --json` has all")
        parts.append("## Rules\n\n" + "\n".join(rules))
    if run.mentions or run.hints:
        lines = [*format_mentions(run.mentions), *format_hints(run.hints)]
        parts.append("## Sources\n\n" + _block("\n".join(lines[1:])))
    where = "; all are in labels.txt" if len(names) > _MOST_LISTED else ""
    parts.append("## Labels\n\n" + some_names(names, most=_MOST_LISTED) + where)
    atomic.write_text(run.path / "README.md", "\n\n".join(parts) + "\n")


def _summary(report: TrainReport | TaughtReport) -> str:
    settings = report.run.settings
    how = "last stage trained" if settings.finetune is Finetune.LAST else "trained with the heads"
    network = how if report.run.backbone_weights else "frozen"
    unaries = (
        f"from {settings.hidden_units} hidden units"
        if settings.hidden_units
        else "linear in its features"
    )
    if isinstance(report, TaughtReport):
        title, figures = "## Teaching", format_teaching(report)
        start = "" if report.base is None else f", starting from {report.base.path.name}"
        made = f"learned from answers{start}"
    else:
        title, figures = "## Training", format_training(report)
        made = f"objective {settings.objective.value}; seed {settings.seed}"
    return "\n\n".join(
        [
            f"Backbone {report.run.backbone_spec.title} ({network}); unaries {unaries}; {made}.",
            "It predicts which of the labels below a photo has, as learned from the training data. "
            "It knows no other labels, was not tested for fairness, and is not meant for decisions "
            "about people.",
            "To measure it on new photos, next to the independent baseline stored with it: "
            "`mlcrf evaluate RUN DATA`.",
            f"{title}\n\n{_block(figures)}",
        ]
    )


def _block(text: str) -> str:
    return f"```\n{text}\n```"
