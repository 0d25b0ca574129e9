"""Gibbs sampling with many chains side by side."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.inference.posterior import LogPartitionKind, Posterior, climb


@dataclass(frozen=True)
class Gibbs:
    """Sample label sets by redrawing one label at a time given all the others:

        P(y_i = 1 | the others) = sigmoid(unary_i + sum_j pairwise_ij y_j)

    Marginals average that probability, not the draws (Rao-Blackwell), over chains and sweeps.
    log Z is estimated from the chance that one more sweep ends in the likeliest state y* seen:

        log Z ~ log_score(y*) - log mean_s P(sweep takes y_s to y*)

    Slow to mix where couplings are strong; split R-hat above `max_r_hat` says so.

    Attributes:
        chains: chains an image.
        burn_in: sweeps thrown away.
        sweeps: sweeps kept.
        seed: of the draws; the same seed gives the same bits.
        max_r_hat: an image has converged if no label's split R-hat is above this.

    Cost: O(chains N L^2) a sweep. Memory: sweeps x chains x N x L bytes for the samples.

    Sources: Geman and Geman (1984); Gelfand and Smith (1990) for the marginals; Chib (1995),
    section 2.1, for log Z; Gelman et al., Bayesian Data Analysis (2013), section 11.4, for R-hat.
    """

    chains: int = 20
    burn_in: int = 20
    sweeps: int = 50
    seed: int = 0
    max_r_hat: float = 1.1

    @property
    def name(self) -> str:
        """`gibbs`."""
        return "gibbs"

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Sampled beliefs, the samples (sweeps x chains, N, L), and an estimate of log Z."""
        clamped = check_known(potentials, known)
        unary, matrix = potentials.unary, potentials.pairwise_matrix()
        generator = torch.Generator(device=unary.device).manual_seed(self.seed)
        shape = (self.chains, *unary.shape)

        def uniforms() -> Tensor:
            return torch.rand(shape, generator=generator, device=unary.device, dtype=unary.dtype)

        # far apart, so that chains that get stuck are seen to disagree
        y = (uniforms() < 0.5).to(unary.dtype)
        y = torch.where(clamped == UNKNOWN, y, clamped.to(unary.dtype))
        for _ in range(self.burn_in):
            sweep(unary, matrix, y, clamped, uniforms())
        total = torch.zeros_like(unary)
        samples = torch.empty((self.sweeps, *shape), dtype=torch.uint8, device=unary.device)
        for kept in range(self.sweeps):
            total += sweep(unary, matrix, y, clamped, uniforms()).mean(0)
            samples[kept] = y.to(torch.uint8)
        converged = split_r_hat(samples).amax(-1) <= self.max_r_hat
        flat = samples.reshape(-1, *unary.shape)
        return Posterior(
            marginals=total / self.sweeps,
            log_partition=_log_partition(potentials, flat, clamped),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=converged,
            sweeps=self.burn_in + self.sweeps,
            advice=""
            if bool(converged.all())
            else f"gibbs: split R-hat above {self.max_r_hat} for {int((~converged).sum())} of "
            f"{len(unary)} images; raise sweeps and burn_in, or use exact",
            samples=flat,
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """The sample of highest score, climbed to a local maximum."""
        samples = self(potentials, known=known).samples
        assert samples is not None
        best = _best_sample(potentials, samples)
        return climb(potentials, best, check_known(potentials, known))


def sweep(unary: Tensor, matrix: Tensor, y: Tensor, known: Tensor, uniforms: Tensor) -> Tensor:
    """Redraw every unknown label once, in order, in place.

    Args:
        unary: (N, L); matrix: couplings (L, L) or (N, L, L).
        y: states, changed in place (..., N, L).
        known: 1, 0 or -1 for unknown (N, L).
        uniforms: draws from [0, 1), one a label (..., N, L).

    Returns:
        The probability from which each label was drawn (..., N, L); the value of known ones.
    """
    probabilities = torch.empty_like(y)
    for label in range(y.shape[-1]):
        p = (unary[:, label] + (matrix[..., label] * y).sum(-1)).sigmoid()
        free = known[:, label] == UNKNOWN
        probabilities[..., label] = torch.where(free, p, y[..., label])
        y[..., label] = torch.where(free, (uniforms[..., label] < p).to(y.dtype), y[..., label])
    return probabilities


def split_r_hat(samples: Tensor) -> Tensor:
    """Split R-hat of each label's draws: (T, chains, N, L) -> (N, L).

    Near 1 when the halves of all chains agree; 1 where nothing varies, infinite where chains
    are stuck in different states.
    """
    half = len(samples) // 2
    if half < 2:
        return torch.full(samples.shape[2:], torch.inf, device=samples.device)
    parts = torch.cat([samples[:half], samples[half : 2 * half]], 1).double()
    within = parts.var(0).mean(0)
    between = parts.mean(0).var(0)
    ratio = (half - 1) / half + between / within
    return torch.where(between == 0, torch.ones_like(ratio), ratio).sqrt()


def _best_sample(potentials: Potentials, samples: Tensor) -> Tensor:
    best = potentials.log_score(samples[0])
    states = samples[0].clone()
    for sample in samples[1:]:
        score = potentials.log_score(sample)
        better = score > best
        best = torch.where(better, score, best)
        states[better] = sample[better]
    return states.long()


def _log_partition(potentials: Potentials, samples: Tensor, known: Tensor) -> Tensor:
    best = climb(potentials, _best_sample(potentials, samples), known)
    log_transition = torch.cat(
        [_log_transition(potentials, part, best, known) for part in torch.split(samples, 64)]
    )
    mean = log_transition.logsumexp(0) - math.log(len(samples))
    return potentials.log_score(best) - mean


def _log_transition(potentials: Potentials, start: Tensor, end: Tensor, known: Tensor) -> Tensor:
    """Log-probability that one sweep takes `start` (S, N, L) to `end` (N, L): (S, N)."""
    matrix = potentials.pairwise_matrix()
    y, end = start.to(potentials.unary.dtype), end.to(potentials.unary.dtype)
    total = torch.zeros_like(y[..., 0])
    for label in range(potentials.num_labels):
        field = potentials.unary[:, label] + (matrix[..., label] * y).sum(-1)
        step = F.logsigmoid((2 * end[:, label] - 1) * field)
        total += torch.where(known[:, label] == UNKNOWN, step, torch.zeros_like(step))
        y[..., label] = end[:, label]
    return total
