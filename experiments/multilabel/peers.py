"""Multi-label methods of scikit-learn, with probabilities of single labels and of whole sets."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.multioutput import ClassifierChain
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]

FOLDS = 5
_PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # C of scikit-learn
_CHAINS = 10
_FEWER_PENALTIES = (0.001, 0.01, 0.1)  # of sets with many labels
_FEWER_CHAINS, _FEWER_TREES = 3, 100


@dataclass(frozen=True)
class Answer:
    """Answers of a method on rows.

    Attributes:
        marginals: P(y_i = 1 | x), (N, L).
        sets: label sets (N, L).
        nll: -log P(Y | x) of the true label sets (N,).
    """

    marginals: Floats
    sets: Labels
    nll: Floats


class Method(ABC):
    """A method with its candidates of settings; fitted by `fit`."""

    candidates: Sequence[dict[str, Any]]
    folds = FOLDS  # of five, that are predicted to choose a candidate

    @abstractmethod
    def fit(self, features: Floats, targets: Labels, **setting: Any) -> None: ...

    @abstractmethod
    def answer(self, features: Floats, targets: Labels) -> Answer: ...

    def tune(self, features: Floats, targets: Labels, *, seed: int) -> dict[str, Any]:
        """Return the candidate of least -log P(Y | x) by cross-validation, and fit it to all."""
        losses = []
        for setting in self.candidates if len(self.candidates) > 1 else ():
            total = 0.0
            for learned, held_out in islice(_folds(len(features), seed), self.folds):
                self.fit(features[learned], targets[learned], **setting)
                total += self.answer(features[held_out], targets[held_out]).nll.sum()
            losses.append(total)
        best = self.candidates[int(np.argmin(losses)) if losses else 0]
        self.fit(features, targets, **best)
        return best


def _folds(count: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    yield from KFold(FOLDS, shuffle=True, random_state=seed).split(np.zeros(count))


class _Logistic(LogisticRegression):  # type: ignore[misc]
    """Logistic regression that also takes a label that every row has, or none."""

    def fit(self, X: Floats, y: Any, sample_weight: Any = None) -> "_Logistic":  # noqa: N803
        if len(np.unique(y)) > 1:
            super().fit(X, y, sample_weight)
            return self
        share = (np.sum(y) + 0.5) / (len(y) + 1)
        self.classes_ = np.array([0, 1])
        self.coef_ = np.zeros((1, X.shape[1]))
        self.intercept_ = np.array([np.log(share / (1 - share))])
        self.n_features_in_ = X.shape[1]
        return self


class _OnStandardised(Method):
    """A method of standardised features."""

    def fit(self, features: Floats, targets: Labels, **setting: Any) -> None:
        self._scaler = StandardScaler().fit(features)
        self._fit(self._scaler.transform(features), targets, **setting)

    def answer(self, features: Floats, targets: Labels) -> Answer:
        return self._answer(self._scaler.transform(features), targets)

    @abstractmethod
    def _fit(self, features: Floats, targets: Labels, **setting: Any) -> None: ...

    @abstractmethod
    def _answer(self, features: Floats, targets: Labels) -> Answer: ...


class Independent(_OnStandardised):
    """A logistic regression for each label."""

    candidates = tuple({"C": C} for C in _PENALTIES)

    def _fit(self, features: Floats, targets: Labels, **setting: Any) -> None:
        self._models = [
            _Logistic(max_iter=2000, **setting).fit(features, column) for column in targets.T
        ]

    def _answer(self, features: Floats, targets: Labels) -> Answer:
        p = np.stack([one.predict_proba(features)[:, 1] for one in self._models], 1)
        return _if_independent(p, targets)


class Chain(_OnStandardised):
    """A chain of logistic regressions in the order of the labels, or the mean of several chains."""

    candidates = tuple({"C": C} for C in _PENALTIES)

    def __init__(self, orders: int = 0, seed: int = 0) -> None:
        self._orders: list[Any] = [None]
        if orders:
            self._orders = ["random"] * orders
            self.candidates = tuple({"C": C} for C in _PENALTIES[::2])
        self._seed = seed

    def _fit(self, features: Floats, targets: Labels, **setting: Any) -> None:
        self._chains = [
            ClassifierChain(
                _Logistic(max_iter=2000, **setting), order=order, random_state=self._seed + number
            ).fit(features, targets)
            for number, order in enumerate(self._orders)
        ]

    def _answer(self, features: Floats, targets: Labels) -> Answer:
        marginals = np.mean([chain.predict_proba(features) for chain in self._chains], 0)
        joint = np.stack([_log_joint(chain, features, targets) for chain in self._chains])
        nll = np.log(len(joint)) - np.logaddexp.reduce(joint, 0)
        sets = (marginals >= 0.5).astype(np.int8)
        if len(self._chains) == 1:
            sets = self._chains[0].predict(features).astype(np.int8)
        return Answer(marginals, sets, nll)


def _log_joint(chain: ClassifierChain, features: Floats, targets: Labels) -> Floats:
    """Return log P(Y | x) of a chain: each label given the true ones before it."""
    ordered = targets[:, chain.order_]
    total = np.zeros(len(targets))
    for place, model in enumerate(chain.estimators_):
        p = model.predict_proba(np.hstack([features, ordered[:, :place]]))[:, 1]
        total += np.log(np.where(ordered[:, place] == 1, p, 1 - p))
    return total


class Forest(Method):
    """A random forest of all labels at once."""

    candidates = tuple({"min_samples_leaf": leaf} for leaf in (1, 2, 5))

    def __init__(self, seed: int = 0, trees: int = 300) -> None:
        self._seed, self._trees = seed, trees

    def fit(self, features: Floats, targets: Labels, **setting: Any) -> None:
        forest = RandomForestClassifier(self._trees, random_state=self._seed, **setting)
        self._forest = forest.fit(features, targets)

    def answer(self, features: Floats, targets: Labels) -> Answer:
        return _if_independent(_present(self._forest, features, self._trees), targets)


class Neighbours(_OnStandardised):
    """The k nearest rows."""

    candidates = tuple(
        {"n_neighbors": k, "weights": weights}
        for k in (3, 5, 10, 20, 40)
        for weights in ("uniform", "distance")
    )

    def _fit(self, features: Floats, targets: Labels, **setting: Any) -> None:
        count = setting["n_neighbors"] = min(setting["n_neighbors"], len(features))
        self._count = count
        self._model = KNeighborsClassifier(**setting).fit(features, targets)

    def _answer(self, features: Floats, targets: Labels) -> Answer:
        return _if_independent(_present(self._model, features, self._count), targets)


def _present(model: Any, features: Floats, votes: int) -> Floats:
    """Return P(y_i = 1 | x) from votes, with half a vote for either answer."""
    columns = []
    probabilities = model.predict_proba(features)
    probabilities = probabilities if isinstance(probabilities, list) else [probabilities]
    classes = model.classes_ if isinstance(model.classes_, list) else [model.classes_]
    for found, known in zip(probabilities, classes, strict=True):
        has = np.flatnonzero(np.asarray(known) == 1)
        columns.append(found[:, has[0]] if len(has) else np.zeros(len(found)))
    return (np.stack(columns, 1) * votes + 0.5) / (votes + 1)


def _if_independent(p: Floats, targets: Labels) -> Answer:
    of_truth = np.where(targets == 1, p, 1 - p)
    return Answer(p, (p >= 0.5).astype(np.int8), -np.log(of_truth).sum(1))


def peers(seed: int, *, quick: bool, many: bool = False) -> dict[str, Method]:
    """Return the methods by name.

    Args:
        many: the set has hundreds of labels: tune each method by one of the five folds and fewer
            penalties, with fewer chains and trees.
    """
    chains, trees = (_FEWER_CHAINS, _FEWER_TREES) if many else (_CHAINS, 300)
    methods: dict[str, Method] = {
        "independent logistic regression": Independent(),
        "classifier chain": Chain(),
        "ensemble of chains": Chain(2 if quick else chains, seed),
        "random forest": Forest(seed, 30 if quick else trees),
        "nearest neighbours": Neighbours(),
    }
    for method in methods.values() if many else ():
        method.folds = 1
        if isinstance(method, Independent | Chain):
            method.candidates = tuple({"C": C} for C in _FEWER_PENALTIES)
    return methods
