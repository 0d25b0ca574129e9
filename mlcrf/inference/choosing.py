"""Which method, from what a user asked for and what the labels allow."""

from typing import assert_never

from mlcrf.choices import InferenceName
from mlcrf.inference.exact import Exact
from mlcrf.inference.gibbs import Gibbs
from mlcrf.inference.independent import Independent
from mlcrf.inference.mean_field import MeanField
from mlcrf.inference.posterior import InferenceMethod


def make_inference(
    name: InferenceName,
    *,
    num_labels: int,
    num_edges: int,
    max_exact_labels: int,
    mean_field_sweeps: int = 50,
    seed: int = 0,
) -> InferenceMethod:
    """Build a method; AUTO is the closed form without edges, exact within reach, else Gibbs.

    Raises:
        TooManyLabelsError: when called, if exact was asked for beyond `max_exact_labels`.
    """
    match name:
        case InferenceName.AUTO:
            if not num_edges:
                return Independent()
            if num_labels <= max_exact_labels:
                return Exact(max_labels=max_exact_labels)
            return Gibbs(seed=seed)
        case InferenceName.EXACT:
            return Exact(max_labels=max_exact_labels)
        case InferenceName.MEAN_FIELD:
            return MeanField(max_sweeps=mean_field_sweeps)
        case InferenceName.GIBBS:
            return Gibbs(seed=seed)
        case _:
            assert_never(name)
