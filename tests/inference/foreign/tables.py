"""The tables of `docs/inference.md` on published models, in Markdown."""

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby

from mlcrf.inference import InferenceMethod
from tests.inference.foreign.answers import MODELS, answer, exact_method, infer, truth
from tests.inference.foreign.models import Answer, Quantity, Values
from tests.inference.methods import EXACT, ROWS

_SHOWN = 6  # answers of one kind in a table


def format_answers() -> str:
    """Published answers with those of an exact method, rounded to as many digits."""
    lines = ["| model | labels, pairs | source | answer | published | ours |", "|" + " --- |" * 6]
    for number, model in enumerate(MODELS):
        method = exact_method(model)
        if method is None:
            continue
        about = [model.name, f"{len(model.labels)}, {len(model.pairwise)}", model.source]
        for what, questions in groupby(model.answers, _describe):
            asked = list(questions)
            shown = asked[:_SHOWN]
            ours = [_rounded(method, number, question) for question in shown]
            published = [one.value + (" (at fault)" if one.right else "") for one in shown]
            events = ", ".join(_names(one.of) for one in shown if one.of)
            described = f"P({events}{what})" if events else what
            if len(asked) > len(shown):
                described += f" and {len(asked) - len(shown)} more"
            lines.append(_line([*about, described, ", ".join(published), ", ".join(ours)]))
            about = ["", "", ""]
    return "\n".join(lines) + "\n"


def format_methods() -> str:
    """Log Z minus the right one, nothing known; in parentheses where it has not converged."""
    chosen = [row.method for row in ROWS if row.log_z is not EXACT]
    lines = [_line(["model", *(method.name for method in chosen)]), "|" + " --- |" * 9]
    for number, model in enumerate(MODELS):
        right = truth(number).log_z[0].item()
        if math.isnan(right):
            continue
        cells = [model.name]
        for method in chosen:
            posterior, _ = infer(method, number)
            error = f"{posterior.log_partition[0].item() - right:.1g}"
            if error in ("0", "-0") or abs(float(error)) < 1e-9:
                error = "0"
            cells.append(error if posterior.converged[0] else f"({error})")
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def fill(page: str, name: str, table: str) -> str:
    """Put a table between its marks on a page."""
    begin, end = f"<!-- foreign {name}: begin -->", f"<!-- foreign {name}: end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def _describe(question: Answer) -> str:
    what = "" if question.quantity is Quantity.PROBABILITY else question.quantity.value
    return f"{what} given {_names(question.given)}" if question.given else what


def _names(values: Values) -> str:
    return " ".join(f"{label}={value}" for label, value in values.items())


def _rounded(method: InferenceMethod, number: int, question: Answer) -> str:
    ours = answer(method, number, question)
    if question.quantity is Quantity.BEST_STATE:
        return ours
    published = Decimal(question.value)
    rounded = Decimal(ours).quantize(Decimal((0, (1,), int(published.as_tuple().exponent))))
    return f"{rounded:e}" if "e" in question.value else f"{rounded:f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
