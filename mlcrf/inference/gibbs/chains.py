"""Gibbs chains: sweeps, swaps between temperatures, and two engines that make the same draws."""

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, check_known, neighbours
from mlcrf.errors import PotentialsError
from mlcrf.inference.gibbs.streams import stream_keys, uniforms

_DENSE_LABELS = 128  # up to here the numba engine takes couplings as a matrix
_AT_ONCE = 2**25  # averages of labels by image and chain, in float64
_LARGEST = 1e30  # log-odds and couplings beyond are cut, so that float32 sums stay finite


class Engine(StrEnum):
    """What runs the sweeps."""

    AUTO = "auto"
    NUMBA = "numba"
    TORCH = "torch"


class ChainRun(NamedTuple):
    """Where chains got to, and what they met on the way.

    Attributes:
        states: the last states, like those that came in, uint8.
        probabilities: from which labels were drawn, averaged over sweeps and chains (N, L): the
            marginals after Rao and Blackwell. Those of known labels are their values; NaN where
            no averages were asked for.
        samples: the states after every `keep_every` sweeps, uint8 (T, S, N, L).
    """

    states: Tensor
    probabilities: Tensor
    samples: Tensor


def choose_engine(engine: Engine, device: torch.device) -> Engine:
    """NUMBA or TORCH: AUTO is numba on a CPU, torch elsewhere."""
    if engine is not Engine.AUTO:
        return engine
    return Engine.NUMBA if device.type == "cpu" else Engine.TORCH


@torch.no_grad()
def run_chains(
    potentials: Potentials,
    states: Tensor,
    *,
    sweeps: int,
    seed: int = 0,
    first_sweep: int = 0,
    known: Tensor | None = None,
    images: Tensor | None = None,
    ladder: Tensor | None = None,
    keep_every: int = 0,
    average: bool = True,
    engine: Engine = Engine.AUTO,
) -> ChainRun:
    """Carry chains on by some sweeps; each redraws every unknown label once, in order.

    Chains that persist, as contrastive divergence keeps them (Tieleman 2008), go on from the
    states that came out, with `first_sweep` raised by the sweeps made.

    With a ladder of K inverse temperatures beta the states are those of K replicas, of which
    replica k samples exp(beta_k log_score); after each sweep every second pair of neighbours is
    offered each other's states, which leaves the joint distribution as it is:

        accepted with probability min(1, exp((beta_k - beta_l) (log_score(y_l) - log_score(y_k))))

    Args:
        states: where to start, 0 or 1: (S, N, L), or (K, S, N, L) with a ladder. Known labels
            take their values whatever stands there.
        sweeps: at least 1.
        first_sweep: number of the first; the same number gives the same draws again.
        known: 1, 0 or -1 for unknown (N, L).
        images: number of each image's random stream, int64 (N,); their positions if None.
        ladder: (K,), the first 1, K at most 64. Only replicas at 1 are averaged and kept.
        keep_every: keep the states after every so many sweeps; 0 keeps none.
        average: whether to average probabilities, a tenth of the numba engine's time.
        engine: the numba engine computes log-odds in float32 whatever the potentials' type, and
            probabilities to within 1.5e-7 of what follows from those.

    Raises:
        PotentialsError: states of another shape.

    Cost: O(S N E) a sweep. On one core of an AVX2 machine about 500 million labels redrawn a
    second at 38 fully coupled labels.
    """
    clamped = check_known(potentials, known)
    coupled = potentials.as_couplings()
    device = coupled.unary.device
    betas = torch.ones(1, device=device) if ladder is None else ladder.to(device)
    replicas = states[None] if ladder is None else states
    expected = (len(betas), *replicas.shape[1:2], *clamped.shape)
    if replicas.ndim != 4 or replicas.shape != expected:
        wanted = ("S", *clamped.shape) if ladder is None else (len(betas), "S", *clamped.shape)
        raise PotentialsError(f"states: expected {wanted}, got {tuple(states.shape)}")
    # in the type of the result, for there are as many as chains times images times labels
    values = clamped.clamp(min=0).to(torch.uint8)
    start = torch.where(clamped == UNKNOWN, replicas.to(torch.uint8), values)
    numbers = torch.arange(len(clamped)) if images is None else images
    keys = stream_keys(seed, numbers, chains=start.shape[1], rungs=len(betas)).to(device)
    run = _Run(coupled, clamped, keys, betas, sweeps, first_sweep, keep_every, average)
    match choose_engine(engine, device):
        case Engine.NUMBA:
            ended, probabilities, samples = _run_numba(run, start)
        case Engine.TORCH | Engine.AUTO:
            ended, probabilities, samples = _run_torch(run, start)
        case other:
            assert_never(other)
    if average:
        probabilities = torch.where(clamped == UNKNOWN, probabilities, clamped.to(probabilities))
    else:
        probabilities = torch.full_like(probabilities, torch.nan)
    return ChainRun(ended.reshape(states.shape), probabilities, samples)


def sweep(
    fields: Fields, y: Tensor, known: Tensor, uniforms: Tensor, betas: Tensor | float = 1.0
) -> Tensor:
    """Redraw every unknown label once, in order, in place.

    Args:
        fields: log-odds of the potentials.
        y: states of the potentials' type, changed in place (..., N, L).
        known: 1, 0 or -1 for unknown (N, L).
        uniforms: draws from (0, 1], one a label (..., N, L).
        betas: inverse temperatures, as shapes go together with (..., N).

    Returns:
        The probability from which each label was drawn (..., N, L); the value of known ones.
    """
    probabilities = torch.empty_like(y)
    for label in range(y.shape[-1]):
        p = (betas * fields.of(label, y)).sigmoid()
        free = known[:, label] == UNKNOWN
        probabilities[..., label] = torch.where(free, p, y[..., label])
        y[..., label] = torch.where(free, (uniforms[..., label] <= p).to(y.dtype), y[..., label])
    return probabilities


def swap(scores: Tensor, y: Tensor, betas: Tensor, uniforms: Tensor, first: int) -> None:
    """Offer neighbouring replicas each other's states, in place: `first` with the next, and so on.

    Args:
        scores: log-score of each state (K, S, N).
        y: (K, S, N, L).
        betas: inverse temperatures (K,).
        uniforms: draws from (0, 1], of which the lower replica's decide (K, S, N).
        first: 0 or 1.
    """
    low = torch.arange(first, len(betas) - 1, 2, device=y.device)
    high = low + 1
    gain = (betas[low] - betas[high])[:, None, None] * (scores[high] - scores[low])
    accepted = (uniforms[low].log() <= gain)[..., None]
    y[low], y[high] = torch.where(accepted, y[high], y[low]), torch.where(accepted, y[low], y[high])


class _Run(NamedTuple):
    """What both engines need; `known` closed under implications, which are couplings now."""

    potentials: Potentials
    known: Tensor
    keys: Tensor
    betas: Tensor
    sweeps: int
    first_sweep: int
    keep_every: int
    average: bool


def _run_torch(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fields, dtype = Fields(run.potentials), run.potentials.unary.dtype
    y = states.to(dtype)
    betas = run.betas.to(dtype)
    total = torch.zeros_like(run.potentials.unary)
    samples = []
    for step in range(run.sweeps):
        number = run.first_sweep + step
        drawn = uniforms(run.keys, number, y.shape[-1] + 1).to(dtype)
        total += sweep(fields, y, run.known, drawn[..., :-1], betas[:, None, None])[0].mean(0)
        if run.keep_every and (step + 1) % run.keep_every == 0:
            samples.append(y[0].to(torch.uint8))
        if len(betas) > 1:
            scores = ((fields.all(y) + run.potentials.unary) * y).sum(-1) / 2
            swap(scores, y, betas, drawn[..., -1], number % 2)
    kept = torch.stack(samples) if samples else states.new_empty((0, *states.shape[1:]))
    return y.to(torch.uint8), total / run.sweeps, kept


def _run_numba(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some images after the other, so that the memory of the averages by chain is bounded."""
    of_image = states.shape[1] * states.shape[3]
    images = torch.arange(states.shape[2])
    some = torch.split(images, max(1, _AT_ONCE // max(1, of_image)))
    if len(some) == 1:
        return _run_numba_part(run, states)
    parts = [
        _run_numba_part(
            run._replace(
                potentials=run.potentials.rows(rows),
                known=run.known[rows],
                keys=run.keys[..., rows],
            ),
            states[:, :, rows],
        )
        for rows in some
    ]
    ended, probabilities, samples = zip(*parts, strict=True)
    return torch.cat(ended, 2), torch.cat(probabilities), torch.cat(samples, 2)


def _run_numba_part(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from numba import config

    from mlcrf.inference.gibbs.blocks import Model, count_blocks
    from mlcrf.inference.gibbs.sweep_kernel import sample_blocks

    unary, shape = run.potentials.unary, states.shape
    weights, starts, others = _weights(run.potentials)
    model = Model(
        unary=_float32(unary),
        known=(run.known != UNKNOWN).numpy(),
        starts=starts.numpy(),
        others=others.numpy(),
        weights=_float32(weights),
        ladder=_float32(run.betas),
        keys=run.keys.numpy().astype(np.uint32),
    )
    ended = states.contiguous().clone().numpy()
    scores = unary.new_zeros(shape[:3])
    if shape[0] > 1:
        y = states.to(unary.dtype)
        scores = ((Fields(run.potentials).all(y) + unary) * y).sum(-1) / 2
    kept = run.sweeps // run.keep_every if run.keep_every else 0
    totals, samples = np.zeros(shape[1:]), np.empty((kept, *shape[1:]), np.uint8)
    arrays = (ended, _float32(scores), totals, samples)
    settings = (run.sweeps, run.first_sweep, run.keep_every)
    wanted = (True if shape[0] > 1 else None, True if run.average else None)

    def work(first: int, last: int) -> None:
        sample_blocks(model, first, last, *arrays, *settings, *wanted)

    rungs, chains, images = shape[:3]
    blocks = count_blocks(rungs, chains, images, varies=len(weights) > 1)
    limit = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    threads = min(limit, torch.get_num_threads(), blocks)
    if threads < 2:
        work(0, blocks)
    else:
        edges = np.linspace(0, blocks, 4 * threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, edges[:-1], edges[1:]))
    probabilities = torch.from_numpy(totals.mean(0) / run.sweeps).to(unary.dtype)
    return torch.from_numpy(ended), probabilities, torch.from_numpy(samples)


def _weights(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Couplings as the numba engine wants them: weights, starts of rows, neighbours.

    A matrix (1 or N, L L) and nothing else for up to 128 labels, else rows of neighbours.
    """
    pairwise = potentials.pairwise if potentials.varies_by_image else potentials.pairwise[None]
    if potentials.num_labels <= _DENSE_LABELS:
        nothing = potentials.edges.new_empty(0)
        matrix = potentials.pairwise_matrix().reshape(len(pairwise), potentials.num_labels**2)
        return matrix, nothing, nothing
    starts, others, edge = neighbours(potentials.edges, potentials.num_labels)
    return pairwise[:, edge], starts, others


def _float32(values: Tensor) -> Any:
    return values.clamp(-_LARGEST, _LARGEST).float().contiguous().numpy()
