"""Inference methods, one per file. Interface: `posterior.InferenceMethod`.

To add one: a file here, a name in `mlcrf.choices.InferenceName`, a case in
`factory.make_inference`; docs/adding-an-inference-method.md has an example and the tests.
"""

from mlcrf.inference.annealed_importance import AnnealedImportanceSampling
from mlcrf.inference.automatic import make_exact
from mlcrf.inference.bethe import Bethe
from mlcrf.inference.convex_bp import ConvexBeliefPropagation
from mlcrf.inference.enumeration import Exact
from mlcrf.inference.exact.elimination import treewidth
from mlcrf.inference.exact.partition import count_states
from mlcrf.inference.factory import make_inference
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.independent import Independent
from mlcrf.inference.junction_tree import JunctionTree
from mlcrf.inference.mean_field import MeanField
from mlcrf.inference.modes import iterated_conditional_modes
from mlcrf.inference.posterior import (
    InferenceMethod,
    LogPartitionKind,
    Posterior,
    log_mass,
)
from mlcrf.inference.prepared_exact import PreparedExact, prepare
from mlcrf.inference.tap import Tap
from mlcrf.inference.tree_reweighted import TreeReweighted

__all__ = [
    "AnnealedImportanceSampling",
    "Bethe",
    "ConvexBeliefPropagation",
    "Exact",
    "Gibbs",
    "Independent",
    "InferenceMethod",
    "JunctionTree",
    "LogPartitionKind",
    "MeanField",
    "Posterior",
    "PreparedExact",
    "Tap",
    "TreeReweighted",
    "count_states",
    "iterated_conditional_modes",
    "log_mass",
    "make_exact",
    "make_inference",
    "prepare",
    "treewidth",
]
