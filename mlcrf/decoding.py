"""From beliefs to label sets; the rule is named, chosen by the caller and kept with the result."""

from typing import assert_never

from torch import Tensor

from mlcrf.choices import Decision
from mlcrf.crf import Potentials
from mlcrf.inference import InferenceMethod, Posterior


def decide(
    decision: Decision,
    posterior: Posterior,
    potentials: Potentials,
    inference: InferenceMethod,
    *,
    known: Tensor | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Label sets of N images, int64 (N, L).

    THRESHOLD takes every label whose marginal exceeds `threshold`, which at 0.5 minimises the
    expected number of wrong labels. MAP takes the most probable set, which minimises the chance
    that anything is wrong.
    """
    match decision:
        case Decision.THRESHOLD:
            return (posterior.marginals > threshold).long()
        case Decision.MAP:
            return inference.map_states(potentials, known=known)
        case _:
            assert_never(decision)
