"""TAP: mean field with its second-order correction."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import Fields, Potentials
from mlcrf.inference.messages.passing import Network, SeveralFixedPoints, condition, softplus
from mlcrf.inference.posterior import LogPartitionKind, Posterior, find_converged

_LARGEST = 1e9  # couplings are clipped to this before they are squared: no expansion holds there
_POWERS = 8  # power of the matrix whose row sums bound its spectral radius


@dataclass(frozen=True)
class Tap(SeveralFixedPoints):
    """Approximate marginals by the equations of Thouless, Anderson and Palmer.

    The free energy expanded to second order in the couplings; to first order it is mean field.
    With v_i = q_i (1 - q_i), all labels at once:

        logit q_i = unary_i + sum_j pairwise_ij q_j + (1/2 - q_i) sum_j pairwise_ij^2 v_j
        log Z     ~ sum_i unary_i q_i + sum_{i<j} pairwise_ij q_i q_j + sum_i H(q_i)
                    + 1/2 sum_{i<j} pairwise_ij^2 v_i v_j
        P(y_i = y_j = 1) ~ q_i q_j + pairwise_ij v_i v_j

    the last being the derivative of log Z at a fixed point, clipped to what the marginals allow
    (from max(0, q_i + q_j - 1) to min(q_i, q_j), Frechet).

    Diverges where couplings are strong: the update oscillates, or with much damping converges to
    q = 1/2, which is a solution and wrong. Convergence therefore also requires the matrix
    pairwise_ij^2 v_j^2 to have a spectral radius of at most 1, Plefka's condition, which is bounded
    by the row sums of its eighth power. It holds deep in any one of several modes, too: `converged`
    means a fixed point that a second start did not put in doubt, not a right one. An implication is
    a coupling of 100: use another method there.

    Attributes:
        max_sweeps: as in `FixedPointMethod`.
        tolerance: as in `FixedPointMethod`, of the log-odds.
        damping: as in `FixedPointMethod`, of the log-odds.
        second_start: as in `SeveralFixedPoints`.

    Cost: O(N L^2) per sweep for up to 128 labels, else O(N E), with up to twice the sweeps for the
    second start. Deterministic. Differentiable in both potentials through every sweep.

    Sources: Thouless, Anderson and Palmer (1977); Plefka (1982).
    """

    @property
    def name(self) -> str:
        return "tap"

    def _infer(
        self, potentials: Potentials, known: Tensor, start: Tensor | None = None
    ) -> tuple[Posterior, dict[str, Tensor]]:
        network = condition(potentials, known)
        reaction = _Reaction.of(network)
        log_odds = network.unary if start is None else potentials.conditional_logits(start)
        settled = self.settle(reaction, log_odds)
        log_odds, first, second = settled.state, *network.edges.T
        q = network.marginals(log_odds)
        v = q * (1 - q)
        bonds = network.pairwise * v[:, first] * v[:, second]
        together = q[:, first] * q[:, second]
        entropy = softplus(log_odds) - q * log_odds
        energy = network.pairwise * (together + bonds / 2)
        lowest, highest = (
            (q[:, first] + q[:, second] - 1).clamp(min=0),
            q[:, network.edges].amin(-1),
        )
        pairs = torch.minimum(torch.maximum(together + bonds, lowest), highest)
        problems = self.unsettled(settled)
        problems["have couplings too strong for the expansion"] = ~reaction.is_weak(v)
        posterior = Posterior(
            marginals=q,
            log_partition=network.total(network.unary * q + entropy) + energy.sum(-1),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=find_converged(problems),
            pairwise_marginals=pairs[:, : len(potentials.edges)],
        )
        return posterior, problems


@dataclass(frozen=True)
class _Reaction:
    """The update of the log-odds of the unknown labels, with known ones conditioned on."""

    network: Network
    linear: Fields
    squares: Fields

    @classmethod
    def of(cls, network: Network) -> "_Reaction":
        pairwise = network.pairwise
        unary = torch.zeros_like(
            network.unary if pairwise.ndim == 2 else network.unary.sum(0)[None]
        )
        linear, squares = (
            Fields(Potentials(unary, network.edges, power))
            for power in (pairwise, pairwise.clamp(-_LARGEST, _LARGEST) ** 2)
        )
        return cls(network, linear, squares)

    def step(self, state: Tensor) -> Tensor:
        q = self.network.marginals(state)
        reaction = (0.5 - q) * self.squares.all(q * (1 - q))
        return self.network.unary + self.linear.all(q) + reaction

    def rows(self, wanted: Tensor) -> "_Reaction":
        network = self.network.rows(wanted)
        if network.pairwise.ndim == 2:
            return _Reaction.of(network)
        return replace(self, network=network)

    @torch.no_grad()
    def is_weak(self, v: Tensor) -> Tensor:
        """Return whether the spectral radius of pairwise_ij^2 v_j^2 is certainly at most 1 (N,)."""
        sums = torch.ones_like(v)
        for _ in range(_POWERS):
            sums = self.squares.all(sums * v.square()).clamp(max=1e9)
        return (sums <= 1).all(-1)
