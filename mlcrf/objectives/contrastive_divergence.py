"""The gradient of the likelihood by sampling, where exact inference is not feasible."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import Gibbs
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.sample_averages import (
    conditional_pairs,
    conditional_totals,
    pair_totals,
)
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.objectives.objective import all_known, with_silence

_CLAMPED_SEED = 2**32  # added for the clamped chains, so that their draws differ


@dataclass(frozen=True)
class Moments:
    """Expectations of y_i and y_i y_j: the gradient of log Z.

    Attributes:
        marginals: P(y_i = 1) of each image (N, L).
        pairs: P(y_i = 1, y_j = 1) of each edge, summed over images (E,); by image (N, E) if
            couplings vary by image.
    """

    marginals: Tensor
    pairs: Tensor

    def score(self, potentials: Potentials) -> Tensor:
        """Return the expected score, summed over images, a scalar."""
        return (potentials.unary * self.marginals).sum() + (potentials.pairwise * self.pairs).sum()


@dataclass(frozen=True)
class Chains:
    """The memory of contrastive divergence.

    Attributes:
        known: 1, 0 or -1 for unknown (N, L).
        free: states of the chains of the negative phase, uint8 (S, N, L).
        clamped: states of the chains of the positive phase, in which known labels are clamped;
            None if all labels are known.
        negative: the last expectations of the negative phase.
        positive: the last expectations of the positive phase; the targets themselves if all are
            known.
        sweeps: number of sweeps so far.
    """

    known: Tensor
    free: Tensor
    clamped: Tensor | None
    negative: Moments
    positive: Moments
    sweeps: int = 0


@dataclass(frozen=True)
class ContrastiveDivergence:
    """Loss with the gradient of the negative log-likelihood, from chains that persist.

        gradient = E[phi] - E[phi | known],      phi = (y_i, y_i y_j)

    The first expectation (negative phase) is over free chains, the second (positive phase) over the
    targets, or, where labels are unknown, over chains in which the known labels are clamped. Chains
    continue from step to step, so that a few sweeps follow each change (Younes 1999; Tieleman
    2008). Expectations average P(y_i | the others) and its products with y_j, which vary less than
    the states. `loss` is the score of the difference: only its gradient is meaningful. A call
    starts new chains and returns the likelihood itself, with the estimate of log Z of `Gibbs`.

    Attributes:
        chains: number of free and of clamped chains per image.
        sweeps: number of sweeps per step.
        first_image: number of the first image; number and seed determine the draws of an image.
        silence: evidence of sources that mention only a part of what is present, on the clamped
            chains; see `mlcrf.objectives.objective.with_silence`.

    Cost: O(chains sweeps N E) per step. Memory: chains x sweeps x N x L bytes.
    """

    chains: int = 10
    sweeps: int = 2
    seed: int = 0
    first_image: int = 0
    silence: Tensor | None = None

    @torch.no_grad()
    def start(self, potentials: Potentials, targets: Tensor) -> Chains:
        """Return random states, and the expectations of the targets."""
        keys = stream_keys(self.seed, self._images(len(targets)), chains=self.chains)
        states = random_states(keys, targets.shape[1]).to(targets.device)
        nothing = Moments(potentials.unary, potentials.pairwise)
        if all_known(targets):
            return Chains(targets, states, None, nothing, _of_targets(potentials, targets))
        return Chains(targets, states, states.clone(), nothing, nothing)

    @torch.no_grad()
    def advance(self, memory: Chains, potentials: Potentials) -> Chains:
        """Make some more sweeps of all chains."""
        free, negative = self._sample(potentials, memory.free, memory.sweeps, None)
        memory = replace(memory, free=free, negative=negative)
        if memory.clamped is not None:
            told, known = with_silence(potentials, memory.known, self.silence)
            clamped, positive = self._sample(told, memory.clamped, memory.sweeps, known)
            memory = replace(memory, clamped=clamped, positive=positive)
        return replace(memory, sweeps=memory.sweeps + self.sweeps)

    def loss(self, memory: Chains, potentials: Potentials) -> Tensor:
        """Return the score of the negative minus that of the positive phase, a mean over images."""
        difference = memory.negative.score(potentials) - memory.positive.score(potentials)
        return difference / len(memory.known)

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        """Return the likelihood estimated from new chains; its gradient is the difference above.

        Args: as `PersistentObjective`.

        Returns:
            A scalar: summed over labels, averaged over images.
        """
        free = self._log_partition(potentials, None)
        if all_known(targets):
            return (free - potentials.log_score(targets)).sum() / len(targets)
        told, known = with_silence(potentials, targets, self.silence)
        return (free - self._log_partition(told, known)).sum() / len(targets)

    def _log_partition(self, potentials: Potentials, known: Tensor | None) -> Tensor:
        """Estimate log Z from new chains (N,)."""
        seed = self.seed if known is None else self.seed + _CLAMPED_SEED
        gibbs = Gibbs(chains=2 * self.chains, seed=seed, first_image=self.first_image)
        if not torch.is_grad_enabled():
            return gibbs.log_partition(potentials, known=known)
        return gibbs(potentials, known=known).log_partition

    def _images(self, count: int) -> Tensor:
        return torch.arange(self.first_image, self.first_image + count)

    def _sample(
        self, potentials: Potentials, states: Tensor, first_sweep: int, known: Tensor | None
    ) -> tuple[Tensor, Moments]:
        run = run_chains(
            potentials,
            states,
            sweeps=self.sweeps,
            seed=self.seed if known is None else self.seed + _CLAMPED_SEED,
            first_sweep=first_sweep,
            known=known,
            images=self._images(potentials.num_images),
            thin=1,
        )
        clamped = _or_all_unknown(potentials, known)
        pairs = _pairs(potentials, run.samples.flatten(0, 1), clamped)
        return run.states, Moments(run.probabilities, pairs)


def _or_all_unknown(potentials: Potentials, known: Tensor | None) -> Tensor:
    return torch.full_like(potentials.unary, UNKNOWN).long() if known is None else known


@torch.no_grad()
def _pairs(potentials: Potentials, samples: Tensor, known: Tensor) -> Tensor:
    average = conditional_pairs if potentials.varies_by_image else conditional_totals
    return average(potentials, samples, known)


def _of_targets(potentials: Potentials, known: Tensor) -> Moments:
    y = known.to(potentials.unary.dtype)
    if potentials.varies_by_image:
        return Moments(y, y[:, potentials.edges].prod(-1))
    return Moments(y, pair_totals(y, y, potentials.edges))
