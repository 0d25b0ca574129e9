"""Annealed importance sampling: estimate log Z on the way from independent labels to the CRF."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference.gibbs.label_groups import GroupedCouplings, certain_bias, draw, sweep_groups
from mlcrf.inference.modes import (
    BELOW_A_SCORE,
    ROUNDED_AWAY,
    is_below,
    is_rounded_away,
    iterated_conditional_modes,
    search_modes,
)
from mlcrf.inference.posterior import LogPartitionKind, Posterior, advise, find_converged

_MIN_EFFECTIVE_SHARE = (
    0.25  # an image counts as converged if the effective share of chains is at least this
)
_MAX_START = 10.0  # log-odds of a label at the start, of either sign
_CHUNK_ENTRIES = 2**19  # largest labels x chains x images per chunk


@dataclass(frozen=True)
class Annealed:
    """Weighted chains: the mean of w f(y) over them has expectation Z E[f(y)], for any f.

    Attributes:
        states: where each chain ended, uint8 (S, N, L).
        log_weights: log w of each chain, float64 (S, N).
        log_scores: the score of each state, float64 (S, N).
        marginals: weighted mean of the probabilities from which the last sweep drew (N, L).
    """

    states: Tensor
    log_weights: Tensor
    log_scores: Tensor
    marginals: Tensor

    @property
    def log_partition(self) -> Tensor:
        """The log of the mean weight, float64 (N,)."""
        return self.log_weights.logsumexp(0) - math.log(len(self.log_weights))

    @property
    def effective_chains(self) -> Tensor:
        """The effective number of chains, (sum w)^2 / sum w^2, float64 (N,): from 1 to S."""
        return (2 * self.log_weights.logsumexp(0) - (2 * self.log_weights).logsumexp(0)).exp()

    @property
    def standard_error(self) -> Tensor:
        """The standard error of `log_partition`, float64 (N,), if it is small.

        The variance of the mean weight over its square, 1 / effective - 1 / S.
        """
        spread = 1 / self.effective_chains - 1 / len(self.log_weights)
        return spread.clamp_min(0).sqrt()

    def resampled(self, generator: torch.Generator) -> Tensor:
        """Draw S states of equal weight, uint8 (S, N, L), by systematic resampling."""
        chains, num_images = self.log_weights.shape
        cumulative = self.log_weights.softmax(0).cumsum(0).T.contiguous()
        start = draw(cumulative.new_empty(num_images, 1), generator)
        steps = torch.arange(chains, device=cumulative.device)
        chosen = torch.searchsorted(cumulative, (start + steps) / chains).clamp_max(chains - 1)
        return self.states.gather(0, chosen.T[..., None].expand(self.states.shape))


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Estimate log Z with chains that start at independent labels and end at the CRF.

    With s_0(y) the score of independent labels, and s_1 that of the CRF, the models

        log f_k(y) = (1 - beta_k) s_0(y) + beta_k s_1(y),      0 = beta_0 < ... < beta_K = 1

    lead from independent labels, whose Z_0 and samples are exact, to the CRF. Their log-odds are

        unary_i + sum over known j of pairwise_ij y_j + 1/2 sum over unknown j of pairwise_ij

    which is the CRF's field on label i if labels are written as spins of -1 and 1: where labels
    attract each other and all or none are present, both modes are on the way. They are limited to
    between -10 and 10: where labels exclude each other by a coupling of -1e9, no chain would
    otherwise have any of them before the last step. A chain starts from a sample y_0 of the first;
    Gibbs sweeps at each beta_k lead from y_{k-1} to y_k. Its weight is

        log w = log Z_0 + sum_k (beta_k - beta_{k-1}) (s_1(y_{k-1}) - s_0(y_{k-1}))

    and E[w] = Z, so exp(`log_partition`) is unbiased for any number of chains and sweeps. Its
    logarithm is too low on average, by half its variance if that is small. Marginals are weighted
    means of the probabilities from which the last sweep drew (Rao-Blackwell); samples are
    resampled by weight.

    The beta_k are evenly spaced; with rules their square roots are, because the first step
    would be too large. Fails where modes lie far apart: few chains then carry the weight, which
    their effective number shows, unless no chain has visited the mode. An image has converged if at
    least a quarter of its chains are effective, so that the standard error of log Z is 0.22 or less
    at 64 chains, and log Z is not below the score of a state that a chain or a local search found.

    Attributes:
        chains: number of chains per image.
        temperatures: number K of distributions after the first.
        sweeps: Gibbs sweeps per distribution.
        seed: random seed; the same seed and number of threads give the same bits.

    Cost: O(chains K sweeps N (L + E)). Memory: chains x N x L bytes.

    Sources: Neal (2001), Annealed importance sampling; Salakhutdinov and Murray (2008) for
    models of this kind.
    """

    chains: int = 64
    temperatures: int = 200
    sweeps: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        return "ais"

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Sample beliefs, an estimate of log Z, and label vectors (chains, N, L)."""
        generator = self._generator(potentials)
        clamped = check_known(potentials, known)
        annealed = self._run(potentials, clamped, generator)
        log_z, error = annealed.log_partition, annealed.standard_error
        modes = search_modes(potentials, (annealed.marginals > 0.5).long(), clamped)
        best = torch.maximum(annealed.log_scores.amax(0), modes.best_score.double())
        few = f"have fewer than {_MIN_EFFECTIVE_SHARE:.0%} of {self.chains} chains effective"
        problems = {
            few: annealed.effective_chains < _MIN_EFFECTIVE_SHARE * self.chains,
            BELOW_A_SCORE: is_below(log_z, best.to(potentials.unary.dtype), error),
            ROUNDED_AWAY: is_rounded_away(potentials, annealed.states, potentials.unary.dtype),
        }
        converged = find_converged(problems)
        return Posterior(
            marginals=annealed.marginals,
            log_partition=log_z.to(potentials.unary.dtype),
            log_partition_kind=LogPartitionKind.ESTIMATE,
            converged=converged,
            advice=advise(
                self.name,
                problems,
                "--inference exact, junction-tree or gibbs of train, evaluate and report",
            ),
            samples=annealed.resampled(generator),
            log_partition_error=error.where(converged, torch.inf),
        )

    @torch.no_grad()
    def anneal(self, potentials: Potentials, *, known: Tensor | None = None) -> Annealed:
        """Run the chains; return them with their weights."""
        return self._run(potentials, check_known(potentials, known), self._generator(potentials))

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the last state of highest score, improved to a local maximum."""
        annealed = self.anneal(potentials, known=known)
        best = annealed.log_scores.argmax(0)
        chosen = annealed.states[best, torch.arange(len(best), device=best.device)].long()
        return iterated_conditional_modes(potentials, chosen, check_known(potentials, known))

    def _generator(self, potentials: Potentials) -> torch.Generator:
        return torch.Generator(device=potentials.unary.device).manual_seed(self.seed)

    def _run(self, potentials: Potentials, known: Tensor, generator: torch.Generator) -> Annealed:
        left = potentials.as_couplings().rules.limits
        if left:
            names = [str(label) for label in range(potentials.num_labels)]
            raise PotentialsError(
                f"annealed importance sampling cannot keep to the rule `{left[0].text(names)}` "
                "(labels by number); use --inference exact, junction-tree or gibbs"
            )
        shape = (self.chains, *potentials.unary.shape)
        states = torch.empty(shape, dtype=torch.uint8, device=known.device)
        log_weights, log_scores = torch.empty(
            (2, *shape[:2]), dtype=torch.float64, device=known.device
        )
        marginals = torch.empty_like(potentials.unary)
        size = max(1, _CHUNK_ENTRIES // (self.chains * potentials.num_labels))
        for start in range(0, potentials.num_images, size):
            rows = slice(start, start + size)
            part = self._anneal(potentials.rows(rows), known[rows], generator)
            states[:, rows], marginals[rows] = part.states, part.marginals
            log_weights[:, rows], log_scores[:, rows] = part.log_weights, part.log_scores
        return Annealed(states, log_weights, log_scores, marginals)

    def _anneal(
        self, potentials: Potentials, known: Tensor, generator: torch.Generator
    ) -> Annealed:
        plain = Potentials(potentials.unary, potentials.edges, potentials.pairwise)
        present = known.clamp_min(0)
        # includes the couplings to known labels, and half of those to unknown ones
        fields = plain.conditional_logits(known.double().where(known != UNKNOWN, 0.5))
        unary = fields.clamp(-_MAX_START, _MAX_START)
        couplings = GroupedCouplings(potentials, less=unary - plain.unary)
        bias = certain_bias(unary, known)
        y = present.T[:, None].repeat(1, self.chains, 1).to(unary.dtype)
        uniforms, probabilities = torch.empty_like(y), torch.empty_like(y)
        free = F.softplus(unary).where(known == UNKNOWN, 0).double().sum(-1)
        log_weights = (free + plain.log_score(present)).repeat(self.chains, 1)
        # a sweep at beta = 0 draws independent labels; without an unknown label s_1 = s_0
        coupled = sweep_groups(couplings, y, bias, 0.0, draw(uniforms, generator)).double()
        before, power = 0.0, 2 if len(potentials.rules) else 1
        for step in range(1, self.temperatures + 1):
            beta = (step / self.temperatures) ** power
            log_weights += (beta - before) * coupled
            for _ in range(self.sweeps):
                draw(uniforms, generator)
                coupled += sweep_groups(
                    couplings, y, bias, beta, uniforms, probabilities=probabilities
                )
            before = beta
        marginals = (probabilities * log_weights.softmax(0).to(unary.dtype)).sum(1).clamp(0, 1).T
        alone = (y * torch.where(known == UNKNOWN, unary, 0).T[:, None]).sum(0).double()
        return Annealed(
            states=y.permute(1, 2, 0).to(torch.uint8),
            log_weights=log_weights,
            log_scores=plain.log_score(present).double() + alone + coupled,
            marginals=torch.where(known == UNKNOWN, marginals, known.to(unary.dtype)),
        )
