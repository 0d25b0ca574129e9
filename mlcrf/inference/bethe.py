"""Bethe: belief propagation, exact on trees."""

from dataclasses import dataclass

from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference.messages.passing import Propagation, SeveralFixedPoints, condition, softplus
from mlcrf.inference.posterior import LogPartitionKind, Posterior


@dataclass(frozen=True)
class Bethe(SeveralFixedPoints):
    """Approximate marginals by loopy belief propagation, as if the graph were a tree.

    All messages are updated at once, as in `Propagation` with c_ij = 1 and c_i = 1 - degree_i:

        m_ij = log (1 + exp(pairwise_ij + h_ij)) / (1 + exp(h_ij)),      h_ij = B_i - m_ji
        B_i  = unary_i + sum_j m_ji,      marginal_i = sigmoid(B_i)
        log Z ~ sum_i softplus(B_i)
                + sum_ij [softplus(h_ij) + softplus(h_ji) - log sum exp(b_ij)]

    with b_ij's four log-terms 0, h_ij, h_ji and pairwise_ij + h_ij + h_ji. Exact on trees and
    forests. log Z is stationary at a fixed point: it depends on an error in messages squared.

    Fails where couplings are strong and cycles short: messages may oscillate, or converge to one
    of several fixed points, with marginals too near 0 and 1. log Z may be too high or too low.
    `converged` means a fixed point that a second start did not put in doubt, not a right one.

    Attributes:
        max_sweeps: as in `FixedPointMethod`; a tree needs more sweeps than its longest path has
            edges.
        tolerance: as in `FixedPointMethod`.
        damping: as in `FixedPointMethod`.
        second_start: as in `SeveralFixedPoints`.

    Cost: O(N E) per sweep, with up to twice the sweeps for the second start. Deterministic.
    Differentiable in both potentials through every sweep.

    Sources: Pearl (1988), chapter 4; Yedidia, Freeman and Weiss (2005).
    """

    @property
    def name(self) -> str:
        return "bethe"

    def _infer(
        self, potentials: Potentials, known: Tensor, start: Tensor | None = None
    ) -> tuple[Posterior, dict[str, Tensor]]:
        network = condition(potentials, known)
        unary = network.unary
        flow = Propagation(
            network,
            edge_count=unary.new_ones(len(network.edges)),
            label_count=unary.new_ones(unary.shape[1]),
        )
        fields = flow.start()
        if start is not None:
            fields = network.at_source(potentials.conditional_logits(start))
        settled = self.settle(flow, fields)
        fields, messages = settled.state, flow.messages(settled.state)
        log_odds = flow.log_odds(messages)
        marginals = network.marginals(log_odds)
        pairs = flow.pairwise_marginals(fields, messages, marginals)
        first, second = softplus(fields).chunk(2, -1)
        bonds = first + second - flow.edge_log_partitions(fields, messages)
        posterior = Posterior(
            marginals=marginals,
            log_partition=network.total(softplus(log_odds)) + bonds.sum(-1),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=settled.converged,
            pairwise_marginals=pairs[:, : len(potentials.edges)],
        )
        return posterior, self.unsettled(settled)
