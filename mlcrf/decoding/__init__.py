"""Choose label sets from beliefs. The caller names the decision rule, and results record it."""

from mlcrf.decoding.admissible import Admissible
from mlcrf.decoding.beliefs import CountsLabels, DrawsLabels
from mlcrf.decoding.cost_files import load_costs
from mlcrf.decoding.costs import Costs, minimise_expected_cost
from mlcrf.decoding.counts import (
    count_marginals_from_samples,
    count_marginals_if_independent,
    empty_probability,
)
from mlcrf.decoding.coverage import Coverage, make_ranker, rank_targets
from mlcrf.decoding.decoder import Decoder
from mlcrf.decoding.expected_f1 import maximise_expected_f1
from mlcrf.decoding.expected_jaccard import maximise_expected_jaccard
from mlcrf.decoding.f1_of_means import maximise_f1_of_means
from mlcrf.decoding.guarantees import Guarantee
from mlcrf.decoding.rarity import estimate_frequencies, scores_by_rarity, tune_rarity
from mlcrf.decoding.thresholds import tune_label_thresholds, tune_threshold

__all__ = [
    "Admissible",
    "Costs",
    "CountsLabels",
    "Coverage",
    "Decoder",
    "DrawsLabels",
    "Guarantee",
    "count_marginals_from_samples",
    "count_marginals_if_independent",
    "empty_probability",
    "estimate_frequencies",
    "load_costs",
    "make_ranker",
    "maximise_expected_f1",
    "maximise_expected_jaccard",
    "maximise_f1_of_means",
    "minimise_expected_cost",
    "rank_targets",
    "scores_by_rarity",
    "tune_label_thresholds",
    "tune_rarity",
    "tune_threshold",
]
