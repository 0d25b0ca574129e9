"""Measures of families of label sets: how often they hold the right one, and how large they are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.decoding.coverage import Coverage, make_ranker, rank_targets
from mlcrf.inference import InferenceMethod
from mlcrf.inference.ranking import Leaders


@dataclass(frozen=True)
class FamilyMeasures:
    """Families of label sets of N images.

    Attributes:
        coverage: share of the images whose family holds the right label set, among those whose
            labels are all known; NaN if there are none.
        images: number of these images.
        mean_sets, median_sets: number of label sets of a family, over all images.
        mean_log2_sets: mean of its logarithm to base 2: the number of yes-or-no questions that are
            left open.
        open_labels: number of labels of an image that some of the sets have and others have not.
        is_exact: whether sizes are exact; else they are estimated from samples.
    """

    coverage: float
    images: int
    mean_sets: float
    median_sets: float
    mean_log2_sets: float
    open_labels: float
    is_exact: bool


@torch.no_grad()
def measure_families(
    coverage: Coverage,
    inference: InferenceMethod,
    potentials: Potentials,
    targets: Tensor,
    share: Tensor,
) -> FamilyMeasures:
    """Measure the families of images.

    Args:
        coverage: calibrated.
        inference: see `make_ranker`.
        targets: 1, 0, or -1 for unknown (N, L).
        share: see `Coverage.shares`.
    """
    assert coverage.reach is not None
    ranker = make_ranker(inference, potentials)
    standing = rank_targets(ranker, potentials, targets)
    is_known = ~standing.ahead.isnan()
    covered = coverage.covers(standing, share)[is_known]
    return summarise(covered, ranker.leaders(potentials, coverage.reach, share))


def summarise(covered: Tensor, leaders: Leaders) -> FamilyMeasures:
    """Return the measures of families; `covered` is of the images whose labels are all known."""
    count = leaders.count
    open_labels = ~(leaders.present | leaders.absent)
    return FamilyMeasures(
        coverage=float(covered.double().mean()) if len(covered) else math.nan,
        images=len(covered),
        mean_sets=float(count.mean()),
        median_sets=float(count.quantile(0.5)),
        mean_log2_sets=float(count.log2().mean()),
        open_labels=float(open_labels.double().sum(1).mean()),
        is_exact=leaders.is_exact,
    )
