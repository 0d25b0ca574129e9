"""Sums over the latent scenes of each image, given an inference method for one scene."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference import InferenceMethod, LogPartitionKind, Posterior
from mlcrf.inference.posterior import advise
from mlcrf.latent.scene_potentials import ScenePotentials

_ENTRIES = 2**24  # largest number of label sets scored at once
_MAX_FLIPS = 100
_LEAST_GAIN = 1e-6  # in log-probability, so that rounding cannot flip labels back and forth


@dataclass(frozen=True)
class SceneSum:
    """Inference in mixtures over scenes; takes only `ScenePotentials`.

        P(known) = sum_k softmax(gates)_k Z_k(known) / Z_k
        P(y_i = 1, known) = sum_k softmax(gates)_k P_k(y_i = 1, known)

    `log_partition` is log P(known), which is 0 if nothing is known. Exact and differentiable if
    `emission` is.

    `map_states` is not exact: no closed form is known. The candidates are the most
    probable set of each scene and the marginals above 0.5; the best candidate is then improved by
    flipping single labels.

    Attributes:
        emission: the inference method for one scene.

    Cost: that of `emission` on N K images, twice if labels are known.
    """

    emission: InferenceMethod

    @property
    def name(self) -> str:
        exact = ("independent", "exact", "junction-tree")
        return "scenes" if self.emission.name in exact else f"scenes-{self.emission.name}"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs, given what is known (N, L)."""
        mixture = _mixture(potentials)
        clamped = check_known(mixture, known)
        evidence, within = self._evidence(mixture, clamped)
        joint = mixture.gates.log_softmax(-1) + evidence
        weights = joint.softmax(-1)
        num_scenes = mixture.num_scenes
        converged = within.converged.reshape(-1, num_scenes).all(-1)
        marginals = within.marginals.reshape(-1, num_scenes, mixture.num_labels)
        return Posterior(
            marginals=(weights.unsqueeze(-1) * marginals).sum(1),
            log_partition=joint.logsumexp(-1),
            log_partition_kind=within.log_partition_kind,
            converged=converged,
            advice=advise(
                self.name,
                {"did not converge in some of their scenes": ~converged},
                "--inference exact, junction-tree or gibbs of train, evaluate and report",
            ),
        )

    def evidence(self, mixture: ScenePotentials, known: Tensor) -> Tensor:
        """Return log P(known given the scene), (N, K)."""
        return self._evidence(mixture, check_known(mixture, known))[0]

    def scene_weights(self, mixture: ScenePotentials, *, known: Tensor | None = None) -> Tensor:
        """Return P(scene given x and what is known), (N, K)."""
        evidence, _ = self._evidence(mixture, check_known(mixture, known))
        return (mixture.gates.log_softmax(-1) + evidence).softmax(-1)

    def log_probability(self, mixture: ScenePotentials, states: Tensor) -> Tensor:
        """Return log p(y) of whole label sets: (..., N, L) -> (..., N)."""
        each = mixture.by_scene()
        scores = each.log_score(states.repeat_interleave(mixture.num_scenes, -2))
        scores = scores - self.emission(each).log_partition
        by_scene = scores.reshape(*scores.shape[:-1], -1, mixture.num_scenes)
        return (by_scene + mixture.gates.log_softmax(-1)).logsumexp(-1)

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return a probable label set that no change of one label improves, int64 (N, L)."""
        mixture = _mixture(potentials)
        clamped = check_known(mixture, known)
        by_scene = self.emission.map_states(
            mixture.by_scene(), known=clamped.repeat_interleave(mixture.num_scenes, 0)
        ).reshape(-1, mixture.num_scenes, mixture.num_labels)
        by_label = (self(mixture, known=clamped).marginals > 0.5).long()
        candidates = [*by_scene.unbind(1), by_label]
        values = torch.stack([self.log_probability(mixture, states) for states in candidates])
        best = values.argmax(0)
        states = torch.stack(candidates)[best, torch.arange(len(best), device=best.device)]
        step = max(1, _ENTRIES // (mixture.num_labels * mixture.num_scenes))
        parts = [
            self._improve(mixture.rows(rows), states[rows], clamped[rows])
            for rows in (slice(at, at + step) for at in range(0, len(states), step))
        ]
        return torch.cat(parts) if parts else states

    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw independent label sets given what is known, uint8 (num_samples, N, L).

        Within a scene, label sets are drawn by the emission; label by label if nothing is coupled.
        """
        mixture = _mixture(potentials)
        clamped = check_known(mixture, known)
        weights = self.scene_weights(mixture, known=clamped)
        scene = torch.multinomial(weights, num_samples, replacement=True, generator=generator).T
        repeated = clamped.repeat_interleave(mixture.num_scenes, 0)
        drawer: Any = self.emission
        if hasattr(drawer, "sample"):
            drawn: Tensor = drawer.sample(
                mixture.by_scene(), num_samples, generator, known=repeated
            )
            drawn = drawn.reshape(num_samples, -1, mixture.num_scenes, mixture.num_labels)
            place = scene[:, :, None, None].expand(-1, -1, 1, mixture.num_labels)
            chosen: Tensor = drawn.gather(2, place).squeeze(2)
            return chosen
        marginals = self.emission(mixture.by_scene(), known=repeated).marginals
        p = marginals.reshape(-1, mixture.num_scenes, mixture.num_labels)
        taken = p[torch.arange(len(p), device=p.device), scene]
        uniform = torch.rand(taken.shape, generator=generator, dtype=p.dtype, device=p.device)
        return (uniform < taken).to(torch.uint8)

    def _evidence(self, mixture: ScenePotentials, known: Tensor) -> tuple[Tensor, Posterior]:
        """Return log P(known given the scene) (N, K), and beliefs within scenes (N K images)."""
        each = mixture.by_scene()
        free = self.emission(each)
        if bool((known == UNKNOWN).all()):
            return torch.zeros_like(mixture.gates), free
        clamped = self.emission(each, known=known.repeat_interleave(mixture.num_scenes, 0))
        ratio = clamped.log_partition - free.log_partition
        exact = free.log_partition_kind is LogPartitionKind.EXACT
        kind = LogPartitionKind.EXACT if exact else LogPartitionKind.ESTIMATE
        return ratio.reshape(-1, mixture.num_scenes), replace(clamped, log_partition_kind=kind)

    def _improve(self, mixture: ScenePotentials, states: Tensor, known: Tensor) -> Tensor:
        """Flip the one label that gains most, until none gains."""
        each, num_scenes = mixture.by_scene(), mixture.num_scenes
        constant = mixture.gates - self.emission(each).log_partition.reshape(-1, num_scenes)
        free = known == UNKNOWN
        for _ in range(_MAX_FLIPS):
            within = states.repeat_interleave(num_scenes, 0)
            odds = each.conditional_logits(within).reshape(-1, num_scenes, mixture.num_labels)
            scores = each.log_score(within).reshape(-1, num_scenes) + constant
            gain = odds * (1 - 2 * states).unsqueeze(1)
            flipped = (scores.unsqueeze(-1) + gain).logsumexp(1).masked_fill(~free, -torch.inf)
            best, label = flipped.max(1)
            better = best > scores.logsumexp(1) + _LEAST_GAIN
            if not bool(better.any()):
                break
            rows = better.nonzero().squeeze(1)
            states = states.clone()
            states[rows, label[rows]] = 1 - states[rows, label[rows]]
        return states


def _mixture(potentials: Potentials) -> ScenePotentials:
    if not isinstance(potentials, ScenePotentials):
        raise PotentialsError(
            f"scenes: expected ScenePotentials, got {type(potentials).__name__}, which have none"
        )
    return potentials
