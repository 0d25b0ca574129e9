"""The joint likelihood by sampling, where exact inference does not reach."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import Gibbs, Posterior
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.sample_averages import (
    conditional_pairs,
    conditional_totals,
    pair_totals,
)
from mlcrf.inference.gibbs.streams import random_states, stream_keys

_CLAMPED_SEED = 2**32  # added for the chains that see the labels, so that they draw otherwise


@dataclass(frozen=True)
class Moments:
    """What the potentials multiply, on average: the gradient of log Z.

    Attributes:
        marginals: P(y_i = 1) of each image (N, L).
        pairs: P(y_i = 1, y_j = 1) an edge, summed over images (E,); by image (N, E) where
            couplings vary.
    """

    marginals: Tensor
    pairs: Tensor

    def times(self, potentials: Potentials) -> Tensor:
        """Sum over images of the score of such averages, a scalar."""
        return (potentials.unary * self.marginals).sum() + (potentials.pairwise * self.pairs).sum()


@dataclass(frozen=True)
class Chains:
    """The memory of contrastive divergence.

    Attributes:
        known: 1, 0 or -1 for unknown (N, L).
        free: chains that see nothing, uint8 (S, N, L); expected: their last averages.
        clamped: chains that see what is known, None if that is everything; met: their averages,
            or those of the targets.
        sweeps: made so far.
    """

    known: Tensor
    free: Tensor
    clamped: Tensor | None
    expected: Moments
    met: Moments
    sweeps: int = 0


@dataclass(frozen=True)
class ContrastiveDivergence:
    """Negative log-likelihood by its gradient, from chains that persist between steps.

        gradient = E[phi] - E[phi | known],      phi = (y_i, y_i y_j)

    The first expectation is that of free chains, the second of the targets, or, where labels are
    unknown, of chains in which the known ones are clamped. All go on from step to step, so that
    a few sweeps follow what the step changed (Younes 1999; Tieleman 2008). Averages are those of
    P(y_i | the others) and of its products with y_j, which vary less than the draws. `loss` is the
    score of the difference: only its gradient means anything. A call samples anew and gives the
    likelihood itself, with the estimate of log Z of `Gibbs`.

    Attributes:
        chains: an image, free and clamped alike.
        sweeps: a step.
        seed: of the draws.
        first_image: number of the first image, by which and by seed its draws are made.

    Cost: O(chains sweeps N E) a step. Memory: chains x sweeps x N x L bytes.
    """

    chains: int = 10
    sweeps: int = 2
    seed: int = 0
    first_image: int = 0

    @torch.no_grad()
    def start(self, potentials: Potentials, targets: Tensor) -> Chains:
        """Random states, and what the targets average to."""
        keys = stream_keys(self.seed, self._images(len(targets)), chains=self.chains)
        states = random_states(keys, targets.shape[1]).to(targets.device)
        nothing = Moments(potentials.unary, potentials.pairwise)
        if _all_known(targets):
            return Chains(targets, states, None, nothing, _of_targets(potentials, targets))
        return Chains(targets, states, states.clone(), nothing, nothing)

    @torch.no_grad()
    def advance(self, memory: Chains, potentials: Potentials) -> Chains:
        """Some more sweeps of all chains."""
        free, expected = self._sample(potentials, memory.free, memory.sweeps, None)
        memory = replace(memory, free=free, expected=expected)
        if memory.clamped is not None:
            clamped, met = self._sample(potentials, memory.clamped, memory.sweeps, memory.known)
            memory = replace(memory, clamped=clamped, met=met)
        return replace(memory, sweeps=memory.sweeps + self.sweeps)

    def loss(self, memory: Chains, potentials: Potentials) -> Tensor:
        """Score of what the chains expect minus that of what is there, a mean over images."""
        difference = memory.expected.times(potentials) - memory.met.times(potentials)
        return difference / len(memory.known)

    def __call__(self, potentials: Potentials, targets: Tensor) -> Tensor:
        """The likelihood estimated from new chains; its gradient is that of the averages.

        Args: as `PersistentObjective`.

        Returns:
            A scalar: summed over labels, averaged over images.
        """
        value, difference = self._estimate(potentials, None)
        if _all_known(targets):
            log_scores = potentials.log_score(targets)
            value, difference = value - log_scores.detach().sum(), difference - log_scores.sum()
        else:
            clamped, clamped_difference = self._estimate(potentials, targets)
            value, difference = value - clamped, difference - clamped_difference
        return (value + difference - difference.detach()) / len(targets)

    def _estimate(self, potentials: Potentials, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sum of log Z over images, and something whose gradient is that of log Z."""
        seed = self.seed if known is None else self.seed + _CLAMPED_SEED
        gibbs = Gibbs(chains=2 * self.chains, seed=seed, first_image=self.first_image)
        if not torch.is_grad_enabled():
            value = gibbs.log_partition(potentials, known=known).sum()
            return value, torch.zeros_like(value)
        posterior: Posterior = gibbs(potentials, known=known)
        value = posterior.log_partition.sum()
        assert posterior.samples is not None
        clamped = _known_or_not(potentials, known)
        moments = Moments(posterior.marginals, _pairs(potentials, posterior.samples, clamped))
        return value, moments.times(potentials)

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
        clamped = _known_or_not(potentials, known)
        pairs = _pairs(potentials, run.samples.flatten(0, 1), clamped)
        return run.states, Moments(run.probabilities, pairs)


def _all_known(targets: Tensor) -> bool:
    return bool((targets >= 0).all())


def _known_or_not(potentials: Potentials, known: Tensor | None) -> Tensor:
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
