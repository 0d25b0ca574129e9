"""The exact likelihood: the joint probability of the label set."""

from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, InferenceMethod, log_mass


def exact_likelihood_loss(
    potentials: Potentials, targets: Tensor, *, exact: InferenceMethod = Exact()
) -> Tensor:
    """Return the negative log-probability of the known labels, the others summed out.

        loss = log Z - log Z(known clamped)

    which is log Z - log_score(targets) where all are known, convex in the potentials then.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent, -1 unknown (N, L).
        exact: a method whose log Z is exact and differentiable.

    Returns:
        A scalar: summed over labels, averaged over images.

    Raises:
        TooManyLabelsError: exact inference does not reach.

    Cost: that of log Z with its gradient, 6 N 2^L operations by enumeration at most; twice that
    where labels are unknown.
    """
    log_partition = exact(potentials).log_partition
    return (log_partition - log_mass(exact, potentials, targets)).sum() / len(targets)
