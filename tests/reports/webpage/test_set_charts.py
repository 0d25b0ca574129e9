"""Reliability of whole label sets in the report, with and without a run's factors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.checkpoint import Run
from mlcrf.evaluation import Answers
from mlcrf.inference import Exact
from mlcrf.reliability import measure_set_reliability
from mlcrf.reports.webpage import charts
from mlcrf.reports.webpage.set_charts import find_factors, set_charts
from mlcrf.tempering import Factors
from tests.reports.webpage.making import ask, draw_targets, make_photos, make_run


@pytest.fixture
def case(tmp_path: Path) -> tuple[Run, Answers]:
    run = make_run(tmp_path / "run", ("sea", "sky", "sun"))
    photos = make_photos(tmp_path / "photos", tuple(f"{at}.jpg".encode() for at in range(40)))
    return run, ask(run, photos)[0]


def test_a_run_without_factors(case: tuple[Run, Answers]) -> None:
    """One line a model: as its own label sets and their probabilities say."""
    run, answers = case
    assert find_factors(run) == {}
    found = set_charts(run, answers)
    assert found["sets_before"] == {}
    targets = torch.from_numpy(answers.manifest.targets)
    again = measure_set_reliability(answers.potentials["crf"], targets, Exact())
    points, path = found["sets"][0]
    assert points == charts.reliability_points(again)
    assert path == charts.reliability_path(points)
    title, cells, before = found["set_rows"][1]
    right = np.mean((answers.crf.map_states == answers.manifest.targets).all(1))
    assert (title, cells[1]) == ("CRF", f"{100 * right:.1f}")
    assert set(before) == {"\N{EN DASH}"}


def test_factors_of_training_and_of_calibration(case: tuple[Run, Answers]) -> None:
    """Both are taken off together; what was said without them is drawn beside it."""
    run, answers = case
    fits = {"fits": {"crf": {"unary_factor": 1.25, "pairwise_factor": 2.0}, "independent": {}}}
    (run.path / "metrics.json").write_text(json.dumps(fits))
    run = replace(run, factors={"crf": Factors(1.2, 0.5)})
    assert find_factors(run) == {"crf": Factors(1.5, 1.0)}
    targets = torch.from_numpy(answers.manifest.targets)
    potentials = answers.potentials["crf"].scaled(1 / 1.5, 1.0)
    before = measure_set_reliability(potentials, targets, Exact())
    found = set_charts(run, answers)
    path = charts.reliability_path(charts.reliability_points(before))
    assert found["sets_before"] == {"crf": path}
    assert found["set_rows"][1][2][0] == f"{100 * before.mean_probability:.1f}"
    assert found["set_rows"][1][2] != found["set_rows"][1][1]


def test_images_of_which_not_all_is_known(tmp_path: Path) -> None:
    """They are left out; where no image is left there is no line, and no figure."""
    run = make_run(tmp_path / "run", ("sea", "sky", "sun"))
    photos = make_photos(tmp_path / "photos", tuple(f"{at}.jpg".encode() for at in range(12)))
    targets = draw_targets(run, photos)
    targets[:5, 0] = -1
    found = set_charts(run, ask(run, photos, targets)[0])
    assert sum(point.count for point in found["sets"][0][0]) == 7
    targets[:, 1] = -1
    found = set_charts(run, ask(run, photos, targets)[0])
    assert found["sets"][0][0] == [] and set(found["set_rows"][0][1]) == {"\N{EN DASH}"}
