"""Every measure has a title, so that none is missing from the tables."""

from dataclasses import fields

from mlcrf.metrics import Measures
from mlcrf.reports.tables import MEASURE_TITLES


def test_every_measure_has_a_title() -> None:
    """All fields of `Measures` are rows of the table, but for the number of averaged labels."""
    names = {field.name for field in fields(Measures)}
    assert MEASURE_TITLES.keys() == names - {"labels_with_positives"}
