"""Label sets ranked by joint probability as far as samples show."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.decoding.beliefs import Beliefs
from mlcrf.inference import InferenceMethod
from mlcrf.inference.ranking import SLACK, Leaders, Standing, all_sets

_ROUNDING = 1e-6  # log-scores nearer than this are equal


@dataclass(frozen=True)
class SamplingRanker:
    """A ranking of any number of labels, by samples.

    A label set is behind the share of the samples that are more probable than it, which is an
    unbiased estimate of their probability. Its `equal` is that of one sample. What is promised of
    families stands however good the samples are, since they do not depend on the right label set;
    of poor samples the families are large.

    The number of leaders is the mean of 1 / p(sample) over the samples among them, an estimate with
    a large variance. A label counts as sure if all samples among the leaders agree on it.

    Attributes:
        inference: draws the samples, or gives marginals to draw them label by label.
        num_samples, seed: number and random seed of the samples.

    Cost: that of the samples, and O(S E) an image for their scores.
    """

    inference: InferenceMethod
    num_samples: int = 1000
    seed: int = 0

    @torch.no_grad()
    def standing(
        self, potentials: Potentials, states: Tensor, *, known: Tensor | None = None
    ) -> Standing:
        """Return the place of a label set of each image (N, L)."""
        ahead = torch.empty(len(states), dtype=torch.float64)
        for rows, some, samples, _ in self._samples(potentials, known):
            own = self._log_scores(some, states[None, rows].to(samples))
            above = self._log_scores(some, samples) > own + _ROUNDING
            ahead[rows] = above.double().mean(0)
        return Standing(ahead, torch.full_like(ahead, 1 / self.num_samples))

    @torch.no_grad()
    def leaders(
        self,
        potentials: Potentials,
        reach: float,
        share: Tensor,
        *,
        known: Tensor | None = None,
    ) -> Leaders:
        """Return the leaders of each image, as far as samples show."""
        if reach >= 1:
            return all_sets(potentials, known=known)
        numbers = torch.empty(2, len(share), dtype=torch.float64)
        present, absent = (torch.empty(potentials.unary.shape, dtype=torch.bool) for _ in range(2))
        for rows, some, samples, log_partition in self._samples(potentials, known):
            scores = self._log_scores(some, samples)
            ahead = ((reach + SLACK) * self.num_samples - share[rows]).floor().long()
            last = ahead.clamp(0, self.num_samples - 1)
            least = scores.sort(0, descending=True).values.gather(0, last[None])
            among = scores >= least - _ROUNDING
            numbers[0, rows] = ((log_partition - scores).exp() * among).mean(0).clamp(min=1)
            numbers[1, rows] = among.double().mean(0)
            chosen = samples.bool()
            present[rows] = (chosen | ~among[:, :, None]).all(0)
            absent[rows] = (~chosen | ~among[:, :, None]).all(0)
        count, mass = numbers
        return Leaders(count, mass, present, absent, is_exact=False)

    def _samples(
        self, potentials: Potentials, known: Tensor | None
    ) -> Iterator[tuple[slice, Potentials, Tensor, Tensor]]:
        """Yield rows, their potentials, samples (S, n, L) and log Z (n,)."""
        precise = replace(
            potentials, unary=potentials.unary.double(), pairwise=potentials.pairwise.double()
        )
        given = check_known(potentials, known)
        posterior = self.inference(potentials, known=given)
        own = replace(posterior, samples=None)  # of a method that draws more than are asked for
        if posterior.samples is not None and len(posterior.samples) >= self.num_samples:
            every = len(posterior.samples) // self.num_samples
            thinned = posterior.samples[::every][: self.num_samples]
            own = replace(posterior, samples=thinned)
        beliefs = Beliefs(own, potentials, self.inference, given, self.num_samples, self.seed)
        for rows, samples in beliefs.samples():
            yield rows, precise.rows(rows), samples, posterior.log_partition[rows].double()

    def _log_scores(self, potentials: Potentials, states: Tensor) -> Tensor:
        """Return log-scores of label sets (S, n, L), float64 (S, n)."""
        if potentials.has_log_score:
            return potentials.log_score(states)
        mixture: Any = self.inference
        scores: Tensor = mixture.log_probability(potentials, states)
        return scores
