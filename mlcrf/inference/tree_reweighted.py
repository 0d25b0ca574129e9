"""Tree-reweighted belief propagation: an upper bound on log Z from a mixture of trees."""

from dataclasses import dataclass

from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference.messages.passing import (
    FixedPointMethod,
    Network,
    Propagation,
    both,
    condition,
    reverse,
    softplus,
)
from mlcrf.inference.posterior import LogPartitionKind, Posterior


@dataclass(frozen=True)
class TreeReweighted(FixedPointMethod):
    """Approximate marginals by a mixture of trees, which bounds log Z.

    Spanning trees T are weighted so that edge (i, j) is in a share rho_ij of them. The entropy
    of p is at most that of its projection on each tree, so

        log Z <= max over b of  sum_i unary_i b_i + sum_ij pairwise_ij b_ij(1, 1)
                                + sum_i H(b_i) - sum_ij rho_ij I(b_ij)

    by `Propagation` with c_ij = rho_ij and c_i = 1 - sum_j rho_ij. Trees are uniform over all
    spanning trees of each connected component: rho_ij is the effective resistance, 2 / L on a full
    graph, 1 on a tree, where all of this is exact. In components of more than 512 labels they are
    drawn instead, each preferring the edges that were in the fewest so far.

    With a uniform root every tree is directed: rho_i|j is the share in which j is i's parent,
    r_i that in which i is the root, and r_i + sum_j rho_i|j = 1. Any fields h give the dual

        D(h) = sum_i r_i softplus(theta_i / r_i) + sum over both ways of rho_i|j softplus(h_ij)
        theta_i = unary_i - sum_j rho_i|j h_ij + sum_j rho_j|i m_ji

    which is an upper bound on log Z at every iterate, converged or not: the entropy above is
    sum_i r_i H(b_i) + sum rho_i|j H(b_ij given b_j), and each conditional entropy is at most the
    cross-entropy to sigmoid(h_ij + pairwise_ij y_j / rho_ij). The couplings then cancel, and what
    is left is theta_i b_i + r_i H(b_i), at most r_i softplus(theta_i / r_i). At a fixed point
    theta_i = r_i B_i and D is the maximum itself.

    Fails where couplings are strong: the bound is then loose, the marginals are too near 1/2, and
    messages converge slowly (the bound long before them). rho is not optimised. Known labels are
    conditioned on, and the trees stay those of the whole graph.

    Attributes:
        max_sweeps: as in `FixedPointMethod`.
        tolerance: as in `FixedPointMethod`; looser than that of other methods, which are faster.
        damping: as in `FixedPointMethod`; less than in other methods, for the same reason.
        seed: random seed of the trees drawn for large components.

    Cost: O(N E) per sweep; once per edge set O(L^3) up to 512 labels, else O(E log E) per tree.
    Deterministic. Differentiable in both potentials through every sweep.

    Sources: Wainwright, Jaakkola and Willsky (2005); Globerson and Jaakkola (2007) for the dual
    over directed trees.
    """

    tolerance: float = 1e-3
    damping: float = 0.2
    seed: int = 0

    @property
    def name(self) -> str:
        return "tree-reweighted"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs of labels and pairs, and an upper bound on log Z."""
        from mlcrf.inference.messages.spanning_trees import tree_shares  # scipy

        network = condition(potentials, known)
        unary = network.unary
        child, root = (
            part.to(unary) for part in tree_shares(network.edges, unary.shape[1], seed=self.seed)
        )
        flow = Propagation(
            network,
            edge_count=child.reshape(2, len(network.edges)).sum(0),
            label_count=unary.new_ones(unary.shape[1]),
        )
        settled = self.settle(flow, flow.start())
        fields, messages = settled.state, flow.messages(settled.state)
        marginals = network.marginals(flow.log_odds(messages))
        pairs = flow.pairwise_marginals(fields, messages, marginals)
        return Posterior(
            marginals=marginals,
            log_partition=_dual(network, fields, messages, child, root),
            log_partition_kind=LogPartitionKind.UPPER,
            converged=settled.converged,
            advice=self.advice(self.unsettled(settled)),
            pairwise_marginals=pairs[:, : len(potentials.edges)],
        )


def _dual(
    network: Network, fields: Tensor, messages: Tensor, child: Tensor, root: Tensor
) -> Tensor:
    """Return D(h) (N,); a label whose parent is known counts as a root."""
    is_open = both(network.open)
    inner = child * is_open
    root = root + network.leaving(child * (1 - is_open))
    theta = network.unary + network.leaving(reverse(inner * messages) - inner * fields)
    return network.total(root * softplus(theta / root)) + (inner * softplus(fields)).sum(-1)
