"""Write the report on a run: fill its template with numbers, shapes and thumbnails."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcrf.checkpoint import Run
from mlcrf.comparison import Comparison
from mlcrf.decoding.family_measures import FamilyMeasures
from mlcrf.evaluation import Answers, Evaluation, article
from mlcrf.inference import LogPartitionKind
from mlcrf.metrics import MEASURES, Interval, precision_recall, reliability
from mlcrf.reports.correlations import strongest_pairs
from mlcrf.reports.html_page import save_page
from mlcrf.reports.names import readable
from mlcrf.reports.score_tables import (
    choose_measures,
    describe_unknown,
    evaluation_rows,
    family_rows,
    measure_rows,
)
from mlcrf.reports.webpage import charts
from mlcrf.reports.webpage.gallery import Gallery, changed_cards, surprising_cards
from mlcrf.reports.webpage.set_charts import set_charts

_MOST_LABELS = 80  # rows of a table of labels
_MOST_CURVES = 24  # labels with a plot of their own
_PAIRS = 12  # strongest pairs of each sign
_HEADLINES = ("subset_accuracy", "wrong_per_image", "mean_average_precision", "nll")


@dataclass(frozen=True)
class _Measure:
    """A row of the table of measures; `verdict` is empty if a score is missing."""

    title: str
    independent: str
    crf: str
    difference: str
    interval: str
    shape: charts.Interval | None
    verdict: str


def save_report(
    path: Path,
    run: Run,
    answers: Answers,
    result: Evaluation,
    gallery: Gallery,
    comparison: Comparison | None = None,
) -> None:
    """Write the report on a run as one self-contained HTML file.

    Labels, file names and notes may contain any text; see `save_page`. The same answers give the
    same bytes.

    Args:
        answers: with their surprise, see `answer`.
        result: the evaluation of the same answers.
        comparison: of this run, which is its first, with others on the same images.

    Raises:
        MlcrfError: the file cannot be written.

    Cost: O(N L log N) for the curves; the size of the page is limited by the gallery and 80 labels.
    Images are decoded one at a time.
    """
    names = [readable(name) for name in run.labels]
    context = (
        _overview(run, answers, result)
        | _by_label(answers, result, names)
        | set_charts(run, answers)
        | _couplings(run, names)
        | {"comparison": None if comparison is None else _compared(comparison)}
        | {"sources": list(_sources(run)), "hinted": answers.hinted is not None}
        | _images(answers, gallery, names)
    )
    save_page(path, "report", context | {"signed": _signed})


def _overview(run: Run, answers: Answers, result: Evaluation) -> dict[str, Any]:
    measures = _measures(result)
    more = [one for one in choose_measures("all", result.at_k) if not MEASURES[one].is_main]
    verdicts = [one.verdict for one in measures.values()]
    name, data = readable(run.path.name), readable(answers.manifest.name)
    return {
        "title": f"{name} on {data}{' (training images)' if result.in_training else ''}",
        "run": name,
        "data": data,
        "trained_on": readable(run.data),
        "objective": run.settings.objective.value,
        "inference": answers.inference,
        "decision": answers.decision,
        "num_images": len(answers.manifest),
        "num_labels": len(run.labels),
        "signature": readable(result.signature, 1000),
        "notes": [
            readable(note, 500) for note in (*describe_unknown(result.unknown), *result.notes)
        ],
        "nll_kind": article(answers.nll_kind),
        "measures": list(measures.values()),
        "more_measures": list(_measures(result, more).values()),
        "headlines": [measures[name] for name in _HEADLINES],
        "verdicts": {one: verdicts.count(one) for one in ("better", "worse", "not told apart")},
        "at_k": result.at_k,
        "families": _families([result.families.get(one) for one in ("independent", "crf")]),
        "coverage": readable(answers.coverage, 200),
        "averaged": result.models["crf"].labels_with_positives,
    }


def _families(families: Sequence[FamilyMeasures | None]) -> list[list[str]]:
    """Return the rows of a table of families of label sets; none if none was asked for."""
    found = [one for one in families if one is not None]
    return [list(map(_minus, row)) for row in family_rows(found)] if found else []


def _measures(result: Evaluation, names: list[str] | None = None) -> dict[str, _Measure]:
    return _with_intervals(evaluation_rows(result, names), result.difference)


def _with_intervals(
    rows: dict[str, list[str]], difference: Mapping[str, Interval]
) -> dict[str, _Measure]:
    measures = {}
    for name, cells in rows.items():
        value, low, high = difference[name]
        shape = charts.interval(value, low, high, lower_is_better=MEASURES[name].is_loss)
        title, *figures = cells
        theirs, ours, signed, interval = map(_minus, figures)
        if shape is None:
            interval = verdict = ""
        else:
            verdict = "better" if shape.low > 0 else "worse" if shape.high < 0 else "not told apart"
        measures[name] = _Measure(title, theirs, ours, signed, interval, shape, verdict)
    return measures


def _compared(comparison: Comparison) -> dict[str, Any]:
    first = comparison.reference
    return {
        "first": readable(first),
        "num_labels": len(comparison.labels),
        "notes": [readable(note, 500) for note in comparison.notes],
        "families": _families(list(comparison.families.values())),
        "names": [readable(name) for name in comparison.runs],
        "others": [
            (
                readable(name),
                comparison.in_training[name],
                _with_intervals(
                    measure_rows(
                        comparison.runs[name], comparison.runs[first], difference, comparison.at_k
                    ),
                    difference,
                ).values(),
            )
            for name, difference in comparison.differences.items()
        ],
    }


def _by_label(answers: Answers, result: Evaluation, names: list[str]) -> dict[str, Any]:
    targets = answers.manifest.targets
    figures = list(result.per_label.values())
    positives = np.array([one["positives"] for one in figures])
    commonest = np.argsort(-positives, kind="stable")
    both = (answers.crf.marginals, answers.independent.marginals)

    def curves(column: slice) -> list[str]:
        found = (precision_recall(one[:, column], targets[:, column]) for one in both)
        return [charts.curve_path(curve) for curve in found if curve is not None]

    rows = [
        {
            "name": names[label],
            "positives": int(figures[label]["positives"]),
            "crf": figures[label]["crf_average_precision"],
            "independent": figures[label]["independent_average_precision"],
        }
        for label in commonest[:_MOST_LABELS]
    ]
    bins = [reliability(one, targets) for one in both]
    points = [charts.reliability_points(one) for one in bins]
    return {
        "labels": sorted(rows, key=lambda row: -row["crf"] if row["positives"] else 1),
        "pooled": curves(slice(None)),
        "curves": [
            (names[label], int(positives[label]), curves(slice(label, label + 1)))
            for label in commonest[:_MOST_CURVES]
            if positives[label]
        ],
        "calibration": [(one, charts.reliability_path(one)) for one in points],
        "counts": [charts.count_bars(one) for one in bins],
    }


def _couplings(run: Run, names: list[str]) -> dict[str, Any]:
    attract, repel = strongest_pairs(run.crf, tuple(names), count=_PAIRS)
    return {
        "has_implications": bool(run.crf.rules.pairs),
        "rules": run.crf.rules.lines(names),
        "heatmap": charts.couplings_image(run.crf, names),
        "attractions": [(*pair, _signed(pair[2], 2)) for pair in attract],
        "repulsions": [(*pair, _signed(pair[2], 2)) for pair in repel],
        "largest": max((abs(value) for _, _, value in (*attract, *repel)), default=1.0),
        "gates": run.crf.rank,
        "scenes": run.crf.num_scenes,
        "structure": run.settings.structure.value,
    }


def _sources(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the tables of the sources that the run learned from as such, of at most 80 labels."""
    for source, shares in run.mentions.items():
        listed = [(readable(name), f"{100 * share:.0f}") for name, share in shares.items()]
        yield {"name": readable(source), "listed": True, "rows": listed[:_MOST_LABELS]}
    for source, trust in run.hints.items():
        hints = [
            (readable(name), *(_signed(value, 2) for value in both)) for name, both in trust.items()
        ]
        yield {"name": readable(source), "listed": False, "rows": hints[:_MOST_LABELS]}


def _images(answers: Answers, gallery: Gallery, names: list[str]) -> dict[str, Any]:
    return {
        "changes": changed_cards(answers, gallery, names),
        "surprises": surprising_cards(answers, gallery, names),
        "exact": answers.nll_kind is LogPartitionKind.EXACT,
    }


def _signed(value: float, digits: int) -> str:
    """Format a number with its sign, unless it is rounded to zero."""
    text = f"{value:+.{digits}f}"
    return _minus(text if float(text) else text[1:])


def _minus(cell: str) -> str:
    """Return a number with a true minus sign, and NaN as `none`."""
    return "none" if cell in ("nan", "+nan") else cell.replace("-", "\N{MINUS SIGN}")
