"""The table of what every inference method promises, and the problems that it is held to.

Every property in this folder that is not of one algorithm alone takes its methods from `ROWS`:
a new method gets a row, and is tested.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from enum import Enum, IntEnum
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Bethe,
    ConvexBeliefPropagation,
    Exact,
    Gibbs,
    Independent,
    InferenceMethod,
    JunctionTree,
    LogPartitionKind,
    MeanField,
    Posterior,
    Tap,
    TreeReweighted,
)
from mlcrf.rules import Rules
from tests.inference import equations
from tests.making import expected
from tests.oracle import oracles

EXACT, ESTIMATE, LOWER, UPPER = LogPartitionKind


class Graphs(IntEnum):
    """Kinds of label graphs, each among those of the next."""

    NO_EDGE = 0
    UNCOUPLED = 1  # edges, but couplings of 0
    TREES = 2  # forests too
    ANY = 3


class Gradient(Enum):
    """The results that carry a gradient, by autograd, to unaries and couplings."""

    NONE = "nothing"
    LOG_Z = "log Z, up to the error of sampling"
    BELIEFS = "log Z and marginals"


NO_EDGE, UNCOUPLED, TREES, ANY = Graphs
NONE, LOG_Z, BELIEFS = Gradient


@dataclass(frozen=True)
class Row:
    """The promises of one method.

    Attributes:
        method: with settings that bring it close enough to its limit to be compared.
        log_z: the kind of its log Z.
        right_on: the graphs on which it equals brute force; a random one within sampling error,
            but to rounding where nothing is coupled.
        off: limit on the mean error of its marginals at couplings of 1/2 between all of ten
            labels, which is not below a quarter of it.
        gradient: the results that carry one; that of log Z is the marginals at convergence.
        equation: the function of the beliefs that is 0 where they have converged.
        pairs: whether it returns pairwise marginals.
        random: whether the draws of a seed decide.
        takes: the graphs that it accepts.
        max_labels: more are refused.
    """

    method: Any  # an InferenceMethod, whose settings tests replace
    log_z: LogPartitionKind
    right_on: Graphs
    off: float
    gradient: Gradient
    equation: Callable[[Potentials, Posterior], Tensor] | None = None
    pairs: bool = True
    random: bool = False
    takes: Graphs = ANY
    max_labels: float = torch.inf

    @property
    def iterates(self) -> bool:
        """Whether it sweeps until it has converged."""
        return "max_sweeps" in {one.name for one in fields(self.method)}

    def cut(self, max_sweeps: int, tolerance: float = 1e-8) -> InferenceMethod:
        """The method with fewer sweeps, where it makes any."""
        if not self.iterates:
            return self.method  # type: ignore[no-any-return]
        return replace(self.method, max_sweeps=max_sweeps, tolerance=tolerance)  # type: ignore[no-any-return]

    def spread(self, posterior: Posterior) -> float | Tensor:
        """Five standard errors of a random method's marginals; rounding of the others."""
        samples = posterior.samples
        if not self.random:
            return 1e-9
        assert samples is not None
        if isinstance(self.method, Gibbs):
            chains = samples.unflatten(0, (self.method.sweeps, self.method.chains)).double().mean(0)
            p = chains.mean(0)
            effective = p * (1 - p) / (chains.var(0) / self.method.chains)
            effective = effective.nan_to_num(1.0).clamp(1.0, len(samples))
        else:
            p = samples.double().mean(0)
            effective = torch.full_like(p, len(samples))
        return 5 * (p * (1 - p) / effective).sqrt() + 1e-3


FINE = {"max_sweeps": 1500, "tolerance": 1e-12}
EXACTLY = Exact(pairwise_marginals=True)
ON_TREES = JunctionTree(pairwise_marginals=True)
MEAN_FIELD = MeanField(**FINE)
PARALLEL = MeanField(**FINE, parallel=True)
SPANNING = TreeReweighted(**FINE)
CONVEX = ConvexBeliefPropagation(**FINE)
CHAINS = Gibbs(chains=50, burn_in=10, sweeps=40, pairwise_marginals=True)
ANNEALED = AnnealedImportanceSampling(chains=400, temperatures=25)

# fmt: off
ROWS = (
    #   method         log Z     right on   off    gradient    and
    Row(Independent(), EXACT,    NO_EDGE,   0,     BELIEFS, pairs=False, takes=NO_EDGE),
    Row(EXACTLY,       EXACT,    ANY,       0,     BELIEFS, max_labels=28),
    Row(ON_TREES,      EXACT,    ANY,       0,     BELIEFS),
    Row(MEAN_FIELD,    LOWER,    UNCOUPLED, 0.02,  BELIEFS, equations.mean_field, pairs=False),
    Row(PARALLEL,      LOWER,    UNCOUPLED, 0.02,  BELIEFS, equations.mean_field, pairs=False),
    Row(Tap(**FINE),   ESTIMATE, UNCOUPLED, 0.002, BELIEFS, equations.tap),
    Row(Bethe(**FINE), ESTIMATE, TREES,     0.002, BELIEFS, equations.bethe),
    Row(SPANNING,      UPPER,    TREES,     0.05,  BELIEFS, equations.tree_reweighted),
    Row(CONVEX,        UPPER,    NO_EDGE,   0.4,   BELIEFS, equations.convex),  # see its test
    Row(CHAINS,        ESTIMATE, ANY,       0.004, LOG_Z,   random=True),
    Row(ANNEALED,      ESTIMATE, ANY,       0.006, NONE,    random=True, pairs=False),
)
# fmt: on

Pair = tuple[int, int]
_ALL = {size: [tuple(pair) for pair in full_edges(size).tolist()] for size in (2, 3, 5, 6, 8, 10)}
_GRID = [(3 * r + c, 3 * r + c + 1) for r in range(3) for c in range(2)]
_GRID += [(3 * r + c, 3 * r + c + 3) for r in range(2) for c in range(3)]
_CYCLE = [(0, 4), (2, 4), (2, 7), (1, 7), (1, 5), (3, 5), (3, 6), (0, 6)]
_SPARSE = [(2, 5), (0, 3), (1, 2), (4, 6), (0, 6), (3, 5), (1, 4), (1, 6), (2, 3)]
_RANDOM = [(0, 7), (1, 2), (1, 6), (2, 3), (2, 6), (3, 4), (3, 6), (4, 7), (5, 6), (0, 1), (4, 5)]

# labels and edges, in the order in which they are written
GRAPHS: dict[str, tuple[Graphs, int, list[Any]]] = {
    "one label": (NO_EDGE, 1, []),
    "no edge": (NO_EDGE, 4, []),
    "uncoupled": (UNCOUPLED, 5, _ALL[5]),
    "two labels": (TREES, 2, _ALL[2]),
    "star": (TREES, 7, [(0, 3), (1, 3), (2, 3), (3, 4), (3, 5), (3, 6)]),
    "path": (TREES, 7, [(1, 4), (4, 6), (0, 6), (0, 3), (2, 3), (2, 5)]),
    "forest": (TREES, 8, [(0, 5), (2, 5), (1, 7), (3, 7), (0, 4)]),  # and a label alone
    "three labels": (ANY, 3, _ALL[3]),
    "cycle": (ANY, 8, _CYCLE),
    "two cycles": (ANY, 8, [(0, 2), (2, 4), (0, 4), (1, 3), (3, 5), (5, 7), (1, 7)]),
    "grid": (ANY, 9, _GRID),
    "ladder": (ANY, 8, [(0, 1), (2, 3), (4, 5), (6, 7), *[(i, i + 2) for i in range(6)]]),
    "sparse": (ANY, 7, _SPARSE),
    "random": (ANY, 8, _RANDOM),
    "five labels": (ANY, 5, _ALL[5]),
    "six labels": (ANY, 6, _ALL[6]),
    "eight labels": (ANY, 8, _ALL[8]),
    "ten labels": (ANY, 10, _ALL[10]),
}


def make(
    graph: str,
    num_images: int = 2,
    *,
    unary: float = 2.0,
    pairwise: float = 1.5,
    varies: bool = False,
    rules: Iterable[Pair] = (),
    dtype: torch.dtype = torch.float64,
    seed: int = 7,
) -> Potentials:
    """Random potentials on one of the graphs, uniform on plus or minus the given sizes."""
    kind, num_labels, pairs = GRAPHS[graph]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) - 1

    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    shape = (num_images, len(edges)) if varies else (len(edges),)
    couplings = pairwise * (kind >= TREES) * draw(*shape)
    rules = Rules(tuple(rules))
    return Potentials(unary * draw(num_images, num_labels), edges, couplings, rules)


@dataclass(frozen=True)
class Truth:
    """The oracle's beliefs about a batch; `pairs` (N, E), the rest as in `Posterior`."""

    log_partition: Tensor
    marginals: Tensor
    pairs: Tensor
    best_score: Tensor


def enumerated(potentials: Potentials, known: Tensor | None = None) -> Truth:
    """Sums over all states, of the type of the potentials; rules as couplings."""
    like, ends = potentials.unary, potentials.edges.tolist()
    truth = oracles(potentials.as_couplings(), known)
    pairs = [one.pairwise_marginals(ends) for one in truth]
    return Truth(
        log_partition=expected(truth, "log_partition", like),
        marginals=expected(truth, "marginals", like),
        pairs=torch.tensor(pairs, dtype=like.dtype).reshape(len(like), -1),
        best_score=expected(truth, "best_score", like),
    )


@cache
def solved(
    graph: str, unary: float, pairwise: float, dtype: torch.dtype
) -> tuple[Potentials, Truth]:
    """A problem with its truth, once for all methods."""
    potentials = make(graph, unary=unary, pairwise=pairwise, dtype=dtype)
    return potentials, enumerated(potentials)


def usual_graph(row: Row) -> str:
    """A graph with cycles and without some of the edges, where the method takes it."""
    return "sparse" if row.takes is ANY else "no edge"


def rows(wanted: Callable[[Row], bool] = lambda row: True) -> pytest.MarkDecorator:
    """The test is made once for each row that has the property."""
    chosen = [row for row in ROWS if wanted(row)]
    return pytest.mark.parametrize("row", chosen, ids=[row.method.name for row in chosen])
