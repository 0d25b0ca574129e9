"""The exact likelihood: the joint probability of the label set."""

from dataclasses import dataclass, replace

from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, InferenceMethod, log_mass
from mlcrf.objectives.objective import with_silence


def exact_likelihood_loss(
    potentials: Potentials,
    targets: Tensor,
    *,
    exact: InferenceMethod = Exact(),
    silence: Tensor | None = None,
) -> Tensor:
    """Return the negative log-probability of the known labels, unknown labels summed out.

        loss = log Z - log Z(known clamped)

    If all labels are known this is log Z - log_score(targets), convex in the potentials.

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent, -1 unknown (N, L).
        exact: a method whose log Z is exact and differentiable.
        silence: evidence of sources that mention only a part of what is present; see
            `mlcrf.objectives.objective.with_silence`.

    Returns:
        A scalar: summed over labels, averaged over images.

    Raises:
        TooManyLabelsError: there are too many labels for exact inference.

    Cost: that of log Z with its gradient, 6 N 2^L operations by enumeration at most; twice that
    if labels are unknown.
    """
    log_partition = exact(potentials).log_partition
    told, known = with_silence(potentials, targets, silence)
    return (log_partition - log_mass(exact, told, known)).sum() / len(targets)


@dataclass(frozen=True)
class ExactLikelihood:
    """The loss with its settings; see `exact_likelihood_loss`."""

    exact: InferenceMethod = Exact()
    silence: Tensor | None = None

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        return exact_likelihood_loss(potentials, targets, exact=self.exact, silence=self.silence)

    def sharing(self) -> "ExactLikelihood":
        """Return the same loss for several calls with the same couplings; see `Exact.sharing`."""
        return replace(self, exact=self.exact.sharing()) if isinstance(self.exact, Exact) else self
