"""Training losses, one per file, summed over labels, averaged over images.

Interface: `objective.Objective`. To add one: a file here, a name in
`mlcrf.choices.ObjectiveName`, a case in `mlcrf.training.plan.make_minimiser`;
`mlcrf/training/heads.py` decides where its fit starts.
"""

from mlcrf.objectives.blended_convex_bp import BlendedConvexBp
from mlcrf.objectives.contrastive_divergence import ContrastiveDivergence
from mlcrf.objectives.exact_likelihood import ExactLikelihood, exact_likelihood_loss
from mlcrf.objectives.independent import independent_loss
from mlcrf.objectives.objective import Objective, PersistentObjective, from_image, sharing
from mlcrf.objectives.pseudo_likelihood import (
    pseudo_likelihood_by_image,
    pseudo_likelihood_loss,
)
from mlcrf.objectives.unrolled_mean_field import unrolled_mean_field_loss

__all__ = [
    "BlendedConvexBp",
    "ContrastiveDivergence",
    "ExactLikelihood",
    "Objective",
    "PersistentObjective",
    "exact_likelihood_loss",
    "from_image",
    "independent_loss",
    "pseudo_likelihood_by_image",
    "pseudo_likelihood_loss",
    "sharing",
    "unrolled_mean_field_loss",
]
