"""Gibbs sampling with many chains in parallel."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import SettingsError
from mlcrf.inference.exact.differentiation import last_derivative
from mlcrf.inference.gibbs.chains import ChainRun, Engine, choose_engine, run_chains
from mlcrf.inference.gibbs.diagnostics import (
    effective_sample_size,
    log_mean_error,
    split_r_hat,
)
from mlcrf.inference.gibbs.sample_averages import (
    LogPartition,
    conditional_means,
    conditional_pairs,
    conditional_totals,
    estimate_log_partition,
)
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.inference.modes import (
    BELOW_A_SCORE,
    ROUNDED_AWAY,
    is_below,
    is_rounded_away,
    search_modes,
)
from mlcrf.inference.posterior import LogPartitionKind, Posterior, advise, find_converged

_BLOCK_BYTES = 2**26  # largest samples of the images processed at once
_KEPT_BYTES = 2**30  # largest samples returned
_MAX_R_HAT = 1.1  # an image has converged if no label's split R-hat is above this,
_MIN_EFFECTIVE = 100  # and no label's effective sample size is below this
_UNMIXED = f"have a split R-hat above {_MAX_R_HAT} or fewer than {_MIN_EFFECTIVE} effective samples"
_MAX_LOG_Z_ERROR = 0.5  # a larger standard error comes from a handful of chains, and says nothing


@dataclass(frozen=True)
class Gibbs:
    """Sample label sets by redrawing one label at a time given all others:

        P(y_i = 1 | the others) = sigmoid(unary_i + sum_j pairwise_ij y_j)

    Marginals average that probability, not the draws (Rao-Blackwell), over chains and sweeps.
    log Z is estimated from the probability that one more sweep ends in the likeliest state y*
    seen:

        log Z ~ log_score(y*) - log mean_s P(sweep takes y_s to y*)

    Its standard error, `log_partition_error`, comes from how the chains' means of that probability
    differ. It is infinite where the image has not converged or where it would be above 0.5 nats:
    with many labels hardly any sweep leads to y*, marginals can be good and log Z is unknown.
    `log_partition` is differentiable in both potentials: its gradient is the sampled marginals of
    labels and pairs, and as good as these.

    Labels that limits link are redrawn together, so that no sample breaks a hard rule.

    Slow to mix where couplings are strong: an image has converged if the split R-hat of every
    label is at most 1.1, its effective sample size at least 100, and log Z not below the score of a
    state that a local search found. Another mode that no chain visits remains unseen.

    Attributes:
        chains: number of chains per image.
        burn_in: number of first sweeps, which are discarded.
        sweeps: number of sweeps kept.
        seed: random seed; the same seed gives the same samples on any number of threads. Float32
            marginals are then the same bits too; pair averages, log Z and float64 marginals are
            products of matrices, and may differ by rounding between numbers of threads.
        pairwise_marginals: whether to estimate pairwise marginals too.
        first_image: number of the first image; each image's draws follow from its number and seed.
        engine: numba on a CPU and torch elsewhere if AUTO. Numba draws from log-odds in float32;
            marginals are averaged in float32, or from the samples in float64 if potentials are.

    Cost: O(chains N E) per sweep. Memory: sweeps x chains x N x L bytes for the samples,
    thinned where these would take more than 1 GB.

    Sources: Geman and Geman (1984); Gelfand and Smith (1990) for the marginals; Chib (1995),
    section 2.1, for log Z; Gelman et al., Bayesian Data Analysis (2013), sections 11.4 and 11.5,
    for R-hat and the effective sample size.
    """

    chains: int = 20
    burn_in: int = 20
    sweeps: int = 50
    seed: int = 0
    pairwise_marginals: bool = False
    first_image: int = 0
    engine: Engine = Engine.AUTO

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("sweeps", 1), ("burn_in", 0)):
            value = getattr(self, name)
            if value < least:
                raise SettingsError(f"gibbs: {name}: expected at least {least}, got {value}")

    @property
    def name(self) -> str:
        return "gibbs"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Sample beliefs, label vectors (sweeps x chains, N, L), and an estimate of log Z."""
        clamped = check_known(potentials, known)
        posterior = self._infer(potentials, clamped)
        log_partition = _WithGradient.apply(
            potentials.unary, potentials.pairwise, potentials, clamped, posterior
        )
        return replace(posterior, log_partition=log_partition)

    @torch.no_grad()
    def _infer(self, potentials: Potentials, known: Tensor) -> Posterior:
        parts = [self._summarise(sampled) for sampled in self._sample(potentials, known)]
        samples = torch.cat([part.samples for part in parts], 2)
        thin = -(-samples.numel() // _KEPT_BYTES) or 1
        pairs = torch.cat([part.pairs for part in parts])[:, : len(potentials.edges)]
        problems = {
            _UNMIXED: ~torch.cat([part.mixed for part in parts]),
            BELOW_A_SCORE: torch.cat([part.below for part in parts]),
            ROUNDED_AWAY: torch.cat([part.rounded for part in parts]),
        }
        converged = find_converged(problems)
        error = torch.cat([part.log_partition_error for part in parts])
        return Posterior(
            marginals=torch.cat([part.marginals for part in parts]),
            log_partition=torch.cat([part.log_partition for part in parts]),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=converged,
            advice=advise(
                self.name,
                problems,
                "--inference exact, junction-tree or ais of train, evaluate and report",
            ),
            pairwise_marginals=pairs if self.pairwise_marginals else None,
            samples=samples[::thin].flatten(0, 1),
            log_partition_error=error.where(converged & (error <= _MAX_LOG_Z_ERROR), torch.inf),
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the sample of highest score, improved to a local maximum."""
        return torch.cat([sampled.estimate().best for sampled in self._sample(potentials, known)])

    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw from the samples of the chains, with replacement, uint8 (num_samples, N, L).

        The chains themselves follow `seed`, not the generator.
        """
        every = self.draw(potentials, known=known).samples
        chosen = torch.randint(
            len(every), (num_samples,), generator=generator, device=generator.device
        )
        return every[chosen]

    @torch.no_grad()
    def draw(
        self, potentials: Potentials, *, known: Tensor | None = None, images: Tensor | None = None
    ) -> "Draws":
        """Sample beliefs and label vectors without log Z, which takes most of the time.

        Args:
            images: number of each image's random stream (N,), so that an image has the same draws
                alone and among others; by default its position.
        """
        parts = [sampled.run for sampled in self._sample(potentials, known, images)]
        samples = torch.cat([part.samples for part in parts], 2)
        return Draws(
            torch.cat([part.probabilities for part in parts]),
            samples.flatten(0, 1),
            torch.cat([_mixed(part.samples) for part in parts]),
        )

    @torch.no_grad()
    def log_partition(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Estimate log Z alone, (N,): no diagnostics, and no samples are kept."""
        return torch.cat([sampled.estimate().value for sampled in self._sample(potentials, known)])

    def _sample(
        self, potentials: Potentials, known: Tensor | None, images: Tensor | None = None
    ) -> Iterator["_Sampled"]:
        """Sample the images in groups, so that memory is bounded."""
        clamped = check_known(potentials, known)
        coupled = potentials if potentials.rules.limits else potentials.as_couplings()
        bytes_an_image = self.sweeps * self.chains * potentials.num_labels
        thin = -(-bytes_an_image // _BLOCK_BYTES)
        at_once = max(1, _BLOCK_BYTES * thin // bytes_an_image)
        rows = torch.arange(potentials.num_images, device=clamped.device)
        numbers = rows if images is None else images
        for some in torch.split(rows, at_once):
            yield self._sample_part(coupled.rows(some), clamped[some], numbers[some], thin)

    def _sample_part(
        self, potentials: Potentials, known: Tensor, images: Tensor, thin: int
    ) -> "_Sampled":
        images = images + self.first_image
        keys = stream_keys(self.seed, images, chains=self.chains)
        states = random_states(keys, potentials.num_labels).to(images.device)
        run = partial(
            run_chains, potentials, seed=self.seed, known=known, images=images, engine=self.engine
        )
        if self.burn_in:
            states = run(states, sweeps=self.burn_in).states
        kept = run(states, sweeps=self.sweeps, first_sweep=self.burn_in, thin=thin)
        return _Sampled(potentials, known, kept)

    def _summarise(self, sampled: "_Sampled") -> "_Part":
        potentials, known, run = sampled.potentials, sampled.known, sampled.run
        flat = run.samples.flatten(0, 1)
        exact = potentials.unary.dtype == torch.float64
        on_numba = choose_engine(self.engine, known.device) is Engine.NUMBA
        on_numba &= not potentials.rules.limits  # which are kept to in torch
        marginals = run.probabilities
        if exact and on_numba:
            marginals = conditional_means(potentials, flat, known)
        log_z = sampled.estimate()
        error = log_mean_error(log_z.log_steps.reshape(run.samples.shape[:3]))
        best_score = search_modes(potentials, (marginals > 0.5).long(), known).best_score
        return _Part(
            marginals=marginals,
            log_partition=log_z.value,
            log_partition_error=error,
            pairs=conditional_pairs(potentials, flat, known)
            if self.pairwise_marginals
            else potentials.unary[:, :0],
            samples=run.samples,
            mixed=_mixed(run.samples),
            below=is_below(log_z.value, best_score, error),
            rounded=is_rounded_away(
                potentials, run.samples[-1], torch.float32 if on_numba else potentials.unary.dtype
            ),
        )


class _WithGradient(torch.autograd.Function):
    """An estimate of log Z; its gradient is the sampled marginals of labels and pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        unary: Tensor,
        pairwise: Tensor,
        potentials: Potentials,
        known: Tensor,
        posterior: Posterior,
    ) -> Tensor:
        ctx.potentials, ctx.known, ctx.posterior = potentials, known, posterior
        ctx.save_for_backward(unary, pairwise)
        return posterior.log_partition.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradient(ctx, grad), None, None, None


@last_derivative("gibbs: an estimate of log Z has one derivative; not more")
def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the gradient in unaries and couplings of log Z weighted by `grad` (N,)."""
    potentials, samples, known = ctx.potentials, ctx.posterior.samples, ctx.known
    of_unary = grad[:, None] * ctx.posterior.marginals
    if not ctx.needs_input_grad[1]:
        return of_unary, None
    if potentials.varies_by_image:
        return of_unary, grad[:, None] * conditional_pairs(potentials, samples, known)
    if bool((grad == grad[:1]).all()):  # which saves a row for each image
        totals = conditional_totals(potentials, samples, known)
        return of_unary, grad[:1].sum() * totals
    return of_unary, grad @ conditional_pairs(potentials, samples, known)


class Draws(NamedTuple):
    """Sampled beliefs about N images.

    Attributes:
        marginals: P(y_i = 1), averaged over chains and sweeps (N, L).
        samples: label vectors, uint8 (S, N, L).
        converged: whether the chains of an image agree and are long enough (N,).
    """

    marginals: Tensor
    samples: Tensor
    converged: Tensor


class _Sampled(NamedTuple):
    """The chains of some of the images."""

    potentials: Potentials
    known: Tensor
    run: ChainRun

    def estimate(self) -> LogPartition:
        """Estimate log Z from all samples."""
        return estimate_log_partition(self.potentials, self.run.samples.flatten(0, 1), self.known)


class _Part(NamedTuple):
    """Beliefs about some of the images; `samples` (T, chains, N, L), the rest image by image.

    `mixed` says whether the chains agree, `below` whether log Z is below the score of a label set,
    `rounded` whether log-odds are rounded too much.
    """

    marginals: Tensor
    log_partition: Tensor
    log_partition_error: Tensor
    pairs: Tensor
    samples: Tensor
    mixed: Tensor
    below: Tensor
    rounded: Tensor


def _mixed(samples: Tensor) -> Tensor:
    """Return for which images chains (T, chains, N, L) agree and are long enough, (N,)."""
    return (split_r_hat(samples).amax(-1) <= _MAX_R_HAT) & (
        effective_sample_size(samples).amin(-1) >= _MIN_EFFECTIVE
    )
