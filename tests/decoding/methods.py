"""A decoder of every rule, and inference methods that know the truth from the oracle."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.choices import Decision
from mlcrf.crf import Potentials, check_known
from mlcrf.decoding import Decoder
from mlcrf.inference import InferenceMethod, LogPartitionKind, Posterior
from tests.decoding import brute
from tests.making import expected
from tests.oracle import Oracle, oracles

READY = {
    Decision.THRESHOLD: Decoder(),
    Decision.TUNED_THRESHOLD: Decoder(Decision.TUNED_THRESHOLD, 0.3),
    Decision.LABEL_THRESHOLDS: Decoder(Decision.LABEL_THRESHOLDS, (0.2, 0.4, 0.6, 0.3, 0.5, 0.1)),
    Decision.MAP: Decoder(Decision.MAP),
    Decision.EXPECTED_F1: Decoder(Decision.EXPECTED_F1),
    Decision.EXPECTED_JACCARD: Decoder(Decision.EXPECTED_JACCARD, num_samples=50),
    Decision.TOP_K: Decoder(Decision.TOP_K, k=3),
    Decision.F1_OF_MEANS: Decoder(Decision.F1_OF_MEANS, k=3),
}


@dataclass(frozen=True)
class Plain:
    """The oracle as an inference method that counts and draws nothing."""

    name: str = "plain"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        truth, unary = self._oracles(potentials, known), potentials.unary
        shape = unary.shape
        return Posterior(
            marginals=expected(truth, "marginals", unary).reshape(shape),
            log_partition=expected(truth, "log_partition", unary),
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones(len(unary), dtype=torch.bool),
        )

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        best = [
            max(one.scores, key=lambda state: one.scores[state])
            for one in self._oracles(potentials, known)
        ]
        return torch.tensor(best, dtype=torch.int64).reshape(potentials.unary.shape)

    @staticmethod
    def _oracles(potentials: Potentials, known: Tensor | None) -> list[Oracle]:
        return oracles(potentials.as_couplings(), check_known(potentials, known))


@dataclass(frozen=True)
class Enumeration(Plain):
    """The same with count marginals."""

    def count_marginals(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        return brute.count_marginals(self._oracles(potentials, known), potentials.num_labels)


@dataclass(frozen=True)
class Sampling(Plain):
    """The same with draws."""

    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        drawn = torch.empty(num_samples, *potentials.unary.shape, dtype=torch.uint8)
        for image, one in enumerate(self._oracles(potentials, known)):
            states = torch.tensor(list(one.probabilities), dtype=torch.uint8)
            mass = torch.tensor(list(one.probabilities.values()))
            which = torch.multinomial(mass, num_samples, replacement=True, generator=generator)
            drawn[:, image] = states[which]
        return drawn


ORACLE = Enumeration()


def decided(
    decoder: Decoder,
    potentials: Potentials,
    inference: InferenceMethod | None = None,
    known: Tensor | None = None,
) -> Tensor:
    method = ORACLE if inference is None else inference
    return decoder(method(potentials, known=known), potentials, method, known=known)
