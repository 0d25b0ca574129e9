"""The estimator of scikit-learn: its conventions, and the numbers of the package's own fit."""

import pickle
from itertools import product
from typing import Any
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mlcrf import MultiLabelCRFClassifier
from mlcrf.derived_features import ForestLogOdds
from mlcrf.labels import LabelSpace
from mlcrf.training.examples import Examples
from mlcrf.training.fitting import fit_features

Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]

QUICK: dict[str, Any] = {
    "penalties": (0.3,),
    "pairwise_penalties": (0.01,),
    "settings": {"structure_weights": (1.0,)},
    "random_state": 0,
}
UNNEEDED = {
    "check_classifiers_multilabel_output_format_decision_function": "it has no decision_function",
    "check_array_api_input": "runs only where SCIPY_ARRAY_API is set",
}


@parametrize_with_checks([MultiLabelCRFClassifier(**QUICK)])
def test_conventions(estimator: Any, check: Any) -> None:
    """Every check of scikit-learn passes; one that skips itself is named in `UNNEEDED`."""
    try:
        check(estimator)
    except SkipTest:
        assert check.func.__name__ in UNNEEDED


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Three labels: two that need each other, and one that excludes them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, 4))
    first = (features[:, 0] + rng.normal(size=150) > 0).astype(float)
    second = np.where(rng.random(150) < 0.9, first, 1 - first)
    third = np.where(rng.random(150) < 0.8, 1 - first, 0)
    return features, np.stack([first, second, third], 1)


@pytest.fixture(scope="module")
def fitted(arrays: Arrays) -> MultiLabelCRFClassifier:
    features, targets = arrays
    columns = ["sea", "beach", "car"]
    return MultiLabelCRFClassifier(**QUICK).fit(features, pd.DataFrame(targets, columns=columns))


def all_sets() -> NDArray[np.int64]:
    return np.array(list(product([0, 1], repeat=3)))


def test_joint_probabilities_are_those_of_whole_sets(
    arrays: Arrays, fitted: MultiLabelCRFClassifier
) -> None:
    """They sum to 1, and marginals, conditions and decisions follow from them."""
    features = arrays[0][:20]
    joint = np.stack([fitted.predict_joint_proba(features, one) for one in all_sets()], 1)
    assert np.allclose(joint.sum(1), 1, atol=1e-5)
    assert np.allclose(joint @ all_sets(), fitted.predict_proba(features), atol=1e-5)
    assert np.allclose(np.exp(fitted.predict_log_proba(features)), fitted.predict_proba(features))
    assert (fitted.predict(features, decision="map") == all_sets()[joint.argmax(1)]).all()
    known = np.array([1, np.nan, np.nan])
    given = joint * (all_sets()[:, 0] == 1)
    assert np.allclose(fitted.predict_joint_proba(features, known), given.sum(1), atol=1e-5)
    wanted = given @ all_sets() / given.sum(1, keepdims=True)
    assert np.allclose(fitted.condition(features, known), wanted, atol=1e-5)
    named = pd.DataFrame({"sea": np.ones(20)})
    assert np.allclose(fitted.condition(features, named), wanted, atol=1e-5)


def test_samples_have_the_marginals(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    features = arrays[0][:5]
    drawn = fitted.sample(features, 4000, random_state=1)
    assert drawn.shape == (4000, 5, 3)
    assert np.allclose(drawn.mean(0), fitted.predict_proba(features), atol=0.04)
    assert (drawn == fitted.sample(features, 4000, random_state=1)).all()
    with pytest.raises(ValueError, match="n: expected a whole number from 1, got 0"):
        fitted.sample(features, 0)


def test_samples_without_couplings(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    """Of the baseline, and of one label: each label for itself."""
    features, targets = arrays
    baseline = fitted.independent_
    drawn = baseline.sample(features[:5], 4000, random_state=1)
    assert drawn.shape == (4000, 5, 3)
    assert np.allclose(drawn.mean(0), baseline.predict_proba(features[:5]), atol=0.04)
    one = MultiLabelCRFClassifier(**QUICK).fit(features, targets[:, 0])
    drawn = one.sample(features[:5], 4000, random_state=1)
    assert np.allclose(drawn.mean(0)[:, 0], one.predict_proba(features[:5])[:, 1], atol=0.04)


def test_large_offsets_are_not_lost(arrays: Arrays) -> None:
    """Such as dates in seconds, of which numbers of 32 bits keep no minutes."""
    features, targets = arrays
    wanted = MultiLabelCRFClassifier(**QUICK).fit(features, targets).predict_proba(features)
    for offset in (1e6, 1.7e9, -1e12):
        moved = features * 3600 + offset
        fitted = MultiLabelCRFClassifier(**QUICK).fit(moved, targets)
        assert np.allclose(fitted.predict_proba(moved), wanted, atol=2e-4), offset
        baseline = fitted.independent_
        assert np.ptp(baseline.predict_proba(moved), axis=0).min() > 0.5
    with pytest.raises(ValueError, match="too large for dtype"):
        MultiLabelCRFClassifier(**QUICK).fit(features * 1e300, targets)


def test_known_labels_by_name(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    """A Series and a mapping are read by their names; a Series without names by position."""
    features = arrays[0][:5]
    wanted = fitted.condition(features, np.array([0, 1, np.nan]))
    named = pd.Series({"beach": 1, "sea": 0})
    assert (fitted.condition(features, named) == wanted).all()
    assert (fitted.condition(features, {"beach": 1, "sea": 0}) == wanted).all()
    assert (fitted.condition(features, {"beach": 1, "sea": 0, "car": pd.NA}) == wanted).all()
    assert (fitted.condition(features, pd.Series([0, 1, np.nan])) == wanted).all()
    with pytest.raises(ValueError, match="unknown label 'bech'"):
        fitted.condition(features, {"bech": 1})


@pytest.mark.parametrize("kind", ["Int64", "boolean"])
def test_missing_values_of_pandas(arrays: Arrays, kind: Any) -> None:
    features, targets = arrays
    unknown = np.random.default_rng(1).random(targets.shape) < 0.3
    frame = pd.DataFrame(targets.astype(int), columns=list("abc")).astype(kind).mask(unknown)
    fitted = MultiLabelCRFClassifier(**QUICK).fit(features, frame)
    wanted = MultiLabelCRFClassifier(**QUICK).fit(features, np.where(unknown, np.nan, targets))
    assert (fitted.predict_proba(features) == wanted.predict_proba(features)).all()


@pytest.mark.parametrize("count", [2, 3])
def test_probabilities_by_cross_validation(arrays: Arrays, count: int) -> None:
    """As scikit-learn collects them, and scores them."""
    features, targets = arrays[0], arrays[1][:, :count]
    model = MultiLabelCRFClassifier(**QUICK)
    for method in ("predict_proba", "predict_log_proba"):
        found = cross_val_predict(model, features, targets, cv=2, method=method)
        assert found.shape == targets.shape and np.isfinite(found).all()
    scores = cross_val_score(model, features, targets, cv=2, scoring="roc_auc")
    assert ((scores > 0.6) & (scores < 1)).all()


def test_couplings_and_the_baseline(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    features, targets = arrays
    coupling = fitted.coupling_
    assert list(coupling.index) == list(coupling.columns) == ["sea", "beach", "car"]
    assert coupling.loc["sea", "beach"] > 1 > -1 > coupling.loc["sea", "car"]
    baseline = fitted.independent_
    p = baseline.predict_proba(features)
    alone = np.where(targets == 1, p, 1 - p).prod(1)
    assert np.allclose(baseline.predict_joint_proba(features, targets), alone, atol=1e-5)
    better = fitted.predict_joint_proba(features, targets)
    assert np.log(better).mean() > np.log(alone).mean() + 0.1
    assert fitted.score(features, targets) == (fitted.predict(features) == targets).all(1).mean()
    figure = fitted.plot_correlations()
    assert {text.get_text() for text in figure.axes[0].get_xticklabels()} == {"sea", "beach", "car"}


def test_the_fit_is_that_of_the_package(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    features, targets = arrays
    everything = Examples(features.astype(np.float32), targets.astype(np.int8))
    nothing = Examples(everything.features[:0], everything.targets[:0])
    settings = fitted.settings_
    models = fit_features(everything, nothing, LabelSpace(("a", "b", "c")), settings)
    matrix = models.crf.model.pairwise_matrix().numpy()
    assert (fitted.coupling_.to_numpy() == matrix).all()


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, np.asarray])
def test_sparse_is_as_dense(arrays: Arrays, kind: Any) -> None:
    features, targets = arrays
    dense = MultiLabelCRFClassifier(**QUICK).fit(features, targets)
    other = MultiLabelCRFClassifier(**QUICK).fit(kind(features), kind(targets))
    assert (dense.predict_proba(features) == other.predict_proba(kind(features))).all()


def test_unknown_labels(arrays: Arrays) -> None:
    """What is unknown is summed out: couplings are learned from what is known."""
    features, targets = arrays
    partly = targets.copy()
    partly[np.random.default_rng(1).random(targets.shape) < 0.3] = np.nan
    fitted = MultiLabelCRFClassifier(**QUICK).fit(features, partly)
    assert fitted.coupling_.iloc[0, 1] > 1
    assert 0 < fitted.score(features, partly) <= 1


@pytest.mark.parametrize(
    "changed",
    [
        {"features": "rbf"},
        {"features": "forest"},
        {"hidden_units": 8, "dropout": 0.2},
        {"structure": "tree"},
    ],
)
def test_other_unaries(arrays: Arrays, changed: dict[str, Any]) -> None:
    features, targets = arrays
    fitted = MultiLabelCRFClassifier(**QUICK, **changed).fit(features, targets)
    again = MultiLabelCRFClassifier(**QUICK, **changed).fit(features, targets)
    assert (fitted.predict_proba(features) == again.predict_proba(features)).all()
    assert fitted.score(features, targets) > 0.4


def test_pipelines_searches_and_copies(arrays: Arrays) -> None:
    """It goes where scikit-learn's own classifiers go."""
    features, targets = arrays
    frame = pd.DataFrame(features, columns=list("abcd"))
    steps = make_pipeline(StandardScaler(), MultiLabelCRFClassifier(**QUICK))
    steps.set_output(transform="pandas")
    grid = {"multilabelcrfclassifier__decision": ["threshold", "map"]}
    search = GridSearchCV(steps, grid, cv=2).fit(frame, targets)
    assert 0 < search.best_score_ <= 1
    found = search.best_estimator_[-1]
    assert list(found.feature_names_in_) == list("abcd")
    kept = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (kept.predict_proba(frame) == search.predict_proba(frame)).all()
    assert clone(found).get_params() == found.get_params()


@pytest.mark.parametrize("decision", ["expected-f1", "tuned-threshold", "label-thresholds"])
def test_decisions(arrays: Arrays, fitted: MultiLabelCRFClassifier, decision: str) -> None:
    chosen = fitted.predict(arrays[0], decision=decision)
    assert chosen.shape == (150, 3)
    assert set(np.unique(chosen)) == {0, 1}


def test_costs_decide(arrays: Arrays, fitted: MultiLabelCRFClassifier) -> None:
    """A label is written where missing it is expected to cost more; a rule that is named wins."""
    features, targets = arrays
    dear = clone(fitted).set_params(costs={"sea": (1, 4), "*": (3, 1)})
    dear.fit(features, pd.DataFrame(targets, columns=["sea", "beach", "car"]))
    p = fitted.predict_proba(features)
    assert (dear.predict(features) == (p > [0.2, 0.75, 0.75])).all()
    assert (dear.predict(features, decision="threshold") == (p > 0.5)).all()
    assert (dear.predict(features) != (p > 0.5)).any()
    dear.set_params(costs={"sea": (1, 1), "*": (1, 1, 0.2)})
    chosen = dear.predict(features)
    is_open = (np.abs(p - 0.5) < 0.3) & [False, True, True]
    assert is_open.any() and (np.isnan(chosen) == is_open).all()
    assert (chosen[~is_open] == (p > 0.5)[~is_open]).all()
    assert dear.score(features, targets) == (chosen == targets).all(1).mean()
    alone = dear.independent_.set_params(costs={"*": (1, 9)})
    assert (alone.predict(features) == (alone.predict_proba(features) > 0.1)).all()


def test_costs_of_two_classes(arrays: Arrays) -> None:
    """Costs of one label by its number choose between two classes."""
    features, targets = arrays
    names = np.where(targets[:, 0] == 1, "yes", "no")
    fitted = MultiLabelCRFClassifier(**QUICK, costs={0: (1, 9)}).fit(features, names)
    expected = np.where(fitted.predict_proba(features)[:, 1] > 0.1, "yes", "no")
    assert (fitted.predict(features) == expected).all() and (expected != names).any()
    fitted.set_params(costs={"0": (1, 9, 0.1)})
    with pytest.raises(ValueError, match="classes of one dimension are never left open"):
        fitted.predict(features)


@pytest.mark.parametrize(
    ("changed", "targets", "message"),
    [
        ({}, [[0, 2]] * 4, "expected 0, 1 or NaN .unknown., got 2 in row 0 of label '1'"),
        ({}, [[0, np.nan]] * 4, "label '1' is unknown in every row; leave it out"),
        ({}, [[0, 1]] * 3, "X has 4 rows and Y has 3"),
        ({}, [0, 1, 2, 2], "Only binary classification"),
        (
            {"features": "rbff"},
            [[0, 1]] * 4,
            "features: expected one of linear, rbf, forest, got 'rbff'",
        ),
        ({"structure": "treee"}, [[0, 1]] * 4, "setting structure: .* did you mean 'tree'"),
        ({"n_components": 0}, [[0, 1]] * 4, "n_components: expected a number from 1, got 0"),
        ({"gamma": -1.0}, [[0, 1]] * 4, "gamma: expected a number from 0, got -1.0"),
        ({}, pd.DataFrame([[0, 1]] * 4, columns=["a", "a"]), "label 'a' has several columns"),
        ({"settings": {"objectiv": 1}}, [[0, 1]] * 4, "unknown setting 'objectiv'"),
        ({"k": 3, "decision": "top-k"}, [[0, 1], [1, 0]] * 2, "k"),
        ({"costs": {"2": (1, 1), "*": (1, 1)}}, [[0, 1], [1, 0]] * 2, "costs: unknown label '2'"),
        ({"costs": {"1": (1, 1)}}, [[0, 1], [1, 0]] * 2, "has no costs of '0'"),
        ({"costs": {"*": 1}}, [[0, 1], [1, 0]] * 2, "costs: '.': expected .false, missed."),
        ({"costs": {"*": (1, "x")}}, [[0, 1], [1, 0]] * 2, "costs: '.': expected .false, missed."),
        (
            {"costs": {"*": (1, -1)}},
            [[0, 1], [1, 0]] * 2,
            "costs: missed of '0': expected a number",
        ),
        (
            {"costs": {"*": (1, 1)}, "decision": "map"},
            [[0, 1], [1, 0]] * 2,
            "decision map: costs have a rule of their own",
        ),
    ],
)
def test_refuses(changed: dict[str, Any], targets: Any, message: str) -> None:
    features = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match=message):
        MultiLabelCRFClassifier(**QUICK | changed).fit(features, targets).predict(features)


def test_held_out_rows_are_not_known_by_heart() -> None:
    """With more features than rows, labels that are random cost what random labels do."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 200)).astype(np.float32)
    targets = rng.integers(0, 2, (60, 4))
    targets[:, 1] = targets[:, 0]
    for schedule in ("joint", "stacked"):
        settings = {"schedule": schedule, "structure_weights": (1.0,)}
        fitted = MultiLabelCRFClassifier(
            penalties=(1e-6,), pairwise_penalties=(0.01,), settings=settings
        ).fit(features, targets)
        assert fitted.independent_.held_out_loss_ > 4 * np.log(2) - 0.2
        assert fitted.held_out_loss_ > 3 * np.log(2) - 0.2


def test_kernel_of_many_labels() -> None:
    """Beyond exact inference couplings are stacked, and the kernel is chosen by baselines."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3))
    targets = (features[:, :1] + rng.normal(size=(80, 30)) > 0.5).astype(int)
    quick = {"penalties": (0.3,), "pairwise_penalties": (0.3,)}
    fitted = MultiLabelCRFClassifier(features="rbf", structure="tree", **quick).fit(
        features, targets
    )
    assert fitted.settings_.schedule == "auto"  # a tree is exact
    fitted = MultiLabelCRFClassifier(features="rbf", **quick).fit(features, targets)
    assert fitted.settings_.schedule == "stacked"
    assert fitted.predict_proba(features).shape == (80, 30)


def test_log_odds_of_a_forest_are_of_trees_that_saw_not_the_row() -> None:
    """Random labels stay random on training rows, where all trees together know them by heart."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 6)).astype(np.float32)
    targets = rng.integers(0, 2, (80, 3)).astype(np.int8)
    forest = ForestLogOdds(0)
    left_out, by_all = forest.fit_transform(rows, targets), forest.transform(rows)
    signs = 2 * targets - 1
    assert ((signs * left_out) > 0).mean() < 0.6
    assert ((signs * by_all) > 0).mean() > 0.8
    assert left_out.shape == by_all.shape == (80, 3)
    fitted = MultiLabelCRFClassifier(**QUICK, features="forest").fit(rows, targets)
    assert fitted.independent_.held_out_loss_ > 3 * np.log(2) - 0.1


def test_a_forest_of_labels_that_are_partly_known() -> None:
    """Labels have forests of their known rows; one known row, or one value, is no failure."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 4)).astype(np.float32)
    targets = (rows[:, :3] > 0).astype(np.int8)
    targets[:, 2] = 1
    partly = targets.copy()
    partly[::2, 1] = -1
    partly[1:, 2] = -1
    found = ForestLogOdds(0).fit_transform(rows, partly)
    assert ((found[:, :2] > 0) == (targets[:, :2] == 1)).mean() > 0.9
    assert (found[:, 2] == 0).all(), "known in one row"
    alone = ForestLogOdds(0).fit_transform(rows[1::2], targets[1::2, 1:2])
    np.testing.assert_allclose(found[1::2, 1:2], alone)
    constant = ForestLogOdds(0).fit_transform(rows, np.ones((120, 1), dtype=np.int8))
    assert (constant > 4).all()
