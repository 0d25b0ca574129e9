"""The decision rules: how probabilities become labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, assert_never

import torch
from pydantic import ConfigDict
from torch import Tensor

from mlcrf.choices import MOST_RARITY, Decision, PrecisionOf
from mlcrf.crf import Potentials, check_known
from mlcrf.decoding.admissible import Admissible
from mlcrf.decoding.beliefs import Beliefs
from mlcrf.decoding.costs import Costs, minimise_expected_cost
from mlcrf.decoding.counts import empty_probability
from mlcrf.decoding.expected_f1 import maximise_expected_f1
from mlcrf.decoding.expected_jaccard import maximise_expected_jaccard
from mlcrf.decoding.f1_of_means import maximise_f1_of_means
from mlcrf.decoding.guarantees import (
    LEFT_OUT,
    Guarantee,
    label_thresholds,
    pooled_threshold,
    scores_within_rules,
)
from mlcrf.decoding.rarity import scores_by_rarity, tune_rarity
from mlcrf.decoding.thresholds import tune_label_thresholds, tune_threshold
from mlcrf.errors import SettingsError
from mlcrf.inference import InferenceMethod, Posterior
from mlcrf.rules import Rules


@dataclass(frozen=True)
class Decoder:
    """A decision rule that chooses the label sets of N images.

        THRESHOLD          every label with P(y_i = 1) > threshold; 0.5 minimises the expected
                           number of wrong labels
        TUNED_THRESHOLD    the same, the threshold tuned on data; see `tune`
        LABEL_THRESHOLDS   the same, one tuned threshold per label
        MAP                the most probable set; minimises the chance of any error
        EXPECTED_F1        highest expected F1; see `maximise_expected_f1`
        EXPECTED_JACCARD   highest expected Jaccard index; see `maximise_expected_jaccard`
        TOP_K              exactly the k labels of highest marginal; a `rarity` above 0 ranks rare
                           labels higher, see `scores_by_rarity`
        F1_OF_MEANS        exactly k labels, chosen for all N images together, so that an image
                           alone may have others; see `maximise_f1_of_means`

    `at_least` and `at_most` limit the number of labels. The two maximisers choose among the sets of
    allowed size. With other rules, labels of highest marginal are kept or added until the size is
    allowed; after MAP this may not be the most probable set of its size. Known labels keep their
    value under every rule, a chosen label brings the labels that it implies, and known labels win
    over limits.

    Expected F1 is exact where the inference has count marginals (`CountsLabels`); else the
    expectation is an average over the samples of the posterior, or over samples that the
    inference draws (`DrawsLabels`); without samples, labels count as independent given their
    marginals, which is correct if nothing is coupled. Expected Jaccard is an average over
    samples in the same way; independent labels are drawn.

    With a `guarantee` the thresholds are those that calibration images support, see `calibrated`;
    a label whose threshold is 1 is never written, and what rules ask to be present is not added.

    With `costs` the decision is the one of least expected cost, which may leave labels open, see
    `minimise_expected_cost`; the rule is then THRESHOLD, as that of equal costs.

    Attributes:
        threshold: one, or one per label; None is 0.5 for THRESHOLD, and not tuned yet for others.
        k: for TOP_K and F1_OF_MEANS only.
        rarity: for TOP_K only; None is not tuned yet, see `tune_rarity`.
        frequencies: share of images with each label, above 0; rarity needs it.
        num_samples: number of samples drawn if the posterior has none.
        seed: random seed of the draws; the same seed and number of threads give the same bits.
        guarantee: precision or recall that the thresholds promise; see `promising`.
        costs: costs of wrong decisions.

    Raises:
        SettingsError: values that are out of range or do not belong to the rule.
    """

    # a misspelt key in a record must not be ignored
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rule: Decision = Decision.THRESHOLD
    threshold: float | tuple[float, ...] | None = None
    k: int | None = None
    rarity: float | None = 0.0
    frequencies: tuple[float, ...] | None = None
    at_least: int = 0
    at_most: int | None = None
    num_samples: int = 1000
    seed: int = 0
    guarantee: Guarantee | None = None
    costs: Costs | None = None

    @classmethod
    def promising(cls, guarantee: Guarantee) -> "Decoder":
        """Return the rule for a guarantee, whose thresholds are not known yet."""
        return cls(_rule_for(guarantee), guarantee=guarantee)

    def __post_init__(self) -> None:
        if self.threshold is not None:
            self._check_threshold(self.threshold)
        if (self.k is None) == self.rule.has_k:
            wanted = "expected a number k" if self.k is None else "takes no k; that is for top-k"
            raise SettingsError(f"decision {self.rule}: {wanted}, got {self.k}")
        if self.k is not None and (self.at_least or self.at_most is not None):
            raise SettingsError(f"decision {self.rule}: takes no limits, its number of labels is k")
        most = self.at_least if self.at_most is None else self.at_most
        if not 0 <= self.at_least <= most or (self.k or 0) < 0:
            raise SettingsError(
                f"decision {self.rule}: expected 0 <= at least <= at most and k >= 0, got "
                f"at least {self.at_least}, at most {self.at_most}, k {self.k}"
            )
        if self.rule is not Decision.TOP_K and (self.rarity != 0 or self.frequencies is not None):
            raise SettingsError(f"decision {self.rule}: takes no rarity; that is for top-k")
        if self.rarity is not None and not 0 <= self.rarity <= MOST_RARITY:
            raise SettingsError(
                f"decision top-k: expected a rarity from 0 to {MOST_RARITY}, got {self.rarity:g}"
            )
        if not all(0 < one <= 1 for one in self.frequencies or ()):
            raise SettingsError("decision top-k: expected frequencies above 0 and at most 1")
        if self.guarantee is not None and (
            self.rule is not _rule_for(self.guarantee)
            or self.at_least
            or (self.at_most is not None and self.threshold is None)
        ):
            raise SettingsError(
                f"decision {self.rule}: a guarantee has a rule of its own and takes no limits"
            )
        if self.costs is not None and (
            self.rule is not Decision.THRESHOLD
            or self.threshold is not None
            or self.guarantee is not None
        ):
            raise SettingsError(
                f"decision {self.rule}: costs have a rule of their own, and no threshold"
            )
        if self.num_samples < 1:
            raise SettingsError(f"num_samples: expected 1 or more, got {self.num_samples}")

    @torch.no_grad()
    def __call__(
        self,
        posterior: Posterior,
        potentials: Potentials,
        inference: InferenceMethod,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Choose label sets, int64 (N, L): 1 or 0, and by `costs` -1 for a label left open.

        Args:
            posterior: result of `inference` on `potentials` and `known`.
            known: 1, 0 or -1 for unknown (N, L).

        Raises:
            SettingsError: values are not tuned yet, or do not fit the number of labels.
            PotentialsError: see `check_known`.
        """
        self._check_labels(potentials.num_labels)
        given = check_known(potentials, known)
        marginals = scores = posterior.marginals.double()
        rules = potentials.rules
        if self.guarantee is not None:
            marginals = scores = scores_within_rules(marginals, rules)
            rules = rules.at_most
        admissible = Admissible(
            given,
            rules,
            self.at_least if self.k is None else self.k,
            self.at_most if self.k is None else self.k,
        )
        if self.costs is not None:
            return minimise_expected_cost(marginals, self.costs, admissible)[0]
        beliefs = Beliefs(posterior, potentials, inference, given, self.num_samples, self.seed)
        match self.rule:
            case Decision.THRESHOLD | Decision.TUNED_THRESHOLD | Decision.LABEL_THRESHOLDS:
                states = (marginals > marginals.new_tensor(self._threshold)).long()
            case Decision.MAP:
                states = inference.map_states(potentials, known=known)
            case Decision.TOP_K:
                states = torch.zeros_like(given)
                if self.rarity:
                    frequencies = marginals.new_tensor(self.frequencies)
                    scores = scores_by_rarity(marginals, frequencies, self.rarity)
            case Decision.F1_OF_MEANS:
                states, _ = maximise_f1_of_means(marginals, admissible)
            case Decision.EXPECTED_F1:
                states = torch.zeros_like(given)
                for rows, counts in beliefs.count_marginals():
                    states[rows], _ = maximise_expected_f1(
                        counts, empty_probability(counts), admissible.rows(rows)
                    )
            case Decision.EXPECTED_JACCARD:
                states = torch.zeros_like(given)
                for rows, samples in beliefs.samples():
                    states[rows], _ = maximise_expected_jaccard(
                        samples, marginals[rows], admissible.rows(rows)
                    )
            case _:
                assert_never(self.rule)
        return admissible.fit(states, scores)

    def tune(self, marginals: Tensor, targets: Tensor) -> "Decoder":
        """Return the rule with its values tuned on data, ignoring limits; other rules unchanged.

        One threshold maximises micro F1, thresholds by label macro F1, rarity the F1 of the means
        at k.

        Args:
            marginals: P(y_i = 1) (N, L).
            targets: 1, 0, or -1 for unknown (N, L).
        """
        if self.rule is Decision.TUNED_THRESHOLD:
            return replace(self, threshold=tune_threshold(marginals, targets))
        if self.rule is Decision.LABEL_THRESHOLDS:
            return replace(self, threshold=tune_label_thresholds(marginals, targets))
        if self.rarity is None:
            assert self.k is not None
            assert self.frequencies is not None
            frequencies = marginals.new_tensor(self.frequencies)
            return replace(self, rarity=tune_rarity(marginals, targets, frequencies, self.k))
        return self

    def tuned_again(self, marginals: Tensor, targets: Tensor) -> "Decoder":
        """Return a tuned rule with its values tuned on other data; see `tune`."""
        untuned = replace(self, rarity=None) if self.rule is Decision.TOP_K else self
        return untuned.tune(marginals, targets)

    def calibrated(
        self, marginals: Tensor, targets: Tensor, rules: Rules, calibration: str
    ) -> "Decoder":
        """Return the rule with the thresholds of its guarantee.

        Args:
            marginals: P(y_i = 1) of calibration images (N, L).
            targets: 1, 0, or -1 for unknown (N, L).
            calibration: name of the calibration images.
        """
        assert self.guarantee is not None
        scores = scores_within_rules(marginals, rules)
        named = replace(self, guarantee=replace(self.guarantee, calibration=calibration))
        if self.guarantee.of is PrecisionOf.ALL:
            threshold, at_most = pooled_threshold(self.guarantee, scores, targets)
            return replace(named, threshold=threshold, at_most=at_most)
        thresholds = label_thresholds(self.guarantee, scores, targets, rules)
        return replace(named, threshold=thresholds)

    def left_out(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels that are never written, because the guarantee is not supported."""
        if self.guarantee is None or self.threshold is None:
            return ()
        by_label = self.threshold
        if not isinstance(by_label, tuple):
            by_label = (by_label,) * len(labels)
        return tuple(name for name, one in zip(labels, by_label, strict=True) if one == LEFT_OUT)

    def best(self, k: int) -> "Decoder":
        """Return the decoder that chooses exactly k labels, by this one's rule if it has a k."""
        if self.rule.has_k:
            return replace(self, k=k)
        return Decoder(Decision.TOP_K, k=k)

    @property
    def is_ready(self) -> bool:
        """Return whether nothing is left to be tuned, or to be filled in from a run."""
        if self.rule is Decision.TOP_K:
            return self.rarity == 0 or (self.rarity is not None and self.frequencies is not None)
        return self.rule not in _TUNED or self.threshold is not None

    def filled_in(self, tuned: "Decoder") -> "Decoder":
        """Return the decoder with what it lacks taken from a tuned decoder of the same rule."""
        if self.rule is Decision.TOP_K:
            rarity = tuned.rarity if self.rarity is None else self.rarity
            return replace(self, rarity=rarity, frequencies=tuned.frequencies)
        return replace(self, threshold=tuned.threshold)

    @property
    def abstains(self) -> bool:
        """Return whether labels may be left open."""
        return self.costs is not None and self.costs.abstains

    @property
    def signature(self) -> str:
        """The rule and all settings that are not the default, such as `map,at-most:3`.

        Thresholds and frequencies by label are left out; they are in the record.
        """
        given = [
            f",{item.name.replace('_', '-')}:{'auto' if value is None else format(value, '.6g')}"
            for item in fields(self)
            if item.name not in ("rule", "guarantee", "costs")
            and (value := getattr(self, item.name)) != item.default
            and not isinstance(value, tuple)
        ]
        promise = "" if self.guarantee is None else f",{self.guarantee}"
        rule = self.rule.value if self.costs is None else f"least-cost,{self.costs}"
        return rule + "".join(given) + promise

    def record(self) -> dict[str, Any]:
        """Return all settings as values that JSON can hold."""
        return asdict(self) | {
            "rule": self.rule.value,
            "threshold": list(self.threshold)
            if isinstance(self.threshold, tuple)
            else self.threshold,
            "frequencies": None if self.frequencies is None else list(self.frequencies),
        }

    @property
    def _threshold(self) -> float | tuple[float, ...]:
        return 0.5 if self.threshold is None else self.threshold

    def _check_threshold(self, threshold: float | tuple[float, ...]) -> None:
        expected = "no threshold"
        if self.rule in _THRESHOLDED:
            by_label = self.rule is Decision.LABEL_THRESHOLDS
            expected = f"{'one threshold per label' if by_label else 'one threshold'} from 0 to 1"
            values = threshold if isinstance(threshold, tuple) else (threshold,)
            if isinstance(threshold, tuple) == by_label and all(0 <= t <= 1 for t in values):
                return
        raise SettingsError(f"decision {self.rule}: expected {expected}, got {threshold}")

    def _check_labels(self, num_labels: int) -> None:
        if self.rarity != 0 and self.frequencies is None:
            raise SettingsError("decision top-k: rarity needs frequencies; give them, or rarity 0")
        if not self.is_ready:
            raise SettingsError(
                f"decision {self.rule}: not tuned yet; tune it on validation data, or use threshold"
            )
        by_label: dict[str, object] = {
            "thresholds": self.threshold,
            "frequencies": self.frequencies,
            "costs": None if self.costs is None else self.costs.labels,
        }
        for name, values in by_label.items():
            if isinstance(values, tuple) and len(values) != num_labels:
                raise SettingsError(
                    f"decision {self.rule}: expected {num_labels} {name}, got {len(values)}"
                )
        wanted = max(self.at_least, self.k or 0)
        if wanted > num_labels:
            raise SettingsError(
                f"decision {self.rule}: {wanted} labels asked for, expected at most {num_labels}"
            )


def _rule_for(guarantee: Guarantee) -> Decision:
    by_label = guarantee.of is PrecisionOf.LABEL
    return Decision.LABEL_THRESHOLDS if by_label else Decision.TUNED_THRESHOLD


_TUNED = (Decision.TUNED_THRESHOLD, Decision.LABEL_THRESHOLDS)
_THRESHOLDED = (Decision.THRESHOLD, *_TUNED)
