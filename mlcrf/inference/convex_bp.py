"""Convex belief propagation: a concave upper bound on log Z, and its dual for training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference.messages.passing import (
    FixedPointMethod,
    Propagation,
    both,
    condition,
    softplus,
)
from mlcrf.inference.posterior import LogPartitionKind, Posterior


@dataclass(frozen=True)
class ConvexBeliefPropagation(FixedPointMethod):
    """Infer the beliefs that maximise a concave bound, with every counting number 1.

        max over b of  sum_i unary_i b_i + sum_ij pairwise_ij b_ij(1, 1) + sum_i H(b_i)
                       + sum_ij H(b_ij),      each b_ij consistent with b_i and b_j

    by `Propagation` with c_i = c_ij = 1, so that B_i = (unary_i + sum_j m_ji) / (1 + degree_i).
    Any fields h give a value of the dual,

        D(h) = sum_i softplus(unary_i - sum_j h_ij) + sum_ij log sum exp(b_ij)

    whose least value is that maximum. It is an upper bound on log Z at every iterate, converged
    or not: exp(log_score) is the product of the factors in D for any h, and a sum of products
    of positive factors is at most the product of their sums. With damping of at least 1/2 no
    sweep raises D on any graph: the update is the exact minimiser over one label's fields, every
    term of D meets at most two labels, and D is convex.

    Fails by counting entropy far too often: on a full graph without coupling the marginal is
    sigmoid(unary_i / L), not sigmoid(unary_i), and the bound is never tight where there is an
    edge. Fit for training, with the same method then used to predict; poor for calibrated
    probabilities of a CRF that was trained otherwise. Known labels are conditioned on: their edges
    become unaries and count no entropy.

    Attributes:
        max_sweeps: as in `FixedPointMethod`.
        tolerance: as in `FixedPointMethod`.
        damping: as in `FixedPointMethod`.

    Cost: O(N E) per sweep. Deterministic. Differentiable in both potentials through every sweep;
    `dual_value` and `update` let a learner keep fields between steps instead.

    Sources: Hazan and Shashua (2010); Hazan and Urtasun (2010); Chen et al. (2015).
    """

    @property
    def name(self) -> str:
        return "convex-bp"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs of labels and pairs, and an upper bound on log Z."""
        flow = _propagation(potentials, known)
        settled = self.settle(flow, flow.start())
        messages = flow.messages(settled.state)
        marginals = flow.network.marginals(flow.log_odds(messages))
        pairs = flow.pairwise_marginals(settled.state, messages, marginals)
        return Posterior(
            marginals=marginals,
            log_partition=_dual(flow, settled.state),
            log_partition_kind=LogPartitionKind.UPPER,
            converged=settled.converged,
            advice=self.advice(self.unsettled(settled)),
            pairwise_marginals=pairs[:, : len(potentials.edges)],
        )


def start_messages(potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
    """Return the first fields for `update` (N, 2 E); E includes the edges of rules."""
    return _propagation(potentials, known).start()


@torch.no_grad()
def settled_messages(potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
    """Return the fields at which `ConvexBeliefPropagation` stops (N, 2 E)."""
    flow = _propagation(potentials, known)
    return ConvexBeliefPropagation().settle(flow, flow.start()).state


def update(
    potentials: Potentials, messages: Tensor, *, known: Tensor | None = None, damping: float = 0.5
) -> Tensor:
    """Make one sweep of convex belief propagation: fields (N, 2 E) -> (N, 2 E).

    With damping of at least 1/2 `dual_value` does not rise. Differentiable; a learner that keeps
    the fields between steps calls it without gradients, once or a few times per step.
    """
    flow = _propagation(potentials, known)
    return damping * messages + (1 - damping) * flow.step(messages)


def dual_value(potentials: Potentials, messages: Tensor, *, known: Tensor | None = None) -> Tensor:
    """Return the dual D(h) of `ConvexBeliefPropagation`, an upper bound on log Z (N,).

    Differentiable. For fixed fields its gradient is the beliefs of its factors,

        d D / d unary_i = sigmoid(unary_i - sum_j h_ij),      d D / d pairwise_ij = b_ij(1, 1)

    exactly, converged or not; where the fields have converged these agree with each other, are
    the pseudo-marginals, and are the gradient of the bound itself (Danskin). So

        dual_value(potentials, messages) - potentials.log_score(targets)

    bounds the negative log-likelihood from above, and is jointly convex in potentials and fields:
    taking turns between `update` and a gradient step on the potentials is the blended learning
    of Chen et al. (2015), after Hazan and Urtasun (2010).

    Args:
        potentials: unary (N, L), pairwise (E,) or (N, E).
        messages: cavity fields (N, 2 E), from `start_messages` and `update`.
        known: 1, 0 or -1 for unknown (N, L).
    """
    return _dual(_propagation(potentials, known), messages)


def _propagation(potentials: Potentials, known: Tensor | None) -> Propagation:
    network = condition(potentials, known)
    degree = network.leaving(both(network.open))
    return Propagation(
        network,
        edge_count=network.unary.new_ones(len(network.edges)),
        label_count=1 + degree,
    )


def _dual(flow: Propagation, fields: Tensor) -> Tensor:
    network = flow.network
    pairs = flow.edge_log_partitions(fields, flow.messages(fields))
    rest = network.unary - network.leaving(both(network.open) * fields)
    return network.total(softplus(rest)) + (network.open * pairs).sum(-1)
