"""Format results as text for people, CSV for spreadsheets and JSON for programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import TYPE_CHECKING

from mlcrf import comparison
from mlcrf.comparison import Comparison
from mlcrf.errors import SettingsError
from mlcrf.evaluation import COLUMNS, Evaluation
from mlcrf.hints import did_you_mean
from mlcrf.images import LeftOut
from mlcrf.metrics import (
    COST_MEASURES,
    MAIN_MEASURES,
    SYMBOLS,
    Interval,
    Measures,
    Reliability,
    Unknown,
)
from mlcrf.prediction import Action, PhotoFileSet, PredictionWriter
from mlcrf.reliability import Kind
from mlcrf.reports.text import format_table, to_json

if TYPE_CHECKING:  # slow imports, not needed by `mlcrf predict`
    from mlcrf.calibrating import CalibrationReport
    from mlcrf.decoding.family_measures import FamilyMeasures
    from mlcrf.export import ExportReport
    from mlcrf.reports.correlations import RankAgreement
    from mlcrf.training.extending import TaughtReport
    from mlcrf.training.run import TrainReport

# measure -> title, factor, digits; one entry for each measure of `mlcrf.metrics.Measures`
MEASURE_TITLES = {
    "nll": ("nll per image (nats)", 1, 3),
    "wrong_per_image": ("wrong labels per image", 1, 3),
    "hamming": ("wrong labels, %", 100, 2),
    "subset_accuracy": ("subset accuracy, % (MAP)", 100, 2),
    "chosen_accuracy": ("label set right, %", 100, 2),
    "example_f1": ("F1 of an image, %", 100, 2),
    "example_jaccard": ("Jaccard of an image, %", 100, 2),
    "mean_average_precision": ("mAP, %", 100, 2),
    "micro_f1": ("micro F1, %", 100, 2),
    "macro_f1": ("macro F1, %", 100, 2),
    "calibration_error": ("calibration error, %", 100, 2),
    "set_calibration_error": ("calibration error of label sets, %", 100, 2),
    "macro_precision": ("mean precision of a label, %", 100, 2),
    "macro_recall": ("mean recall of a label, %", 100, 2),
    "f1_of_means": ("F1 of these means, %", 100, 2),
    "micro_precision": ("micro precision, %", 100, 2),
    "micro_recall": ("micro recall, %", 100, 2),
    "example_precision": ("precision of an image, %", 100, 2),
    "example_recall": ("recall of an image, %", 100, 2),
    "ranking_loss": ("ranking loss, %", 100, 2),
    "coverage_error": ("coverage error (labels)", 1, 3),
    "label_ranking_average_precision": ("label ranking average precision, %", 100, 2),
    "one_error": ("one-error, %", 100, 2),
    "precision_at_k": ("mean precision at k, %", 100, 2),
    "recall_at_k": ("mean recall at k, %", 100, 2),
    "f1_at_k": ("F1 of the means at k, %", 100, 2),
    "labels_found_at_k": ("labels found at k", 1, 0),
    "micro_precision_at_k": ("micro precision at k, %", 100, 2),
    "micro_recall_at_k": ("micro recall at k, %", 100, 2),
    "micro_f1_at_k": ("micro F1 at k, %", 100, 2),
    "cost": ("cost per image", 1, 3),
    "expected_cost": ("expected cost per image", 1, 3),
    "open_labels": ("labels left open per image", 1, 3),
}
RELIABILITY_TITLES: dict[Kind, str] = {
    "labels": "labels",
    "pairs": "pairs, both present",
    "sets": "most probable set",
}


def choose_measures(text: str, at_k: int | None, *, has_costs: bool = False) -> tuple[str, ...]:
    """Return the names of the measures that a text asks for, in its order.

    Args:
        text: `main`, `all`, or names of measures or their symbols, separated by commas.
        at_k: number of labels for the measures at k, or None; `CP@3` is `CP@k` if it is 3.
        has_costs: whether there are measures of costs.

    Raises:
        SettingsError: there is no such measure, or one at k without a number of labels, or one of
            costs without costs.
    """
    possible = [
        name
        for name in MEASURE_TITLES
        if (at_k or not name.endswith("_at_k")) and (has_costs or name not in COST_MEASURES)
    ]
    if text == "all":
        return tuple(possible)
    if text == "main":
        return tuple(name for name in possible if name in MAIN_MEASURES)
    folded = {name: name for name in MEASURE_TITLES}
    for name, symbol in SYMBOLS.items():
        folded[symbol.casefold()] = folded[symbol.replace("@k", f"@{at_k}").casefold()] = name
    chosen = []
    for word in (word.strip() for word in text.split(",")):
        name = folded.get(word.casefold(), "")
        if not name:
            raise SettingsError(
                "--measures: expected main, all, or names of measures as in --out, "
                f"got {word!r}{did_you_mean(word, [*MEASURE_TITLES, *SYMBOLS.values()])}"
            )
        if name not in possible:
            needed = "--costs FILE" if name in COST_MEASURES else "--at-k NUMBER"
            raise SettingsError(f"--measures: {word!r} needs {needed}")
        chosen.append(name)
    return tuple(chosen)


def evaluation_rows(
    result: Evaluation, measures: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Return for each measure its title, both models' scores, their difference and its interval.

    Args:
        measures: names; None for the main ones. Titles of given ones have the symbols of papers.
    """
    ours, theirs = (result.models[model] for model in ("crf", "independent"))
    return measure_rows(ours, theirs, result.difference, result.at_k, measures)


def measure_rows(
    ours: Measures,
    theirs: Measures,
    difference: Mapping[str, Interval],
    at_k: int | None,
    measures: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Return what `evaluation_rows` does, of any two models; theirs come first.

    Args:
        difference: ours minus theirs, by measure.
        at_k: whether there are measures at k; None for none.
    """
    rows = {}
    main = choose_measures("main", at_k, has_costs="cost" in difference)
    for name in main if measures is None else measures:
        if name not in difference:
            continue
        title, factor, digits = MEASURE_TITLES[name]
        if measures is not None and (symbol := SYMBOLS.get(name, title)) not in title:
            title += f" ({symbol})"
        value, low, high = difference[name]
        signed = f"{factor * value:+.{digits}f}"
        interval = f"[{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"
        rows[name] = [
            title,
            f"{factor * getattr(theirs, name):.{digits}f}",
            f"{factor * getattr(ours, name):.{digits}f}",
            signed,
            interval,
        ]
    return rows


def format_evaluation(result: Evaluation, measures: Sequence[str] | None = None) -> str:
    """Format the scores of both models side by side, with the interval of each difference.

    Args:
        measures: see `evaluation_rows`.
    """
    header = ["", "independent", "crf", "difference", "95 % interval"]
    counted = result.models["crf"].labels_with_positives
    return "\n".join(
        [
            *_training_headline(result),
            format_table(header, evaluation_rows(result, measures).values()),
            f"averages over {counted} labels with a positive; nll of the crf is {result.nll_kind}",
            *describe_unknown(result.unknown),
            *(
                []
                if result.at_k is None
                else [f"at k: each image has exactly its {result.at_k} best labels"]
            ),
            *_describe_families(result),
            f"signature {result.signature}",
        ]
    )


def _describe_families(result: Evaluation) -> list[str]:
    """Return the measures of families of label sets, if there are any."""
    if not result.families:
        return []
    order = ("independent", "crf")
    return _format_families(order, [result.families[model] for model in order])


def _format_families(names: Sequence[str], families: "Sequence[FamilyMeasures]") -> list[str]:
    return [
        "families of label sets:",
        format_table(["", *names], family_rows(families)),
        f"coverage is of {families[0].images} images with all labels known",
    ]


def family_rows(families: "Sequence[FamilyMeasures]") -> list[list[str]]:
    """Return a row of cells for each measure of families of label sets, with a title."""
    columns = [
        [
            f"{100 * one.coverage:.2f}",
            f"{one.mean_sets:.1f}",
            f"{one.median_sets:.1f}",
            f"{one.mean_log2_sets:.2f}",
            f"{one.open_labels:.2f}",
        ]
        for one in families
    ]
    titles = [
        "right label set in the family, %",
        "sets of a family, mean",
        "sets of a family, median",
        "their log2, mean",
        "open labels of an image",
    ]
    return [list(row) for row in zip(titles, *columns, strict=True)]


def describe_unknown(unknown: Unknown) -> list[str]:
    """Return a line on what is unknown, if anything is."""
    if not unknown.labels:
        return []
    images = unknown.images
    left_out = f"; {images} images of which nothing is known are left out" if images else ""
    return [
        f"{unknown.labels} of {unknown.all_labels} labels are unknown: nll is that of the known "
        f"ones together, the others summed out{left_out}"
    ]


def _training_headline(result: Evaluation) -> list[str]:
    count = result.in_training
    return [f"NOT A TEST: {count} of these images were used in training", ""] if count else []


def evaluation_record(result: Evaluation) -> str:
    """Return an evaluation as one JSON object; NaN becomes null."""
    symbols = {name: SYMBOLS[name] for name in result.difference if name in SYMBOLS}
    return to_json(asdict(result) | {"symbols": symbols})


def evaluation_csv(result: Evaluation) -> str:
    """Return the measures, then the average precision of each label, as tidy CSV text."""
    return _csv(COLUMNS, result.rows())


def format_comparison(result: Comparison, measures: Sequence[str] | None = None) -> str:
    """Format a table for each run but the first: its scores next to those of the first.

    Args:
        measures: see `evaluation_rows`.
    """
    first = result.reference
    lines = [
        f"NOT A TEST of {name}: {count} of these images were used in its training"
        for name, count in result.in_training.items()
        if count
    ]
    for name, difference in result.differences.items():
        rows = measure_rows(
            result.runs[name], result.runs[first], difference, result.at_k, measures
        )
        header = ["", first, name, "difference", "95 % interval"]
        lines += [*([""] if lines else []), format_table(header, rows.values())]
    lines += ["", f"differences are from {first}; {len(result.labels)} labels are compared"]
    if result.families:
        lines += _format_families(list(result.families), list(result.families.values()))
    lines += describe_unknown(result.unknown)
    if result.at_k is not None:
        lines.append(f"at k: each image has exactly its {result.at_k} best labels")
    return "\n".join([*lines, f"signature {result.signature}"])


def comparison_record(result: Comparison) -> str:
    """Return a comparison as one JSON object; NaN becomes null."""
    measures = next(iter(result.differences.values()))
    symbols = {name: SYMBOLS[name] for name in measures if name in SYMBOLS}
    return to_json(asdict(result) | {"reference": result.reference, "symbols": symbols})


def comparison_csv(result: Comparison) -> str:
    """Return one row for each measure and run, as tidy CSV text."""
    return _csv(comparison.COLUMNS, result.rows())


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return out.getvalue()


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
            f"{run.data}: {len(run.labels)} labels; {what}: {images}; "
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
            f"by {change.largest:.2g} at most on {change.images} images of which nothing is known"
        )
    return "\n".join(
        [
            f"{run.data}: {len(run.labels)} labels; {report.images} images with answers",
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


def format_predictions(
    writer: PredictionWriter,
    left_out: LeftOut | None = None,
    *,
    of_all_shards: bool = False,
    what: str = "photos",
) -> str:
    """Format the numbers of tagged photos, of files beside them, and of what was left out.

    Args:
        of_all_shards: the walk was that of all shards, and the photos are those of one.
        what: name of what was tagged.
    """
    table = f": {writer.path}" if writer.path else ""
    failed = f"; {writer.failed} with errors" if writer.failed else ""
    if failed and writer.errors_path:
        failed += f", see {writer.errors_path}"
    return "\n".join(
        [
            f"{writer.written} {what} tagged{table}{failed}",
            *format_photo_files(writer.photo_files),
            *format_left_out(left_out, of_all_shards=of_all_shards),
        ]
    )


def format_left_out(left_out: LeftOut | None, *, of_all_shards: bool = False) -> list[str]:
    """Return a line that counts what a walk has left out, if anything."""
    return [f"left out{' of all shards' if of_all_shards else ''}: {left_out}"] if left_out else []


def format_photo_files(photo_files: PhotoFileSet) -> list[str]:
    """Return a line for each kind of file beside photos, with the number of files by action."""
    return [
        f"{kind}: " + (", ".join(f"{count} {fate}" for fate, count in fates.items()) or "none")
        for kind, fates in photo_files_record(photo_files).items()
    ]


def format_undone(photo_files: PhotoFileSet, failed: int, left_out: LeftOut) -> str:
    """Format the number of files by kind and action, and what was left out."""
    return "\n".join(
        [
            *format_photo_files(photo_files),
            *([f"{failed} with errors"] if failed else []),
            *format_left_out(left_out),
        ]
    )


def undone_record(photo_files: PhotoFileSet, failed: int, left_out: LeftOut) -> str:
    """Return the same content as one JSON object."""
    counts = photo_files_record(photo_files)
    return to_json({"failed": failed, **counts, "left_out": left_out.record()})


def photo_files_record(photo_files: PhotoFileSet) -> dict[str, dict[str, int]]:
    """Count files by kind and action."""
    return {
        kind: {fate.value: counts[fate] for fate in Action if counts[fate] and fate != Action.NONE}
        for kind, counts in photo_files.counts.items()
    }


def predictions_record(
    writer: PredictionWriter, left_out: LeftOut | None = None, *, of_all_shards: bool = False
) -> str:
    """Return the same content as one JSON object."""
    key = "left_out_of_all_shards" if of_all_shards else "left_out"
    errors = str(writer.errors_path) if writer.failed and writer.errors_path else None
    return to_json(
        {
            "tagged": writer.written,
            "failed": writer.failed,
            "out": str(writer.path) if writer.path else None,
            "errors": errors,
            **photo_files_record(writer.photo_files),
            **({} if left_out is None else {key: left_out.record()}),
        }
    )


def format_pairs(
    attractions: Sequence[tuple[str, str, float]], repulsions: Sequence[tuple[str, str, float]]
) -> str:
    """Format the strongest couplings, attractions on the left."""
    left, right = (
        [[f"{one} - {other}", f"{value:+.2f}"] for one, other, value in pairs]
        for pairs in (attractions, repulsions)
    )
    rows = [[*one, *other] for one, other in zip_longest(left, right, fillvalue=["", ""])]
    return format_table(["attract", "", "repel", ""], rows)


def format_agreements(name: str, agreements: Sequence["RankAgreement"]) -> str:
    """Format rank correlations, one per line."""
    return "\n".join(
        f"rank correlation with {name}, {one.over} ({one.pairs}): {one.correlation:+.3f}, "
        f"same sign in {one.same_sign}"
        for one in agreements
    )


def format_export(report: "ExportReport") -> str:
    """Format file, inference, differences and, as information only, size and speed."""
    from mlcrf.export import OUTPUTS

    inputs = ", ".join(
        f"{name} uint8 (N, {size}, {size}, 3)" for name, size in report.inputs.items()
    )
    count = report.num_images
    return "\n".join(
        [
            f"{report.path}: {report.num_bytes / 1e6:.1f} MB",
            f"inputs: {inputs}; outputs: {', '.join(OUTPUTS)}",
            f"inference: {report.inference}; the run's own is {report.own_inference}",
            f"largest difference over {count} images: {report.rounding:.1e} between onnxruntime "
            f"and torch, {report.largest_gap:.1e} from the run's own inference",
            f"mean difference from the run's own inference: {report.mean_gap:.1e} "
            f"(that of independent: {report.independent_gap:.1e})",
            f"time for {count} images here: onnxruntime {report.seconds:.2f} s, the run's own "
            f"engine {report.own_seconds:.2f} s",
        ]
    )


def export_record(report: "ExportReport") -> str:
    """Return the same content as one JSON object."""
    return to_json(asdict(report) | {"path": str(report.path)})


def format_calibration(report: "CalibrationReport") -> str:
    """Format the images, and what they support at some precisions."""
    calibration, labels = report.calibration, report.run.labels
    images = f"{len(calibration.targets)} images of {calibration.data}"
    skipped = f" ({report.skipped} that it was trained on left out)" if report.skipped else ""
    confidence = report.support[0].confidence
    rows = [
        [
            f"{one.precision:g}",
            f"{len(labels) - len(one.left_out)} of {len(labels)}",
            f"{one.written:.2f}",
            f"{100 * one.share:.1f}",
        ]
        for one in report.support
    ]
    head = ["--precision", "labels written", "tags per image", "recall, %"]
    return "\n".join(
        [
            f"{report.run.path}: calibrated on {images}{skipped}",
            f"Supported with confidence {confidence:g}, for each label:",
            format_table(head, rows),
            *_describe_reaches(report),
            "",
            *_format_tempering(report),
            "",
            *_format_reliability(report),
        ]
    )


def _describe_reaches(report: "CalibrationReport") -> list[str]:
    """Return a line on the families of label sets that the images ask for."""
    known = int((report.calibration.targets >= 0).all(1).sum())
    if not report.reaches:
        return ["No image has all of its labels known, which --coverage needs."]
    parts = [
        f"{level:g} by {'all label sets' if reach >= 1 else f'{100 * reach:.1f} %'}"
        for level, reach in report.reaches.items()
    ]
    return [
        f"--coverage is had on the {known} images with all labels known, by the most probable "
        f"label sets up to a total probability: {', '.join(parts)}"
    ]


def _format_tempering(report: "CalibrationReport") -> list[str]:
    """Return a table of the factors that were found, and whether they are kept."""
    head = ["model", "unaries x", "couplings x", "gain, nats", "of single labels", "kept"]
    rows = [
        [
            model,
            f"{one.found.unary:.3f}",
            f"{one.found.pairwise:.3f}" if model == "crf" else "-",
            *(f"{mean:+.4f} +- {error:.4f}" for mean, error in (one.gain, one.single_gain)),
            "yes" if one.is_kept else "no",
        ]
        for model, one in report.tempering.items()
    ]
    of = report.tempering["crf"]
    loss = "likelihood of an image" if of.joint else "pseudo-likelihood of an image"
    return [
        f"Factors of potentials, from {of.images} images; gain of the {loss}, cross-validated:",
        format_table(head, rows),
    ]


def _format_reliability(report: "CalibrationReport") -> list[str]:
    """Return a table of what probabilities say and what was so, before and after the factors."""
    head = ["of", "model", "was, %", "said, %", "error, %", "said after", "error after"]
    rows = []
    for kind, title in RELIABILITY_TITLES.items():
        for model, (before, after) in report.reliability.items():
            if kind in before:
                first, then = before[kind], after[kind]
                values = (
                    then.mean_frequency,
                    first.mean_probability,
                    first.error,
                    then.mean_probability,
                    then.error,
                )
                rows.append([title, model, *(f"{100 * value:.2f}" for value in values)])
    return ["Probabilities on these images:", format_table(head, rows)]


def calibration_record(report: "CalibrationReport") -> str:
    """Return the same content as one JSON object."""
    calibration = report.calibration
    return to_json(
        {
            "run": str(report.run.path),
            "data": calibration.data,
            "calibration": calibration.name,
            "images": len(calibration.targets),
            "in_training": report.skipped,
            "support": [asdict(one) for one in report.support],
            "coverage": [
                {"coverage": level, "reach": reach} for level, reach in report.reaches.items()
            ],
            "tempering": {
                model: asdict(one) | {"kept": one.is_kept}
                for model, one in report.tempering.items()
            },
            "reliability": {
                model: {
                    when: {kind: _reliability_record(found) for kind, found in each.items()}
                    for when, each in zip(("before", "after"), both, strict=True)
                }
                for model, both in report.reliability.items()
            },
            "notes": report.notes,
        }
    )


def _reliability_record(one: Reliability) -> dict[str, float]:
    return {
        "count": int(one.count.sum()),
        "probability": one.mean_probability,
        "frequency": one.mean_frequency,
        "error": one.error,
    }
