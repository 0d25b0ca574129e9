"""Create inference methods by name; AUTO picks one from the label graph."""

from typing import assert_never

from torch import Tensor

from mlcrf.choices import InferenceName
from mlcrf.implications import Implications
from mlcrf.inference.annealed_importance import AnnealedImportanceSampling
from mlcrf.inference.bethe import Bethe
from mlcrf.inference.convex_bp import ConvexBeliefPropagation
from mlcrf.inference.enumeration import Exact
from mlcrf.inference.exact.elimination import treewidth
from mlcrf.inference.exact.partition import count_states
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.independent import Independent
from mlcrf.inference.junction_tree import JunctionTree
from mlcrf.inference.mean_field import MeanField
from mlcrf.inference.posterior import InferenceMethod
from mlcrf.inference.tap import Tap
from mlcrf.inference.tree_reweighted import TreeReweighted

_FEW = 12  # up to 2^12 states enumeration is always fast
_NARROW = 4  # up to this treewidth a junction tree is faster than 2^13 states
_MAX_TREEWIDTH = 12  # above this, tables of 2^13 entries per image and clique are slow
_MAX_TREEWIDTH_VARYING = 13  # 14 fully coupled labels, where enumeration is no faster


def make_exact(
    num_labels: int,
    edges: Tensor,
    *,
    max_exact_labels: int,
    implications: Implications = Implications(),
    varies_by_image: bool = False,
) -> InferenceMethod | None:
    """Return the cheapest exact method, or None if no exact method is feasible.

    Without edges and implications: the closed form. Up to 2^max_exact_labels states: enumeration,
    except that above 2^12 states a junction tree is used if its treewidth is at most 4. Above
    2^max_exact_labels states: a junction tree up to treewidth 12, if no clique has more than
    `max_exact_labels` labels. Couplings that vary by image are not enumerated, because that would
    need one kernel per image: a junction tree handles all images together, up to treewidth 13,
    which is 14 fully coupled labels.

    Args:
        edges: (E, 2).
    """
    if not len(edges) and not len(implications):
        return Independent()
    together = edges
    if len(implications):
        together = edges.new_tensor(_union(edges, implications))
    most = _MAX_TREEWIDTH_VARYING if varies_by_image else _MAX_TREEWIDTH
    widest = max(1, min(most, max_exact_labels - 1))  # a clique has one label more
    width = treewidth(together, num_labels, bound=widest)
    log_states = count_states(num_labels, implications)
    enumerable = log_states <= max_exact_labels and not varies_by_image
    if enumerable and (log_states <= _FEW or width > _NARROW):
        return Exact(max_labels=max_exact_labels)
    return JunctionTree(max_treewidth=widest) if width <= widest else None


def make_inference(  # noqa: PLR0911  one return per choice
    name: InferenceName,
    *,
    num_labels: int,
    edges: Tensor,
    max_exact_labels: int,
    implications: Implications = Implications(),
    varies_by_image: bool = False,
    mean_field_sweeps: int = 50,
    unrolled: bool = False,
    seed: int = 0,
) -> InferenceMethod:
    """Return the method with this name; AUTO is the cheapest exact one (`make_exact`), else Gibbs.

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
                implications=implications,
                varies_by_image=varies_by_image,
            )
            return Gibbs(seed=seed) if exact is None else exact
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


def _union(edges: Tensor, implications: Implications) -> list[list[int]]:
    pairs = {(min(pair), max(pair)) for pair in (*edges.tolist(), *implications.pairs)}
    return [list(pair) for pair in sorted(pairs)]
