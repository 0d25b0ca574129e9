"""The same potentials for other programs."""

from typing import Any

import dimod
import numpy as np
import torch
from dwave.samplers import SimulatedAnnealingSampler

from mlcrf.crf import Potentials, full_edges

_SIZES = {"even": (0.0, 1.5, 0.3), "photo": (-3.0, 2.0, 0.6), "rare": (-6.5, 3.0, 0.6)}


def make_model(kind: str, num_labels: int, *, neighbours: int | None, seed: int = 0) -> Potentials:
    """One image's CRF, float32.

    Args:
        kind: `even` labels are present about half of the time, those of a `photo` seldom, `rare`
            ones hardly ever.
        neighbours: edges of a label on average; None couples all pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = full_edges(num_labels)
    scale = (24 / num_labels) ** 0.5
    if neighbours:
        wanted = torch.rand(len(edges), generator=generator) < neighbours / (num_labels - 1)
        edges, scale = edges[wanted], 1.0
    mean, spread, size = _SIZES[kind]
    unary = mean + spread * torch.randn(1, num_labels, generator=generator)
    pairwise = size * scale * torch.randn(len(edges), generator=generator)
    return Potentials(unary, edges, pairwise)


def to_spins(potentials: Potentials) -> Any:
    """The model as dimod's binary quadratic model over spins, whose energy is -log_score."""
    model = dimod.BinaryQuadraticModel("BINARY")
    model.add_linear_from({i: -float(u) for i, u in enumerate(potentials.unary[0])})
    pairs = zip(potentials.edges.tolist(), potentials.pairwise.tolist(), strict=True)
    model.add_quadratic_from((i, j, -coupling) for (i, j), coupling in pairs)
    return model.change_vartype("SPIN", inplace=False)


def sample_dwave(spins: Any, *, reads: int, sweeps: int, seed: int) -> tuple[Any, float]:
    """Gibbs sampling at temperature 1: states (reads, L), and its own seconds of sampling."""
    result = SimulatedAnnealingSampler().sample(
        spins,
        num_reads=reads,
        num_sweeps_per_beta=sweeps,
        beta_schedule_type="custom",
        beta_schedule=[1.0],
        proposal_acceptance_criteria="Gibbs",
        seed=seed,
    )
    order = np.argsort([int(label) for label in result.variables])
    states = np.repeat((result.record.sample > 0)[:, order], result.record.num_occurrences, axis=0)
    return states, result.info["timing"]["sampling_ns"] / 1e9
