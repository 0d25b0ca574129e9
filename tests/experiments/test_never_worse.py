"""The comparison of both models on any data set: its verdicts, and data sets of numbers."""

from dataclasses import asdict

import pytest

from experiments import frame
from experiments.many_labels.drawn import make_sparse_crf
from experiments.never_worse.run import compared, judge, measure_numbers, tables
from experiments.numbers import Numbers
from mlcrf.config import TrainSettings
from mlcrf.labels import LabelSpace


@pytest.mark.parametrize(
    ("low", "high", "of_a_loss", "of_a_score"),
    [
        (0.1, 0.2, "worse", "better"),
        (-0.2, -0.1, "better", "worse"),
        (-0.1, 0.2, "level", "level"),
        (0.0, 0.0, "level", "level"),
        (float("nan"), float("nan"), "level", "level"),
    ],
)
def test_a_verdict_has_the_direction_of_its_measure(
    low: float, high: float, of_a_loss: str, of_a_score: str
) -> None:
    """The likelihood's loss is better lower, average precision higher."""
    assert judge("nll", low, high) == of_a_loss
    assert judge("mean_average_precision", low, high) == of_a_score


def test_features_are_fitted_as_images_are() -> None:
    """A baseline and a CRF of drawn label sets; the weight that is given decides what is in use."""
    crf = make_sparse_crf(12, 4, labels_per_image=1.2)
    numbers = Numbers(
        LabelSpace(tuple(f"label {number}" for number in range(12))),
        crf.draw(200, seed=1),
        crf.draw(100, seed=2),
    )
    settings = TrainSettings(**frame.QUICK, structure_weights=(0.0,))
    about, scores = measure_numbers(numbers, settings, resamples=20)
    assert (about["labels"], about["train"], about["test"]) == (12, 200, 100)
    assert about["labels_with_structure"] == about["edges"] == 0
    models, difference = scores
    assert asdict(models["crf"]) == pytest.approx(asdict(models["independent"]), abs=1e-6)
    assert "f1_at_k" in difference
    rows = [{"data": "drawn", "labels": 12} | row for row in compared(*scores)]
    assert {row["verdict"] for row in rows} == {"level"}
    made = tables({"rows": rows, "sets": [{"data": "drawn", **about}]})
    assert made["worse"].splitlines()[2].startswith("| none |")
    assert "| drawn | 12 | 200 | 100 | 0 |" in made["sets"]
