"""Format evaluations and comparisons as text for people, CSV for spreadsheets and JSON."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlcrf import comparison
from mlcrf.comparison import Comparison
from mlcrf.errors import SettingsError
from mlcrf.evaluation import COLUMNS, Evaluation
from mlcrf.hints import are, counted, did_you_mean
from mlcrf.metrics import COST_MEASURES, MEASURES, SYMBOLS, Interval, Measures, Unknown
from mlcrf.reports.text import format_table, to_json

if TYPE_CHECKING:
    from mlcrf.decoding.family_measures import FamilyMeasures


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
        for name in MEASURES
        if (at_k or not name.endswith("_at_k")) and (has_costs or name not in COST_MEASURES)
    ]
    if text == "all":
        return tuple(possible)
    if text == "main":
        return tuple(name for name in possible if MEASURES[name].is_main)
    folded = {name: name for name in MEASURES}
    for name, symbol in SYMBOLS.items():
        folded[symbol.casefold()] = folded[symbol.replace("@k", f"@{at_k}").casefold()] = name
    chosen = []
    for word in (word.strip() for word in text.split(",")):
        name = folded.get(word.casefold(), "")
        if not name:
            raise SettingsError(
                "--measures: expected main, all, or names of measures as in --out, "
                f"got {word!r}{did_you_mean(word, [*MEASURES, *SYMBOLS.values()])}"
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
        measure = MEASURES[name]
        title = measure.title
        if measures is not None and measure.symbol not in title:
            title += f" ({measure.symbol})"
        scores = (measure.format(getattr(model, name)) for model in (theirs, ours))
        value, low, high = (measure.format(one, signed=True) for one in difference[name])
        rows[name] = [title, *scores, value, f"[{low}, {high}]"]
    return rows


def format_evaluation(result: Evaluation, measures: Sequence[str] | None = None) -> str:
    """Format the scores of both models side by side, with the interval of each difference.

    Args:
        measures: see `evaluation_rows`.
    """
    header = ["", "independent", "crf", "difference", "95 % interval"]
    averaged = result.models["crf"].labels_with_positives
    return "\n".join(
        [
            *_training_headline(result),
            format_table(header, evaluation_rows(result, measures).values()),
            f"averages over {counted(averaged, 'label')} with a positive; nll of the crf is "
            f"{result.nll_kind}",
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
        f"coverage is of {counted(families[0].images, 'image')} with all labels known",
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
    left_out = (
        f"; {counted(images, 'image')} of which nothing is known {are(images)} left out"
        if images
        else ""
    )
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
    lines += [
        "",
        f"differences are from {first}; "
        f"{counted(len(result.labels), 'label is', 'labels are')} compared",
    ]
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
