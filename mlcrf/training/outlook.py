"""Tell the fits that training will make, the time they may take, and the limits of its data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlcrf.choices import ObjectiveName, Structure
from mlcrf.data.manifest import Manifest
from mlcrf.training.plan import Plan

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


@dataclass(frozen=True)
class Fits:
    """The fits of one kind that are still to be made.

    Attributes:
        count: their number at most.
        gradients: gradients of each, at least and at most as a rule.
        gradient_s: seconds of a gradient over all images.
    """

    count: int
    gradients: tuple[int, int]
    gradient_s: float


def typical_gradients(plan: Plan, objective: ObjectiveName, steps: int | None) -> tuple[int, int]:
    """Return how many gradients a fit takes, at least and at most as a rule.

    Args:
        steps: the number that is fixed in advance, if it is.
    """
    if steps is not None:
        return steps, steps
    if objective is plan.objective and plan.settings.structure is Structure.LATENT:
        return _LATENT
    return _GRADIENTS[objective]


def describe_fits(fits: Mapping[str, Fits]) -> str:
    """Return the fits to make and the time that they may take, in one line."""
    counts = ", ".join(f"{one.count} {kind}" for kind, one in fits.items())
    low, high = (
        sum(one.count * one.gradients[end] * one.gradient_s for one in fits.values())
        for end in (0, 1)
    )
    total = sum(one.count for one in fits.values())
    return f"fits to make: at most {total} ({counts}); this may take {_range(low, 1.5 * high)}"


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


def _range(low: float, high: float) -> str:
    if high < 5:
        return "a few seconds"
    if high < 120:
        return f"{max(1, low):.0f} to {high:.0f} s"
    if high < 7200:
        return f"{max(1, low / 60):.0f} to {high / 60:.0f} min"
    return f"{max(0.1, low / 3600):.1f} to {high / 3600:.1f} h"
