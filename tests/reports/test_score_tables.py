"""Every measure has a title, so that none is missing from the tables."""

import re
from dataclasses import fields

import numpy as np
import pytest

from mlcrf.errors import SettingsError
from mlcrf.metrics import COST_MEASURES, MEASURES, Measures, Unknown
from mlcrf.reports.score_tables import choose_measures, describe_unknown
from tests.mirror import ROOT


def test_every_measure_has_a_title() -> None:
    """All fields of `Measures` are rows of the table, but for the number of averaged labels."""
    names = {field.name for field in fields(Measures)}
    assert MEASURES.keys() == names - {"labels_with_positives"}


def test_every_measure_is_defined() -> None:
    """docs/measures.md has a row with title, name, direction and symbol of each."""
    rows = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8").splitlines()
    for name, measure in MEASURES.items():
        direction = " (lower)" if measure.is_loss else ""
        title = re.split(", %| [(]", measure.title)[0]
        start = f"| {title}, `{name}`{direction} | {measure.symbol}"
        assert [row for row in rows if row.startswith(start)], start


def test_choose_measures() -> None:
    """Names and symbols in any case and order; those at k only where there is a k."""
    assert choose_measures(" OR,nll, cf1@5", 5) == ("micro_recall", "nll", "f1_at_k")
    assert choose_measures("all", 5, has_costs=True) == tuple(MEASURES)
    assert set(MEASURES) - set(choose_measures("all", 5)) == set(COST_MEASURES)
    assert not [name for name in choose_measures("all", None) if name.endswith("at_k")]
    for text, at_k, message in (
        ("CP,CFI", 3, "got 'CFI'; did you mean 'CF1'?"),
        ("CP@5", 3, "got 'CP@5'"),
        ("CP@k", None, "'CP@k' needs --at-k NUMBER"),
        ("cost", 3, "'cost' needs --costs FILE"),
        ("", None, "got ''"),
    ):
        with pytest.raises(SettingsError, match=re.escape(message)):
            choose_measures(text, at_k)


def test_unknown_targets_are_counted() -> None:
    """With what the nll is then, and the images that are left out; or nothing is said."""
    targets = np.array([[1, -1], [-1, -1], [0, 1]], dtype=np.int8)
    (line,) = describe_unknown(Unknown.of(targets))
    assert line == (
        "3 of 6 labels are unknown: nll is that of the known ones together, the others summed out; "
        "1 image of which nothing is known is left out"
    )
    assert not describe_unknown(Unknown.of(targets[2:]))
