"""Reliability of probabilities: of labels, of pairs, and of the most probable label set."""

from typing import Literal

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import InferenceMethod, Posterior, log_mass, prepare
from mlcrf.inference.questions import pair_marginals
from mlcrf.metrics import Reliability, reliability

Kind = Literal["labels", "pairs", "sets"]

_MOST_OF_PAIRS = 1000  # images
_MOST_PAIRED = 64  # labels


@torch.no_grad()
def measure_reliability(
    potentials: Potentials, targets: Tensor, method: InferenceMethod
) -> dict[Kind, Reliability]:
    """Compare probabilities with how often they are right.

        labels: P(y_i = 1), of all known labels
        pairs: P(y_i = 1, y_j = 1), of all pairs whose truth is known, on at most 1,000 images;
            left out above 64 labels
        sets: the probability of the most probable label set, of images whose labels are all known

    Args:
        targets: 1, 0, or -1 for unknown (N, L).

    Cost: inference, MAP, and the pair marginals of at most 1,000 images.
    """
    posterior = method(potentials)
    found: dict[Kind, Reliability] = {
        "labels": _compare(posterior.marginals, targets),
        "sets": _of_sets(potentials, targets, method, posterior),
    }
    num_labels = potentials.num_labels
    if 1 < num_labels <= _MOST_PAIRED:
        some, told = potentials.rows(slice(0, _MOST_OF_PAIRS)), targets[:_MOST_OF_PAIRS].long()
        first, second = torch.triu_indices(num_labels, num_labels, 1)
        together = pair_marginals(prepare(method, some), some)[:, first, second]
        least = torch.minimum(told[:, first], told[:, second])
        both = told[:, first] * told[:, second]
        absent = (told[:, first] == 0) | (told[:, second] == 0)
        truth = torch.where(absent, 0, torch.where(least == UNKNOWN, UNKNOWN, both))
        found["pairs"] = _compare(together.clamp(0, 1), truth)
    return found


@torch.no_grad()
def measure_set_reliability(
    potentials: Potentials, targets: Tensor, method: InferenceMethod
) -> Reliability:
    """Return the reliability of most probable label sets; see `measure_reliability`."""
    return _of_sets(potentials, targets, method, method(potentials))


def _of_sets(
    potentials: Potentials, targets: Tensor, method: InferenceMethod, posterior: Posterior
) -> Reliability:
    best = method.map_states(potentials)
    said = (log_mass(method, potentials, best) - posterior.log_partition).double().exp()
    known = (targets != UNKNOWN).all(1)
    right = torch.where(known, (best == targets).all(1).long(), UNKNOWN)
    return _compare(said.clamp(0, 1), right)


def _compare(probabilities: Tensor, truth: Tensor) -> Reliability:
    return reliability(probabilities.double().numpy(), truth.to(torch.int8).numpy())
