"""The comparison with scikit-learn's methods: measures, likelihoods of whole sets, ranks."""

from itertools import product

import numpy as np
import pytest

from experiments.multilabel.peers import Answer, Chain, Independent, Method, Neighbours
from experiments.multilabel.run import RANKED, score, tables


@pytest.mark.parametrize("method", [Independent(), Chain(), Chain(2), Neighbours()])
def test_likelihoods_of_all_sets_sum_to_one(method: Method) -> None:
    """Those of a chain, of a mean of chains and of independent labels, one of them in no row."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3))
    targets = (features + rng.normal(size=(60, 3)) > 0).astype(np.int8)
    targets[:, 2] = 0
    method.fit(features, targets, **method.candidates[0])
    total = sum(
        np.exp(-method.answer(features[:5], np.tile(one, (5, 1))).nll)
        for one in np.array(list(product([0, 1], repeat=3)), dtype=np.int8)
    )
    assert total == pytest.approx(np.ones(5))


def test_measures_of_rows() -> None:
    """F1 of two empty sets is 1."""
    truths = np.array([[1, 0], [0, 0], [1, 1]], dtype=np.int8)
    marginals = np.array([[0.9, 0.6], [0.1, 0.2], [0.8, 0.3]])
    found = score(Answer(marginals, truths, np.ones(3)), truths)
    assert found["wrong"].tolist() == [0.5, 0, 0.5]
    assert found["example_f1"] == pytest.approx([2 / 3, 1, 2 / 3])
    assert found["sets_right"].tolist() == [1, 1, 1]


def test_ranks_are_among_the_others() -> None:
    """The best of a measure has rank 1, and equal ones share their ranks."""
    row = {"set": "one", "labels": 3, "train": 9, "test": 9, "seconds": 1}
    values = {"wrong": 0.2, "sets_right": 0.5, "example_f1": 0.5, "nll": 2.0}
    worse = {"wrong": 0.3, "sets_right": 0.4, "example_f1": 0.5, "nll": 3.0}
    rows = [
        row
        | {"method": name, "difference": dict.fromkeys(values, (0.0, -0.1, 0.1))}
        | (values if name.startswith("CRF") else worse)
        for name in RANKED
    ]
    made = tables({"rows": rows})
    lines = {line.split(" | ")[0][2:]: line for line in made["ranks"].splitlines()}
    assert lines["CRF, linear"].startswith("| CRF, linear | 1.00 | 1.00 | 3.50 | 1.00 |")
    assert lines["random forest"].startswith("| random forest | 4.00 | 4.00 | 3.50 | 4.00 |")
    assert (
        "| one | 3 | 9 + 9 | random forest | 30.00 | 40.00 | 50.00 | 3.000 | 1 |"
        in made["measures"]
    )
