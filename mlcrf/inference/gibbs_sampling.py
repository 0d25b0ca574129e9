"""Gibbs sampling with many chains side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import SettingsError
from mlcrf.inference.gibbs.chains import ChainRun, Engine, choose_engine, run_chains
from mlcrf.inference.gibbs.diagnostics import effective_sample_size, split_r_hat
from mlcrf.inference.gibbs.sample_averages import (
    conditional_means,
    conditional_pairs,
    estimate_log_partition,
)
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.inference.posterior import LogPartitionKind, Posterior

_BLOCK_BYTES = 2**26  # samples of the images that are handled at once
_KEPT_BYTES = 2**30  # samples that are returned
_FIRST_WINDOW = 16  # sweeps, when burn-in is found out
_LAST_WINDOW = 1024
_MAX_TEMPERATURES = 64  # one block of the numba engine


@dataclass(frozen=True)
class Gibbs:
    """Sample label sets by redrawing one label at a time given all the others:

        P(y_i = 1 | the others) = sigmoid(unary_i + sum_j pairwise_ij y_j)

    Marginals average that probability, not the draws (Rao-Blackwell), over chains and sweeps.
    log Z is estimated from the chance that one more sweep ends in the likeliest state y* seen:

        log Z ~ log_score(y*) - log mean_s P(sweep takes y_s to y*)

    Slow to mix where couplings are strong; split R-hat above `max_r_hat` says so. Parallel
    tempering helps there: replicas sample exp(beta_k log_score) at K inverse temperatures,

        beta_k = K^(-k / (K - 1)),    k = 0 .. K - 1

    and neighbours are offered each other's states after every sweep, so that what the hot ones
    find reaches the one at beta = 1, which alone is averaged. Two modes that no chain comes to
    know of remain unseen by either.

    Attributes:
        chains: chains an image.
        burn_in: sweeps thrown away; None throws away windows of 16, 32, ... 1024 sweeps, image by
            image, until the split R-hat within the last one is at most `max_r_hat`.
        sweeps: sweeps kept.
        seed: of the draws; the same seed gives the same bits, on any number of threads.
        max_r_hat: an image has converged if no label's split R-hat is above this,
        min_effective_samples: and no label's effective sample size is below this.
        tempering: number of temperatures, at most 64; 1 does without.
        pairwise_marginals: whether to estimate them too.
        first_image: number of the first image; each image's draws follow from its number and seed.
        engine: numba on a CPU and torch elsewhere if AUTO. Numba draws from log-odds in float32;
            marginals are averaged in float32, or from the samples in float64 if potentials are.

    Cost: O(chains tempering N E) a sweep. Memory: sweeps x chains x N x L bytes for the samples,
    of which every second, third, ... sweep's are kept where that would be above 1 GB.

    Sources: Geman and Geman (1984); Gelfand and Smith (1990) for the marginals; Chib (1995),
    section 2.1, for log Z; Gelman et al., Bayesian Data Analysis (2013), sections 11.4 and 11.5,
    for R-hat and the effective sample size; Geyer (1991) for tempering.
    """

    chains: int = 20
    burn_in: int | None = 20
    sweeps: int = 50
    seed: int = 0
    max_r_hat: float = 1.1
    min_effective_samples: float = 100.0
    tempering: int = 1
    pairwise_marginals: bool = False
    first_image: int = 0
    engine: Engine = Engine.AUTO

    def __post_init__(self) -> None:
        for name in ("chains", "sweeps", "tempering"):
            value = getattr(self, name)
            if value < 1:
                raise SettingsError(f"gibbs: {name}: expected at least 1, got {value}")
        if self.burn_in is not None and self.burn_in < 0:
            raise SettingsError(f"gibbs: burn_in: expected at least 0, got {self.burn_in}")
        if self.tempering > _MAX_TEMPERATURES:
            raise SettingsError(
                f"gibbs: tempering: expected at most {_MAX_TEMPERATURES}, got {self.tempering}"
            )

    @property
    def name(self) -> str:
        """`gibbs`."""
        return "gibbs"

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Sampled beliefs, the samples (sweeps x chains, N, L), and an estimate of log Z."""
        parts = [self._part(sampled) for sampled in self._sample(potentials, known)]
        samples = torch.cat([part.samples for part in parts], 2)
        thin = -(-samples.numel() // _KEPT_BYTES) or 1
        pairs = torch.cat([part.pairs for part in parts])[:, : len(potentials.edges)]
        r_hat = torch.cat([part.r_hat for part in parts])
        effective = torch.cat([part.effective for part in parts])
        mixed, enough = r_hat <= self.max_r_hat, effective >= self.min_effective_samples
        return Posterior(
            marginals=torch.cat([part.marginals for part in parts]),
            log_partition=torch.cat([part.log_partition for part in parts]),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=mixed & enough,
            sweeps=max(part.burned for part in parts) + self.sweeps,
            advice=self._advice(mixed, enough),
            pairwise_marginals=pairs if self.pairwise_marginals else None,
            samples=samples[::thin].flatten(0, 1),
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """The sample of highest score, climbed to a local maximum."""
        return torch.cat([sampled.estimate()[1] for sampled in self._sample(potentials, known)])

    @torch.no_grad()
    def log_partition(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """The estimate of log Z alone, (N,): no diagnostics, and no samples are kept."""
        return torch.cat([sampled.estimate()[0] for sampled in self._sample(potentials, known)])

    def _sample(self, potentials: Potentials, known: Tensor | None) -> Iterator["_Sampled"]:
        """Some images after the other, so that memory is bounded."""
        clamped, coupled = check_known(potentials, known), potentials.as_couplings()
        of_image = self.sweeps * self.chains * potentials.num_labels
        keep_every = -(-of_image // _BLOCK_BYTES)
        at_once = max(1, _BLOCK_BYTES * keep_every // of_image)
        images = torch.arange(potentials.num_images, device=clamped.device)
        for some in torch.split(images, at_once):
            yield self._sample_part(coupled.rows(some), clamped[some], some, keep_every)

    def _sample_part(
        self, potentials: Potentials, known: Tensor, images: Tensor, keep_every: int
    ) -> "_Sampled":
        images = images + self.first_image
        keys = stream_keys(self.seed, images, chains=self.chains, rungs=self.tempering)
        states = random_states(keys, potentials.num_labels).to(images.device)
        first, burned = self._burn(potentials, known, images, states)
        run = self._run(potentials, known, images, states, first, self.sweeps, keep_every)
        return _Sampled(potentials, known, run, burned)

    def _part(self, sampled: "_Sampled") -> "_Part":
        potentials, known, run = sampled.potentials, sampled.known, sampled.run
        flat = run.samples.flatten(0, 1)
        exact = potentials.unary.dtype == torch.float64
        on_numba = choose_engine(self.engine, known.device) is Engine.NUMBA
        return _Part(
            marginals=conditional_means(potentials, flat, known)
            if exact and on_numba
            else run.probabilities,
            log_partition=sampled.estimate()[0],
            pairs=conditional_pairs(potentials, flat, known)
            if self.pairwise_marginals
            else potentials.unary[:, :0],
            samples=run.samples,
            r_hat=split_r_hat(run.samples).amax(-1),
            effective=effective_sample_size(run.samples).amin(-1),
            burned=sampled.burned,
        )

    def _burn(
        self, potentials: Potentials, known: Tensor, images: Tensor, states: Tensor
    ) -> tuple[int, int]:
        """Burn in, in place; returns the number of the next sweep, and how many were made."""
        if self.burn_in is not None:
            if self.burn_in:
                run = self._run(potentials, known, images, states, 0, self.burn_in, 0)
                states.copy_(run.states)
            return self.burn_in, self.burn_in
        left = torch.arange(len(images), device=images.device)
        made, window = 0, _FIRST_WINDOW
        while len(left) and window <= _LAST_WINDOW:
            some, its = potentials.rows(left), states[:, :, left]
            keep_every = window // _FIRST_WINDOW
            run = self._run(some, known[left], images[left], its, made, window, keep_every)
            states[:, :, left] = run.states
            left = left[split_r_hat(run.samples).amax(-1) > self.max_r_hat]
            made, window = made + window, 2 * window
        return 2 * _LAST_WINDOW, made

    def _run(
        self,
        potentials: Potentials,
        known: Tensor,
        images: Tensor,
        states: Tensor,
        first_sweep: int,
        sweeps: int,
        keep_every: int,
    ) -> ChainRun:
        rungs = torch.arange(self.tempering, device=images.device, dtype=torch.float64)
        ladder = float(self.tempering) ** (-rungs / max(1, self.tempering - 1))
        return run_chains(
            potentials,
            states,
            sweeps=sweeps,
            seed=self.seed,
            first_sweep=first_sweep,
            known=known,
            images=images,
            ladder=ladder,
            keep_every=keep_every,
            engine=self.engine,
        )

    def _advice(self, mixed: Tensor, enough: Tensor) -> str:
        said = []
        if not bool(mixed.all()):
            said.append(
                f"split R-hat above {self.max_r_hat} for {int((~mixed).sum())} of {len(mixed)} "
                "images; raise sweeps and burn_in, or use exact, or tempering"
            )
        if not bool(enough.all()):
            said.append(
                f"fewer than {self.min_effective_samples:g} effective samples for "
                f"{int((~enough).sum())} of {len(enough)} images; raise sweeps or chains"
            )
        return "gibbs: " + "; ".join(said) if said else ""


class _Sampled(NamedTuple):
    """What chains gave for some of the images."""

    potentials: Potentials
    known: Tensor
    run: ChainRun
    burned: int

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Log Z (n,), and the state it was estimated at (n, L)."""
        return estimate_log_partition(self.potentials, self.run.samples.flatten(0, 1), self.known)


class _Part(NamedTuple):
    """Beliefs about some of the images; `samples` (T, chains, N, L), the rest image by image."""

    marginals: Tensor
    log_partition: Tensor
    pairs: Tensor
    samples: Tensor
    r_hat: Tensor
    effective: Tensor
    burned: int
