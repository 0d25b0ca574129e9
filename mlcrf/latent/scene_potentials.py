"""Mixtures of CRFs over latent scenes; each scene shifts the unaries."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import PotentialsError


@dataclass(frozen=True)
class ScenePotentials(Potentials):
    """A batch of mixtures over K scenes, each with its own label bias:

        p(y) = sum_k softmax(gates)_k p_k(y),      p_k(y) ~ exp(log_score_k(y))

    log_score_k is that of `Potentials` with unaries `unary + shifts_k`. Every p_k is normalised,
    so a label set has no score without a sum over all label sets.

    Attributes:
        gates: log-odds of the scenes, (N, K).
        shifts: what each scene adds to the unaries, (K, L).

    Raises:
        PotentialsError: shapes, types or devices do not fit, or a value is not finite.
    """

    has_log_score: ClassVar[bool] = False

    gates: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    shifts: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = self.num_images, self.num_scenes
        if not self.num_scenes or self.gates.shape != shape:
            raise PotentialsError(f"gates: expected {shape}, got {tuple(self.gates.shape)}")
        if self.shifts.shape != (self.num_scenes, self.num_labels):
            raise PotentialsError(
                f"shifts: expected ({self.num_scenes}, {self.num_labels}), "
                f"got {tuple(self.shifts.shape)}"
            )

    @property
    def num_scenes(self) -> int:
        return len(self.shifts)

    def by_scene(self) -> Potentials:
        """Return the N K CRFs of every image and scene, ordered by image."""
        unary = (self.unary[:, None] + self.shifts).flatten(0, 1)
        pairwise = self.pairwise
        if self.varies_by_image:
            pairwise = pairwise.repeat_interleave(self.num_scenes, 0)
        return Potentials(unary, self.edges, pairwise, self.rules)

    def log_score(self, states: Tensor) -> Tensor:
        """Raise PotentialsError: every scene has its own log Z, which needs a sum."""
        raise PotentialsError("a mixture over scenes has no log_score; clamp the labels instead")

    def scaled(self, unary: Tensor | float, pairwise: Tensor | float) -> Self:
        """Return the mixtures with unaries, shifts and couplings multiplied; gates stay."""
        return replace(super().scaled(unary, pairwise), shifts=unary * self.shifts)

    def rows(self, wanted: Tensor | slice) -> "ScenePotentials":
        pairwise = self.pairwise[wanted] if self.varies_by_image else self.pairwise
        return replace(self, unary=self.unary[wanted], pairwise=pairwise, gates=self.gates[wanted])
