"""Reliability of whole label sets for the report, with and without a run's factors."""

import json
from typing import Any

import numpy as np
import torch

from mlcrf.calibration import Model
from mlcrf.checkpoint import Run
from mlcrf.evaluation import Answers
from mlcrf.labels import UNKNOWN
from mlcrf.metrics import Reliability, reliability
from mlcrf.reliability import measure_set_reliability
from mlcrf.reports.webpage import charts
from mlcrf.tempering import Factors

_MODELS: tuple[Model, ...] = ("crf", "independent")


def set_charts(run: Run, answers: Answers) -> dict[str, Any]:
    """Return what the template needs: bins of both models, and those without factors, if any.

    Cost: inference and MAP of the models that have factors; of both where labels are unknown.
    """
    now = {model: _measured(answers, model, Factors()) for model in _MODELS}
    factors = {} if answers.hinted else find_factors(run)  # hints are not multiplied
    before = {model: _measured(answers, model, one) for model, one in factors.items()}
    points = [charts.reliability_points(now[model]) for model in _MODELS]
    return {
        "sets": [(one, charts.reliability_path(one)) for one in points],
        "set_counts": [charts.count_bars(now[model]) for model in _MODELS],
        "sets_before": {
            "base" if model == "independent" else model: charts.reliability_path(
                charts.reliability_points(one)
            )
            for model, one in before.items()
        },
        "set_rows": [
            ("CRF" if model == "crf" else model, _cells(now[model]), _cells(before.get(model)))
            for model in reversed(_MODELS)
        ],
    }


def find_factors(run: Run) -> dict[Model, Factors]:
    """Return by model what multiplies its potentials: by training, by `mlcrf calibrate`, or both.

    Training writes the factors that it has kept to `metrics.json`; weights include them.
    """
    trained: dict[str, Any] = {}
    record = run.path / "metrics.json"
    if record.exists():
        trained = json.loads(record.read_text(encoding="utf-8")).get("fits", {})
    found: dict[Model, Factors] = {}
    for model in _MODELS:
        fit = trained.get(model, {})
        later = run.factors.get(model, Factors())
        unary = fit.get("unary_factor", 1.0) * later.unary
        pairwise = fit.get("pairwise_factor", 1.0) * later.pairwise
        if (unary, pairwise) != (1.0, 1.0):
            found[model] = Factors(unary, pairwise)
    return found


def _measured(answers: Answers, model: Model, factors: Factors) -> Reliability:
    """Return the reliability of label sets of a model whose potentials are divided by factors."""
    potentials, targets = answers.potentials[model], answers.manifest.targets
    predictions = answers.crf if model == "crf" else answers.independent
    said = predictions.set_probability
    if factors == Factors() and said is not None and bool((targets != UNKNOWN).all()):
        return reliability(said, (predictions.map_states == targets).all(1).astype(np.int8))
    if factors != Factors():
        potentials = potentials.scaled(1 / factors.unary, 1 / factors.pairwise)
    return measure_set_reliability(potentials, torch.from_numpy(targets), answers.methods[model])


def _cells(found: Reliability | None) -> tuple[str, str, str]:
    """Return the mean probability, the frequency and the gap, in %; dashes without any."""
    if found is None or not found.count.any():
        return ("\N{EN DASH}",) * 3
    shares = (found.mean_probability, found.mean_frequency, found.error)
    said, was, error = (f"{100 * share:.1f}" for share in shares)
    return said, was, error
