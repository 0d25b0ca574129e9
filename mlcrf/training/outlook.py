"""Tell how many gradients fits take, and the limits of the data."""

import math

import numpy as np

from mlcrf.choices import ObjectiveName, Structure
from mlcrf.data.manifest import Manifest
from mlcrf.training.plan import Plan, make_minimiser

_FEW_IMAGES = 1000
_FEW_EXAMPLES = 10
_MANY_PAIRS = 5000
# gradients of a fit by L-BFGS, few and many; warm starts need few
_GRADIENTS = {
    ObjectiveName.INDEPENDENT: (10, 40),
    ObjectiveName.PSEUDO_LIKELIHOOD: (20, 100),
    ObjectiveName.EXACT_LIKELIHOOD: (4, 20),
    ObjectiveName.UNROLLED_MEAN_FIELD: (16, 80),
}
_LATENT = (20, 120)
_NEWTON = (3, 6)


def typical_gradients(plan: Plan, objective: ObjectiveName, steps: int | None) -> tuple[int, int]:
    """Return how many gradients a fit takes, at least and at most as a rule.

    Args:
        steps: the number that is fixed in advance, if it is.
    """
    if steps is not None:
        return steps, steps
    if objective is plan.objective and plan.settings.structure is Structure.LATENT:
        return _LATENT
    if make_minimiser(plan, objective).newton:
        return _NEWTON
    return _GRADIENTS[objective]


def describe_data(plan: Plan, train: Manifest, validation: Manifest) -> list[str]:
    """Return notes where labels are beyond exact inference, or images few for them."""
    settings, count = plan.settings, len(plan.labels)
    notes = []
    if plan.exact is None and settings.structure is not Structure.INDEPENDENT:
        choose = ""
        if len(plan.edges) > _MANY_PAIRS:
            choose = "; leave out --structure for fewer"
        notes.append(
            f"{count} labels with {len(plan.edges):,} couplings are beyond exact inference "
            f"(--max-exact-labels {settings.max_exact_labels}): learned by {plan.objective.value}, "
            f"answers are estimates; see docs/big-labels.md{choose}"
        )
    if len(train) < _FEW_IMAGES:
        margin = 100 * 0.98 / math.sqrt(max(1, len(validation)))
        positives = (train.targets == 1).sum(0)
        rare = [train.labels.names[at] for at in np.flatnonzero(positives < _FEW_EXAMPLES)]
        named = f"{', '.join(rare[:5])}{f' and {len(rare) - 5} more' if len(rare) > 5 else ''}"
        hardly = (
            f"; {len(rare)} of the labels have fewer than {_FEW_EXAMPLES} examples and are hardly "
            f"learned: {named}"
            if rare
            else ""
        )
        notes.append(
            f"{len(train)} training images are few, and a share measured on the {len(validation)} "
            f"validation images is uncertain by up to {margin:.0f} points{hardly}. Couplings may "
            "gain nothing: compare both models by `mlcrf evaluate`"
        )
    return notes
