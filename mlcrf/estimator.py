"""The CRF over label sets as an estimator of scikit-learn, on features of one's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor

from mlcrf.choices import Decision, InferenceName, Schedule, Structure
from mlcrf.config import TrainSettings, make_settings
from mlcrf.crf import Potentials
from mlcrf.data.splits import draw_validation
from mlcrf.decoding import Costs, Decoder, DrawsLabels
from mlcrf.derived_features import DerivedFeatures, ForestLogOdds, Unaries, choose_kernel
from mlcrf.errors import MlcrfError
from mlcrf.estimator_inputs import (
    REAL,
    as_dense,
    as_single,
    by_name,
    names_of,
    read_classes,
    read_targets,
    shift_of,
    without_na,
)
from mlcrf.hints import choose
from mlcrf.inference import Independent, InferenceMethod, Posterior, log_mass
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.reports.correlations import couplings
from mlcrf.reports.heatmap import Panel, make_figure
from mlcrf.reports.label_order import order_labels
from mlcrf.rules import Rules
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.fitting import fit_baseline, fit_features
from mlcrf.training.plan import plan_training

Floats = NDArray[np.float64]

_AT_ONCE = 4096  # rows per batch of inference
_ENOUGH = 4000  # rows, of which a tenth is enough to choose penalties on


class MultiLabelCRFClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A CRF over label sets, fitted and inferred exactly where the number of labels permits.

        p(y | x) = exp( sum_i unary_i(x) y_i + sum_{i<j} pairwise_ij y_i y_j ) / Z(x)

    The fit is that of `mlcrf train`. With fewer than 4,000 rows penalties are chosen by five-fold
    cross-validation, else on a tenth of the rows; the choice is fitted on all rows.

    Args:
        features: unaries are linear in the features (`linear`), in a Nystroem approximation of the
            RBF kernel of the standardised features (`rbf`), or in the log-odds of all labels by a
            random forest (`forest`), for training rows by the trees that have not seen them. All
            problems are convex.
        gamma: of the RBF kernel, for standardised features; None chooses by cross-validation among
            a quarter of, once and four times the inverse of the median squared distance.
        n_components: number of features that approximate the kernel; None is one per row, at most
            500.
        hidden_units, dropout: unaries have a hidden layer, the mean of several networks trained
            with dropout, in place of a linear function. Not convex.
        structure: pairs of labels with a coupling: `auto`, `full`, `tree`, `sparse` or
            `independent`.
        decision: rule of `predict`, one of `mlcrf.choices.Decision`: `threshold` (0.5, fewest wrong
            labels), `map` (the most probable set), `expected-f1`, and others.
        k: number of labels of each row for `top-k` and `f1-of-means`.
        costs: what mistakes cost, by label: (false, missed), or (false, missed, abstain) where a
            label may be left open; `*` stands for all that are not named. `predict` then gives the
            label set of least expected cost, which is a rule of its own beside the default one.
        penalties, pairwise_penalties: L2 penalties of weights and of couplings to choose from; None
            for those of `mlcrf train`. A single one, a number or a list of it, is used as it is.
        settings: other settings of `mlcrf train` by name, such as `objective`; see
            `mlcrf.TrainSettings`.
        random_state: of folds, kernel, forest and hidden units.

    Attributes:
        labels_: names of the labels: columns of Y if it was a DataFrame, else their numbers.
        classes_: [0, 1] for each label (L, 2); the classes if Y was of one dimension.
        coupling_: learned couplings, as a symmetric DataFrame; above 0 attracts.
        independent_: the independent baseline, the same features fitted as carefully without
            couplings; a fitted estimator of this class.
        held_out_loss_: -log P(Y | x) per row, on rows of which the model had not seen the labels.
        settings_: settings of the fit.
        shift_: what is subtracted of each feature (D,), see `fit`.
        derived_: the fitted function of `rbf` and `forest`, with `transform`; None for others.

    `predict_proba` and `predict_log_proba` return one array (N, L) of P(y_i = 1 | x), those of
    `MultiOutputClassifier` a list with an array (N, 2) for each label.

    Beyond exact inference (24 labels in a full graph) answers are estimates, see
    docs/big-labels.md.

    If Y was of one dimension, so are predictions, and `predict_proba` returns a column for each
    class, as scikit-learn's binary classifiers do.
    """

    def __init__(
        self,
        *,
        features: str = "linear",
        gamma: float | None = None,
        n_components: int | None = None,
        hidden_units: int = 0,
        dropout: float = 0.0,
        structure: str = "auto",
        decision: str = "threshold",
        k: int | None = None,
        costs: Mapping[str, Sequence[float | None]] | None = None,
        penalties: Sequence[float] | None = None,
        pairwise_penalties: Sequence[float] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.features = features
        self.gamma = gamma
        self.n_components = n_components
        self.hidden_units = hidden_units
        self.dropout = dropout
        self.structure = structure
        self.decision = decision
        self.k = k
        self.costs = costs
        self.penalties = penalties
        self.pairwise_penalties = pairwise_penalties
        self.settings = settings
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: ArrayLike, Y: Any) -> Self:  # noqa: N803
        """Fit the CRF and the independent baseline.

        Args:
            X: features (N, D), dense or sparse; sparse ones are made dense. Numbers of 64 bits are
                centred where those of 32 bits, which the model computes with, would lose them.
            Y: 1 present, 0 absent, NaN or NA unknown (N, L): an array, a DataFrame or a sparse
                matrix.
                Two classes of any kind (N,) are one label, as other classifiers take them.
        """
        if Y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        names = names_of(Y) if isinstance(Y, pd.DataFrame) else None
        exact = as_dense(
            validate_data(self, X, accept_sparse="csr", dtype=REAL, ensure_min_samples=2)
        )
        self.shift_ = shift_of(exact)
        rows = as_single(exact, self.shift_)
        given = Y if sparse.issparse(Y) else np.asarray(without_na(Y))
        self.classes_: NDArray[Any]
        if given.ndim == 1:
            self.classes_, targets = read_classes(given)
            check_consistent_length(rows, targets)
        else:
            targets = read_targets(given, names, len(rows))
            self.classes_ = np.tile([0, 1], (targets.shape[1], 1))
        self.labels_ = np.array(names or [str(at) for at in range(targets.shape[1])], dtype=object)
        for name, known in zip(self.labels_, (targets != UNKNOWN).any(0), strict=True):
            if not known:
                raise ValueError(f"label {name!r} is unknown in every row; leave it out")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with _errors_of_values():
            self.settings_ = self._make_settings(targets, seed)
            features, self.derived_ = self._derive(rows, targets)
            train, validation = self._split(features, targets)
            models = fit_features(train, validation, _numbered(targets), self.settings_)
        self._keep(models.crf, models.plan.inference, models.decoders["crf"])
        self.independent_ = clone(self).set_params(structure="independent")
        for name in ("labels_", "classes_", "settings_", "derived_", "shift_", "n_features_in_"):
            setattr(self.independent_, name, getattr(self, name))
        if hasattr(self, "feature_names_in_"):
            self.independent_.feature_names_in_ = self.feature_names_in_
        self.independent_._keep(
            models.independent, InferenceName.AUTO, models.decoders["independent"]
        )
        return self

    def predict(self, X: ArrayLike, *, decision: str | None = None) -> NDArray[Any]:  # noqa: N803
        """Return label sets, 0 or 1 (N, L); NaN where `costs` leave a label open.

        Args:
            decision: a rule in place of the estimator's, and of its costs.
        """
        features = self._read_features(X)
        with _errors_of_values():
            decoder = self._make_decoder(decision)
            # rules that choose for all rows together need all at once
            parts = [
                decoder(posterior, potentials, self._method)
                for potentials, posterior in self._infer(features, at_once=len(features))
            ]
        chosen: NDArray[np.int64] = torch.cat(parts).numpy().astype(np.int64)
        if decoder.abstains:
            return np.where(chosen == UNKNOWN, np.nan, chosen)
        return self.classes_[chosen[:, 0]] if self._is_single else chosen

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return the marginals P(y_i = 1 | x), (N, L)."""
        marginals = self._marginals(self._read_features(X))
        if not self._is_single:
            return marginals
        return (
            np.hstack([1 - marginals, marginals]) if len(self.classes_) > 1 else 1 + 0 * marginals
        )

    def predict_log_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return log P(y_i = 1 | x), (N, L)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    @torch.no_grad()
    def predict_joint_proba(self, X: ArrayLike, Y: ArrayLike) -> Floats:  # noqa: N803
        """Return the probability of a whole label set for each row (N,); unknown labels sum out.

        Args:
            Y: 1, 0 or NaN (N, L), or one label set (L,) for all rows.
        """
        features = self._read_features(X)
        known = self._read_known(Y, len(features))
        parts = []
        for rows in _batches(len(features)):
            (potentials, posterior), *_ = self._infer(features[rows])
            mass = log_mass(self._method, potentials, known[rows])
            parts.append((mass - posterior.log_partition).double().exp().clamp(max=1))
        joint: Floats = torch.cat(parts).numpy()
        return joint

    def score(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the share of label sets that `predict` gets wholly right (subset accuracy).

        Labels that are NaN in y are left out; those that `costs` leave open are not right.
        """
        predicted = self.predict(X)
        given = self._read_known(y, len(predicted))
        chosen = self._read_known(predicted, len(predicted))
        right = ((chosen == given) | (given == UNKNOWN)).all(1).numpy()
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        return float(np.average(right, weights=weights))

    def sample(
        self,
        X: ArrayLike,  # noqa: N803
        n: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[np.int64]:
        """Draw n label sets for each row, 0 or 1 (n, N, L)."""
        if n < 1:
            raise ValueError(f"n: expected a whole number from 1, got {n!r}")
        features = self._read_features(X)
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        generator, parts = torch.Generator().manual_seed(seed), []
        for potentials, posterior in self._infer(features):
            if isinstance(self._method, DrawsLabels):
                parts.append(self._method.sample(potentials, n, generator))
            elif posterior.samples is not None:
                chosen = torch.randint(len(posterior.samples), (n,), generator=generator)
                parts.append(posterior.samples[chosen])
            elif isinstance(self._method, Independent):
                many = posterior.marginals.expand(n, -1, -1)
                parts.append(many.bernoulli(generator=generator).byte())
            else:
                raise ValueError(f"inference {self._method.name} draws no label sets; use gibbs")
        drawn: NDArray[np.int64] = torch.cat(parts, 1).numpy().astype(np.int64)
        return drawn

    def condition(self, X: ArrayLike, known: ArrayLike) -> Floats:  # noqa: N803
        """Return the marginals (N, L) given labels that are known.

        Args:
            known: 1, 0 or NaN for unknown (N, L), or (L,) for all rows; a DataFrame, a Series with
                names and a mapping may have only some labels.
        """
        features = self._read_features(X)
        return self._marginals(features, self._read_known(known, len(features)))

    @property
    def _is_single(self) -> bool:
        return self.classes_.ndim == 1

    @property
    def coupling_(self) -> pd.DataFrame:
        check_is_fitted(self, "_model")
        matrix = self._model.pairwise_matrix().double().numpy()
        return pd.DataFrame(matrix, index=self.labels_, columns=self.labels_)

    def plot_correlations(self) -> Figure:
        """Draw the couplings as a heatmap, labels that attract each other side by side."""
        check_is_fitted(self, "_model")
        order = order_labels(*couplings(self._model), len(self.labels_))
        return make_figure(
            list(self.labels_), [Panel.from_model("learned couplings", self._model)], order
        )

    def _make_settings(self, targets: NDArray[np.int8], seed: int) -> TrainSettings:
        """Return the settings of the fit; where rows are few, with penalties by cross-validation.

        What is learned on so few rows is judged by the likelihood of whole sets.
        """
        if self.features not in set(Unaries):
            raise ValueError(f"features: {choose(self.features, Unaries)}")
        given: dict[str, Any] = {
            "penalties": self.penalties,
            "pairwise_penalties": self.pairwise_penalties,
        }
        given = {name: tuple(np.atleast_1d(one)) for name, one in given.items() if one is not None}
        for name, least in (("n_components", 1), ("k", 1), ("gamma", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name}: expected a number from {least}, got {value!r}")
        given |= {name: getattr(self, name) for name in ("hidden_units", "dropout", "structure")}
        settings = make_settings(**{"seed": seed} | given | dict(self.settings or {}))
        is_convex = settings.hidden_units == 0 or settings.dropout > 0
        if targets.shape[1] == 1:  # no pairs
            settings = settings.model_copy(update={"structure": Structure.INDEPENDENT})
        if len(targets) >= _ENOUGH or not is_convex:
            return settings
        exact = plan_training(settings, _numbered(targets), targets, Rules()).exact
        alone = settings.structure is Structure.INDEPENDENT
        automatic: dict[str, Any] = {"cross_validation": True, "joint_share": 1.0}
        if exact is None and not alone:
            automatic["schedule"] = Schedule.STACKED
        return settings.model_copy(
            update={
                name: value
                for name, value in automatic.items()
                if name not in settings.model_fields_set
            }
        )

    def _derive(
        self, rows: NDArray[np.float32], targets: NDArray[np.int8]
    ) -> tuple[NDArray[np.float32], DerivedFeatures | None]:
        """Return the features of the training rows, and the fitted function that gave them."""
        match Unaries(self.features):
            case Unaries.LINEAR:
                return rows, None
            case Unaries.FOREST:
                forest = ForestLogOdds(self.settings_.seed)
                return forest.fit_transform(rows, targets).astype(np.float32), forest
            case Unaries.RBF:

                def loss(mapped: NDArray[np.float32]) -> float:
                    parts = self._split(mapped, targets)
                    return fit_baseline(*parts, _numbered(targets), self.settings_).score

                kernel = choose_kernel(
                    rows,
                    loss,
                    gamma=self.gamma,
                    n_components=self.n_components,
                    seed=self.settings_.seed,
                )
                return kernel.transform(rows).astype(np.float32), kernel

    def _split(
        self, features: NDArray[np.float32], targets: NDArray[np.int8]
    ) -> tuple[Examples, Examples]:
        """Return training and validation rows; no validation rows if penalties are by folds."""
        chosen = np.zeros(len(targets), dtype=bool)
        if not self.settings_.cross_validation:
            chosen = draw_validation(targets, seed=self.settings_.seed)
        everything = Examples(features, targets)
        return everything.rows(~chosen), everything.rows(chosen)

    def _keep(
        self, fitted: Fitted, inference: InferenceName, decoders: tuple[Decoder, ...]
    ) -> None:
        self._model, self._decoders = fitted.model, decoders
        self.held_out_loss_ = fitted.score
        self._method: InferenceMethod = fitted.model.make_inference(inference, self.settings_)

    def _map(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.derived_ is None:
            return features
        mapped: NDArray[np.float32] = self.derived_.transform(features).astype(np.float32)
        return mapped

    def _read_features(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        check_is_fitted(self, "_model")
        exact = validate_data(self, X, accept_sparse="csr", dtype=REAL, reset=False)
        return self._map(as_single(as_dense(exact), self.shift_))

    def _read_known(self, given: ArrayLike, count: int) -> Tensor:
        """Return label values as 1, 0 and -1 (N, L)."""
        named = by_name(given, count, is_single=self._is_single)
        if named is not None:
            given = named.set_axis(names_of(named), axis=1)
            others = [one for one in given.columns if one not in set(self.labels_)]
            if others:
                raise ValueError(f"unknown label {others[0]!r}; labels are {list(self.labels_)}")
            given = without_na(given.reindex(columns=list(self.labels_)))
        elif not sparse.issparse(given):
            values = np.asarray(given)
            if self._is_single and values.ndim == 1:
                values = (values == self.classes_[-1])[:, None] & (len(self.classes_) > 1)
            if values.ndim == 1 and len(values) == len(self.labels_):
                values = np.broadcast_to(values, (count, len(values)))
            given = values
        known = read_targets(given, list(self.labels_), count)
        if known.shape[1] != len(self.labels_):
            raise ValueError(f"expected {len(self.labels_)} labels, got {known.shape[1]}")
        return torch.from_numpy(known).long()

    @torch.no_grad()
    def _infer(
        self,
        features: NDArray[np.float32],
        known: Tensor | None = None,
        at_once: int = _AT_ONCE,
    ) -> Iterator[tuple[Potentials, Posterior]]:
        for rows in _batches(len(features), at_once):
            potentials: Potentials = self._model(torch.from_numpy(features[rows]))
            told = None if known is None else known[rows]
            yield potentials, self._method(potentials, known=told)

    def _marginals(self, features: NDArray[np.float32], known: Tensor | None = None) -> Floats:
        parts = [posterior.marginals for _, posterior in self._infer(features, known)]
        marginals: Floats = torch.cat(parts).double().numpy()
        return marginals

    def _make_decoder(self, given: str | None) -> Decoder:
        name = self.decision if given is None else given
        if name not in set(Decision):
            raise ValueError(f"decision: {choose(name, Decision)}")
        rule = Decision(name)
        if self.costs is not None and given is None:
            return Decoder(rule, costs=self._make_costs(self.costs))
        rarity = None if rule is Decision.TOP_K else 0.0
        decoder = Decoder(rule, k=self.k if rule.has_k else None, rarity=rarity)
        for tuned in self._decoders:
            if not decoder.is_ready and tuned.rule is rule:
                decoder = decoder.filled_in(tuned)
        return decoder

    def _make_costs(self, given: Mapping[str, Sequence[float | None]]) -> Costs:
        by_name = {str(label): row for label, row in given.items()}
        costs = Costs.of(by_name, self.labels_.tolist())
        if self._is_single and costs.abstains:
            raise ValueError(
                "costs: classes of one dimension are never left open; leave out abstain"
            )
        return costs


def _numbered(targets: NDArray[np.int8]) -> LabelSpace:
    """Return numbers as label names, which unlike names of the user's are always valid."""
    return LabelSpace(tuple(str(at) for at in range(targets.shape[1])))


def _batches(count: int, at_once: int = _AT_ONCE) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, count, at_once)]


@contextmanager
def _errors_of_values() -> Iterator[None]:
    """Raise what the package says of wrong values as ValueError, as scikit-learn does."""
    try:
        yield
    except MlcrfError as error:
        raise ValueError(str(error)) from error
