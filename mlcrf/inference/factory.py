"""Create inference methods by name."""

from typing import assert_never

from torch import Tensor

from mlcrf.choices import InferenceName
from mlcrf.inference.annealed_importance import AnnealedImportanceSampling
from mlcrf.inference.automatic import ExactOrGibbs, make_exact
from mlcrf.inference.bethe import Bethe
from mlcrf.inference.convex_bp import ConvexBeliefPropagation
from mlcrf.inference.enumeration import Exact
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.junction_tree import JunctionTree
from mlcrf.inference.mean_field import MeanField
from mlcrf.inference.posterior import InferenceMethod
from mlcrf.inference.tap import Tap
from mlcrf.inference.tree_reweighted import TreeReweighted
from mlcrf.rules import Rules


def make_inference(  # noqa: PLR0911  one return per choice
    name: InferenceName,
    *,
    num_labels: int,
    edges: Tensor,
    max_exact_labels: int,
    rules: Rules = Rules(),
    varies_by_image: bool = False,
    mean_field_sweeps: int = 50,
    unrolled: bool = False,
    seed: int = 0,
) -> InferenceMethod:
    """Return the method with this name.

    AUTO is the cheapest exact one (`make_exact`); where none is feasible for all labels, it is
    chosen by what is known of each image (`ExactOrGibbs`).

    Args:
        unrolled: the model was trained through this many sweeps of mean field; see `MeanField`.

    Raises:
        TooManyLabelsError: when the method is called, if the method is exact and there are too many
            labels for it.
    """
    match name:
        case InferenceName.AUTO:
            exact = make_exact(
                num_labels,
                edges,
                max_exact_labels=max_exact_labels,
                rules=rules,
                varies_by_image=varies_by_image,
            )
            return exact or ExactOrGibbs(max_exact_labels, Gibbs(seed=seed))
        case InferenceName.EXACT:
            return Exact(max_labels=max_exact_labels)
        case InferenceName.JUNCTION_TREE:
            return JunctionTree()
        case InferenceName.MEAN_FIELD:
            return MeanField(max_sweeps=mean_field_sweeps, unrolled=unrolled)
        case InferenceName.PARALLEL_MEAN_FIELD:
            return MeanField(max_sweeps=mean_field_sweeps, parallel=True, unrolled=unrolled)
        case InferenceName.TAP:
            return Tap()
        case InferenceName.BETHE:
            return Bethe()
        case InferenceName.TREE_REWEIGHTED:
            return TreeReweighted()
        case InferenceName.CONVEX_BP:
            return ConvexBeliefPropagation()
        case InferenceName.GIBBS:
            return Gibbs(seed=seed)
        case InferenceName.AIS:
            return AnnealedImportanceSampling(seed=seed)
        case _:
            assert_never(name)
