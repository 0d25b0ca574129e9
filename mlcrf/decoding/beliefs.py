"""Count marginals and samples of label sets, from the best source that a method offers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.decoding.counts import count_marginals_from_samples, count_marginals_if_independent
from mlcrf.inference import InferenceMethod, Posterior

_ENTRIES = 2**22  # largest number of entries of samples or count marginals per chunk
_COUNTS = 256  # largest number of present labels that is expected of many


@runtime_checkable
class CountsLabels(Protocol):
    """An inference method that computes count marginals itself."""

    def count_marginals(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return P(y_i = 1, |y| = s) given what is known (N, L, L + 1)."""
        ...


@runtime_checkable
class DrawsLabels(Protocol):
    """An inference method that draws independent samples."""

    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw label sets given what is known, uint8 (num_samples, N, L)."""
        ...


@dataclass(frozen=True)
class Beliefs:
    """Count marginals and samples of N images, from the best source available.

    Attributes:
        posterior: result of `inference` on `potentials` and `known`.
        known: 1, 0 or -1 for unknown (N, L).
        num_samples, seed: number and random seed of samples, if the posterior has none.
    """

    posterior: Posterior
    potentials: Potentials
    inference: InferenceMethod
    known: Tensor
    num_samples: int
    seed: int

    def count_marginals(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield P(y_i = 1, |y| = s) of a few images at a time (n, L, C); see `counts`.

        From the inference method, else from samples, else as if labels were independent.
        """
        inference, marginals = self.inference, self.posterior.marginals
        if isinstance(inference, CountsLabels):
            for rows in self._chunks(self.potentials.num_labels + 1):
                potentials = self.potentials.rows(rows)
                yield rows, inference.count_marginals(potentials, known=self.known[rows])
        elif self.posterior.samples is not None or isinstance(inference, DrawsLabels):
            for rows, samples in self.samples():
                yield rows, count_marginals_from_samples(samples)
        else:
            for rows in self._chunks(min(self.potentials.num_labels + 1, _COUNTS)):
                yield rows, count_marginals_if_independent(marginals[rows])

    def samples(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield label sets of a few images at a time, uint8 (S, n, L).

        From the posterior, else drawn by the inference method, else label by label.
        """
        draw = self._drawer()
        for rows in self._chunks(self.num_samples):
            yield rows, draw(rows)

    def _drawer(self) -> Callable[[slice], Tensor]:
        samples, marginals = self.posterior.samples, self.posterior.marginals
        if samples is not None:
            return lambda rows: samples[:, rows]
        inference = self.inference
        generator = torch.Generator(device=marginals.device).manual_seed(self.seed)

        def jointly(rows: slice) -> Tensor:
            assert isinstance(inference, DrawsLabels)
            return inference.sample(
                self.potentials.rows(rows), self.num_samples, generator, known=self.known[rows]
            )

        def label_by_label(rows: slice) -> Tensor:
            p = marginals[rows]
            shape = (self.num_samples, *p.shape)
            uniform = torch.rand(shape, generator=generator, device=p.device, dtype=p.dtype)
            return (uniform < p).to(torch.uint8)

        return jointly if isinstance(inference, DrawsLabels) else label_by_label

    def _chunks(self, entries_per_label: int) -> Iterator[slice]:
        num_images, num_labels = self.potentials.unary.shape
        step = max(1, _ENTRIES // (entries_per_label * num_labels))
        return (slice(start, start + step) for start in range(0, num_images, step))
