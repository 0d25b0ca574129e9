"""Beliefs about label sets: one algorithm a file, one interface."""

from mlcrf.inference.choosing import make_inference
from mlcrf.inference.exact import Exact
from mlcrf.inference.gibbs import Gibbs
from mlcrf.inference.independent import Independent
from mlcrf.inference.mean_field import MeanField
from mlcrf.inference.posterior import InferenceMethod, LogPartitionKind, Posterior, climb

__all__ = [
    "Exact",
    "Gibbs",
    "Independent",
    "InferenceMethod",
    "LogPartitionKind",
    "MeanField",
    "Posterior",
    "climb",
    "make_inference",
]
