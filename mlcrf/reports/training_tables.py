"""Format what training and answers have taught a run, as text and JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlcrf.hints import counted
from mlcrf.reports.text import format_table, to_json

if TYPE_CHECKING:  # slow imports
    from mlcrf.training.extending import TaughtReport
    from mlcrf.training.run import TrainReport


def format_training(report: "TrainReport") -> str:
    """Format the fits of a run, their penalties, and the time of each stage."""
    rows = [
        [
            name,
            f"{fit['penalty_weights']:g}",
            f"{fit['penalty_pairwise']:g}",
            f"{fit['validation_loss']:.4f}",
            "yes" if fit["converged"] else "NO",
            f"{fit['remaining']:.1e}",
        ]
        for name, fit in report.fits.items()
    ]
    header = ["model", "penalty", "on couplings", "validation loss", "converged", "to gain"]
    images = ", ".join(f"{count} {split}" for split, count in report.images.items())
    seconds = ", ".join(f"{part} {value:.0f} s" for part, value in report.seconds.items())
    run = report.run
    what = "rows" if run.backbone_spec.features else "images"
    return "\n".join(
        [
            f"{run.data}: {counted(len(run.labels), 'label')}; {what}: {images}; "
            f"objective {run.settings.objective.value}",
            format_table(header, rows),
            *_describe_mentions(run.mentions),
            *_describe_factors(report.fits),
            f"time: {seconds}",
            f"run: {run.path}",
        ]
    )


def _describe_factors(fits: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line with the factors of potentials, of models that have some."""
    found = [
        f"{name} {fit['unary_factor']:.3f} (couplings {fit['pairwise_factor']:.3f})"
        for name, fit in fits.items()
        if "unary_factor" in fit
    ]
    return [f"factors of potentials by validation images: {', '.join(found)}"] if found else []


def _describe_mentions(mentions: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each source with the shares of present labels that it lists."""
    lines = []
    for source, shares in mentions.items():
        ordered = sorted(shares.items(), key=lambda item: item[1])
        least, most = ordered[0], ordered[-1]
        mean = sum(shares.values()) / len(shares)
        lines.append(
            f"{source} lists an estimated {100 * mean:.0f} % of what is present, from "
            f"{100 * least[1]:.0f} % of {least[0]} to {100 * most[1]:.0f} % of {most[0]}"
        )
    return lines


def training_record(report: "TrainReport") -> str:
    """Return the same content as one JSON object."""
    return to_json(
        {
            "run": str(report.run.path),
            "data": report.run.data,
            "labels": list(report.run.labels),
            "images": report.images,
            "fits": report.fits,
            "seconds": report.seconds,
            "mentions": report.run.mentions,
            "notes": report.notes,
        }
    )


def format_teaching(report: "TaughtReport") -> str:
    """Format how well each answered label is known, and how much the base run's labels changed."""
    header = ["label", "", "yes", "no", "average precision", "base rate", "loss", "before"]
    rows = [
        [
            name,
            "new" if one.is_new else "known",
            str(one.positives),
            str(one.negatives),
            "-" if one.average_precision is None else f"{100 * one.average_precision:.1f} %",
            f"{100 * one.base_rate:.1f} %",
            f"{one.loss:.4f}",
            f"{one.base_loss:.4f}",
        ]
        for name, one in report.labels.items()
    ]
    run, lines = report.run, []
    if report.losses is not None:
        before, after = report.losses
        lines.append(
            f"answers about known labels: left-out loss {after:.4f} nats, {before:.4f} by the run "
            "that was given"
        )
    if report.change is not None:
        change = report.change
        lines.append(
            f"labels of the run that was given: marginals move by {change.mean:.2g} on average and "
            f"by {change.largest:.2g} at most on "
            f"{counted(change.images, 'image')} of which nothing is known"
        )
    return "\n".join(
        [
            f"{run.data}: {counted(len(run.labels), 'label')}; "
            f"{counted(report.images, 'image')} with answers",
            format_table(header, rows),
            "each answer is judged by a fit without it; before: the run that was given, or the "
            "base rate of a new label",
            *lines,
            f"run: {run.path}",
        ]
    )


def teaching_record(report: "TaughtReport") -> str:
    """Return the same content as one JSON object."""
    about = {"run": str(report.run.path), "data": report.run.data}
    return to_json(about | {"all_labels": list(report.run.labels)} | report.record())


def format_hints(hints: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[str]:
    """Format the log-odds that sources of hints add, after an empty line."""
    lines = []
    for source, trust in hints.items():
        rows = [[label, f"{one:+.2f}", f"{other:+.2f}"] for label, (one, other) in trust.items()]
        head = ["label", "if named", "if not"]
        lines += ["", f"log-odds that hints of {source} add:", format_table(head, rows)]
    return lines


def format_mentions(mentions: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Format the share of present labels that sources list, after an empty line."""
    lines = []
    for source, shares in mentions.items():
        rows = [[label, f"{100 * share:.0f}"] for label, share in shares.items()]
        lines += ["", f"of present labels, {source} lists:", format_table(["label", "%"], rows)]
    return lines
