"""Base of the message-passing methods: arcs, the update, and convergence per image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, check_known
from mlcrf.errors import SettingsError
from mlcrf.inference.modes import check_fixed_point, iterated_conditional_modes
from mlcrf.inference.posterior import Posterior, advise, find_converged


class Iteration(Protocol):
    """An update of the states of all images."""

    def step(self, state: Tensor) -> Tensor:
        """Return the undamped next state: (N, K) -> (N, K)."""
        ...

    def rows(self, wanted: Tensor) -> "Iteration":
        """Return the update of some of the images."""
        ...


@dataclass(frozen=True)
class Settled:
    """The end of an iteration: state (N, K), converged (N,), and the number of sweeps made."""

    state: Tensor
    converged: Tensor
    sweeps: int


@dataclass(frozen=True)
class FixedPointMethod(ABC):
    """A method that repeats a damped parallel update until each image is at a fixed point.

        state <- damping state + (1 - damping) step(state)

    Attributes:
        max_sweeps: maximum number of updates; the last one of an image is only a check.
        tolerance: an image has converged once the update moves no entry x of its state by more
            than tolerance (1 + |x|). Its state is then kept.
        damping: share of the old state that is kept, from 0 to below 1.

    Raises:
        SettingsError: damping is out of range.
    """

    max_sweeps: int = 200
    tolerance: float = 1e-5
    damping: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise SettingsError(f"damping: expected 0 <= damping < 1, got {self.damping}")

    @property
    @abstractmethod
    def name(self) -> str:
        """The method's name on the command line."""

    @abstractmethod
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs; `known` (N, L) holds 1, 0, or -1 for unknown."""

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the marginals rounded at 0.5, improved to a local maximum of the score."""
        rounded = (self(potentials, known=known).marginals > 0.5).long()
        return iterated_conditional_modes(potentials, rounded, check_known(potentials, known))

    def settle(self, iteration: Iteration, start: Tensor) -> Settled:
        """Repeat the update; images that have converged are left out."""
        state, rows = start, torch.arange(len(start), device=start.device)
        finished, order, sweeps = [], [], 0
        while sweeps < self.max_sweeps and len(rows):
            change = iteration.step(state) - state
            allowed = self.tolerance * (1 + state.detach().abs())
            still = (change.detach().abs() <= allowed).all(-1)
            sweeps += 1
            if bool(still.any()):
                finished.append(state[still])
                order.append(rows[still])
                state, change, rows = state[~still], change[~still], rows[~still]
                iteration = iteration.rows(~still)
            state = state + (1 - self.damping) * change
        back = torch.cat([*order, rows]).argsort()
        converged = back < len(start) - len(rows)
        return Settled(torch.cat([*finished, state])[back], converged, sweeps)

    def unsettled(self, settled: Settled) -> dict[str, Tensor]:
        """Return the images that are not at a fixed point, as a problem for `advice`."""
        return {f"had not converged after {settled.sweeps} sweeps": ~settled.converged}

    def advice(self, problems: Mapping[str, Tensor]) -> str:
        """Return the advice of the posterior; empty if no image has a problem."""
        remedy = "--inference exact, junction-tree or gibbs of train, evaluate and report"
        return advise(self.name, problems, remedy)


@dataclass(frozen=True)
class SeveralFixedPoints(FixedPointMethod):
    """A method with possibly several fixed points, each as good as its start.

    An image has converged if it is at a fixed point, and neither local search nor a second start
    shows that this is not the answer (`check_fixed_point`). That is no promise: fixed points can be
    far from the truth where couplings are strong.

    Attributes:
        second_start: whether to look for another answer, which costs up to as much again. Without,
            `converged` means a fixed point and no more.
    """

    second_start: bool = True

    @abstractmethod
    def _infer(
        self, potentials: Potentials, known: Tensor, start: Tensor | None = None
    ) -> tuple[Posterior, dict[str, Tensor]]:
        """Infer beliefs from the usual start or from label vectors (N, L), and the problems."""

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs of labels and pairs, and an estimate of log Z."""
        clamped = check_known(potentials, known)
        posterior, problems = self._infer(potentials, clamped)
        if self.second_start:
            problems |= check_fixed_point(
                posterior, potentials, clamped, lambda *given: self._infer(*given)[0]
            )
        return replace(posterior, converged=find_converged(problems), advice=self.advice(problems))

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        once = replace(self, second_start=False)
        return super(SeveralFixedPoints, once).map_states(potentials, known=known)


@dataclass(frozen=True)
class Network:
    """A batch of CRFs with known labels conditioned on, and each edge as two arcs.

    Arc e runs from the first label of edge e to the second, arc E + e backwards.

    Attributes:
        unary: log-odds of each label given the known ones (N, L).
        pairwise: couplings, 0 where an end is known: (E,), or (N, E).
        open: 1 where both ends of an edge are unknown, else 0, as pairwise.
        edges: (E, 2).
        known: 1, 0 or -1 for unknown (N, L).
        known_score: the score of what is known (N,).
    """

    unary: Tensor
    pairwise: Tensor
    open: Tensor
    edges: Tensor
    known: Tensor
    known_score: Tensor

    @property
    def free(self) -> Tensor:
        """The unknown labels, boolean (N, L)."""
        return self.known == UNKNOWN

    @property
    def source(self) -> Tensor:
        """The label where each arc starts (2 E,)."""
        return self.edges.T.reshape(-1)

    def rows(self, wanted: Tensor) -> "Network":
        """Return the network of some of the images."""
        varies = self.pairwise.ndim == 2
        return replace(
            self,
            unary=self.unary[wanted],
            pairwise=self.pairwise[wanted] if varies else self.pairwise,
            open=self.open[wanted] if varies else self.open,
            known=self.known[wanted],
            known_score=self.known_score[wanted],
        )

    def at_source(self, labels: Tensor) -> Tensor:
        """Take the value of the label where each arc starts: (N, L) -> (N, 2 E)."""
        return labels.index_select(1, self.source)

    def leaving(self, arcs: Tensor) -> Tensor:
        """Sum at each label of the arcs that start there: (..., 2 E) -> (N, L)."""
        arcs = arcs.expand(len(self.unary), -1)
        return torch.zeros_like(self.unary).index_add(1, self.source, arcs)

    def arriving(self, arcs: Tensor) -> Tensor:
        """Sum at each label of the arcs that end there: (..., 2 E) -> (N, L)."""
        return self.leaving(reverse(arcs))

    def marginals(self, log_odds: Tensor) -> Tensor:
        """Return the probabilities of unknown labels, and the values of known ones (N, L)."""
        return torch.where(self.free, log_odds.sigmoid(), self.known.to(log_odds.dtype))

    def total(self, by_label: Tensor) -> Tensor:
        """Sum over the unknown labels, and the score of the known ones (N,)."""
        unknown = torch.where(self.free, by_label, torch.zeros_like(by_label))
        return self.known_score + unknown.sum(-1)


def condition(potentials: Potentials, known: Tensor | None) -> Network:
    """Return the network of the unknown labels given the known ones, rules as couplings.

    Limits that are no couplings are left out.
    """
    clamped = check_known(potentials, known)
    coupled = potentials.as_couplings()
    free = clamped == UNKNOWN
    if bool(free.all()):
        open_edges = torch.ones_like(coupled.pairwise)
        unary, pairwise = coupled.unary, coupled.pairwise
        known_score = torch.zeros_like(unary[:, 0])
    else:
        open_edges = free[:, coupled.edges].all(-1).to(coupled.unary.dtype)
        unary, pairwise = Fields(coupled).all(clamped == 1), coupled.pairwise * open_edges
        known_score = coupled.log_score(clamped == 1)
    return Network(unary, pairwise, open_edges, coupled.edges, clamped, known_score)


@dataclass(frozen=True)
class Propagation:
    """The update of belief propagation for given counting numbers.

    An arc's state is its cavity field h_ij: the log-odds of label i as edge (i, j) sees them
    without the message that came back from j.

        m_ij = log (1 + exp(pairwise_ij / c_ij + h_ij)) / (1 + exp(h_ij))
        B_i  = (unary_i + sum_j c_ij m_ji) / (c_i + sum_j c_ij)
        h_ij = B_i - m_ji

    At a fixed point b_i = sigmoid(B_i) and b_ij(y_i, y_j) ~ exp(pairwise_ij y_i y_j / c_ij +
    h_ij y_i + h_ji y_j) agree on each label, and are a stationary point of

        sum_i unary_i b_i + sum_ij pairwise_ij b_ij(1, 1) + sum_ij c_ij H(b_ij) + sum_i c_i H(b_i)

    so c_i = 1 - sum_j c_ij makes the denominator 1.

    Attributes:
        edge_count: c_ij of each edge (E,).
        label_count: the denominator of B_i (L,) or (N, L).

    Cost: O(N E) per step; memory: 2 E numbers per image. Messages of known labels are 0.

    Sources: Yedidia, Freeman and Weiss (2005) for c = 1; Hazan and Shashua (2010) for any.
    """

    network: Network
    edge_count: Tensor
    label_count: Tensor

    @property
    def coupling(self) -> Tensor:
        """pairwise_ij / c_ij, (E,) or (N, E)."""
        return self.network.pairwise / self.edge_count

    def start(self) -> Tensor:
        """Return the fields before any message (N, 2 E)."""
        return self.network.at_source(self.network.unary / self.label_count)

    def messages(self, fields: Tensor) -> Tensor:
        """Return m on each arc (N, 2 E)."""
        coupling = both(self.coupling)
        return F.logsigmoid(-fields) - F.logsigmoid(-fields - coupling)

    def log_odds(self, messages: Tensor) -> Tensor:
        """Return B of each label (N, L)."""
        arriving = self.network.arriving(both(self.edge_count) * messages)
        return (self.network.unary + arriving) / self.label_count

    def step(self, state: Tensor) -> Tensor:
        """Return the undamped next fields."""
        messages = self.messages(state)
        return self.network.at_source(self.log_odds(messages)) - reverse(messages)

    def rows(self, wanted: Tensor) -> "Propagation":
        """Return the update of some of the images."""
        by_image = self.label_count.ndim == 2
        label_count = self.label_count[wanted] if by_image else self.label_count
        return replace(self, network=self.network.rows(wanted), label_count=label_count)

    def edge_log_partitions(self, fields: Tensor, messages: Tensor) -> Tensor:
        """Return the log of the sum of the four terms of b_ij (N, E)."""
        first, second = fields.chunk(2, -1)
        return softplus(second) + softplus(first + messages.chunk(2, -1)[1])

    def pairwise_marginals(self, fields: Tensor, messages: Tensor, marginals: Tensor) -> Tensor:
        """Return b_ij(1, 1) (N, E); where an end is known, the product of the marginals."""
        first, second = fields.chunk(2, -1)
        given = (second + self.coupling).sigmoid()  # P(second given first)
        both_present = (first + messages.chunk(2, -1)[1]).sigmoid() * given
        product = marginals[:, self.network.edges].prod(-1)
        return torch.where(self.network.open > 0, both_present, product)


def softplus(x: Tensor) -> Tensor:
    """Return log (1 + exp x) to full precision; torch's own is linear from x = 20."""
    return -F.logsigmoid(-x)


def both(by_edge: Tensor) -> Tensor:
    """Repeat the values of edges on both their arcs: (..., E) -> (..., 2 E)."""
    return torch.cat([by_edge, by_edge], -1)


def reverse(by_arc: Tensor) -> Tensor:
    """Swap the values of the two arcs of each edge: (..., 2 E) -> (..., 2 E)."""
    return by_arc.roll(by_arc.shape[-1] // 2, -1)
