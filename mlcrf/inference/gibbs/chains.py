"""Gibbs sweeps, with two engines (numba, torch) that draw identical samples."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, check_known, neighbours
from mlcrf.errors import MlcrfWarning, PotentialsError
from mlcrf.inference.gibbs.blocks_of_labels import Blocks
from mlcrf.inference.gibbs.streams import stream_keys, uniforms

_DENSE_LABELS = 128  # up to this many labels, the numba engine uses a dense coupling matrix
_AT_ONCE = 2**25  # largest images x chains x labels processed at once
_LARGEST = (
    1e30  # log-odds and couplings; larger values are clipped, so that float32 sums stay finite
)


class Engine(StrEnum):
    """The implementation that runs the sweeps."""

    AUTO = "auto"
    NUMBA = "numba"
    TORCH = "torch"


class ChainRun(NamedTuple):
    """The result of some sweeps.

    Attributes:
        states: the last states, uint8 (S, N, L).
        probabilities: the conditional probabilities from which labels were drawn, averaged over
            sweeps and chains (N, L): the Rao-Blackwellised marginals. Known labels have their
            values; NaN where no averages were asked for.
        samples: the states after every `thin` sweeps, uint8 (T, S, N, L).
    """

    states: Tensor
    probabilities: Tensor
    samples: Tensor


def choose_engine(engine: Engine, device: torch.device) -> Engine:
    """Return NUMBA or TORCH; AUTO is numba on a CPU, torch elsewhere."""
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
    thin: int = 0,
    average: bool = True,
    engine: Engine = Engine.AUTO,
) -> ChainRun:
    """Run chains for some sweeps; each sweep redraws every unknown label once, in order.

    Under limits on groups of labels, chains redraw blocks of labels in torch; see `Blocks`.

    Persistent chains, as contrastive divergence keeps them (Tieleman 2008), continue from the
    returned states, with `first_sweep` raised by the number of sweeps made.

    Args:
        states: where to start, 0 or 1 (S, N, L); entries of known labels are ignored.
        sweeps: at least 1.
        first_sweep: number of the first sweep; the same number gives the same draws again.
        known: 1, 0 or -1 for unknown (N, L).
        images: number of each image's random stream, int64 (N,); their positions if None.
        thin: keep the states after every so many sweeps; 0 keeps none.
        average: whether to average probabilities, a tenth of the numba engine's time.
        engine: the numba engine computes log-odds in float32 whatever the potentials' type, and
            probabilities to within 1.5e-7 of what follows from those.

    Raises:
        PotentialsError: states of another shape.

    Cost: O(S N E) per sweep. On one core of an AVX2 machine, about 500 million labels are redrawn
    per second at 38 fully coupled labels.
    """
    clamped = check_known(potentials, known)
    coupled = potentials.as_couplings()
    device = coupled.unary.device
    if states.ndim != 3 or states.shape[1:] != clamped.shape:
        raise PotentialsError(
            f"states: expected {('S', *clamped.shape)}, got {tuple(states.shape)}"
        )
    # uint8, because there are chains times images times labels of them
    values = clamped.clamp(min=0).to(torch.uint8)
    start = torch.where(clamped == UNKNOWN, states.to(torch.uint8), values)
    numbers = torch.arange(len(clamped)) if images is None else images
    keys = stream_keys(seed, numbers, chains=len(start)).to(device)
    run = _Run(coupled, clamped, keys, sweeps, first_sweep, thin, average)
    if potentials.rules.limits:
        ended, probabilities, samples = _run_blocks(run._replace(potentials=potentials), start)
        return ChainRun(ended, probabilities, samples)
    match choose_engine(engine, device):
        case Engine.NUMBA:
            if device.type != "cpu":
                warnings.warn(
                    f"gibbs: numba's chains run on the CPU, not on {device} as engine torch's do",
                    MlcrfWarning,
                    stacklevel=2,
                )
            on_cpu = run._replace(
                potentials=coupled.to("cpu"), known=clamped.cpu(), keys=keys.cpu()
            )
            found = _run_numba(on_cpu, start.cpu())
            ended, probabilities, samples = (one.to(device) for one in found)
        case Engine.TORCH | Engine.AUTO:
            ended, probabilities, samples = _run_torch(run, start)
        case other:
            assert_never(other)
    if average:
        probabilities = torch.where(clamped == UNKNOWN, probabilities, clamped.to(probabilities))
    else:
        probabilities = torch.full_like(probabilities, torch.nan)
    return ChainRun(ended, probabilities, samples)


def sweep(fields: Fields, y: Tensor, known: Tensor, uniforms: Tensor) -> Tensor:
    """Redraw every unknown label once, in order, in place.

    Args:
        fields: log-odds of the potentials.
        y: states of the potentials' type, changed in place (..., N, L).
        known: 1, 0 or -1 for unknown (N, L).
        uniforms: draws from (0, 1], one per label (..., N, L).

    Returns:
        The probability from which each label was drawn (..., N, L); for a known label its value.
    """
    probabilities = torch.empty_like(y)
    for label in range(y.shape[-1]):
        p = fields.of(label, y).sigmoid()
        free = known[:, label] == UNKNOWN
        probabilities[..., label] = torch.where(free, p, y[..., label])
        y[..., label] = torch.where(free, (uniforms[..., label] <= p).to(y.dtype), y[..., label])
    return probabilities


class _Run(NamedTuple):
    """The arguments of both engines; `known` is closed, and rules are couplings here."""

    potentials: Potentials
    known: Tensor
    keys: Tensor
    sweeps: int
    first_sweep: int
    thin: int
    average: bool


def _run_blocks(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run chains that keep to limits; see `Blocks`."""
    blocks = Blocks(run.potentials, run.known)
    y = blocks.start(states)
    num_labels, total, samples = y.shape[-1], torch.zeros_like(run.potentials.unary), []
    draws = -(-len(blocks.blocks) // num_labels)  # there may be more blocks than labels
    for step in range(run.sweeps):
        number = (run.first_sweep + step) * draws
        drawn = [uniforms(run.keys, number + more, num_labels) for more in range(draws)]
        total += blocks.sweep(y, torch.cat(drawn, -1).to(y.dtype)).mean(0)
        if run.thin and (step + 1) % run.thin == 0:
            samples.append(y.to(torch.uint8))
    kept = torch.stack(samples) if samples else states.new_empty((0, *states.shape))
    return y.to(torch.uint8), total / run.sweeps, kept


def _run_torch(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fields, dtype = Fields(run.potentials), run.potentials.unary.dtype
    y = states.to(dtype)
    total = torch.zeros_like(run.potentials.unary)
    samples = []
    for step in range(run.sweeps):
        drawn = uniforms(run.keys, run.first_sweep + step, y.shape[-1]).to(dtype)
        total += sweep(fields, y, run.known, drawn).mean(0)
        if run.thin and (step + 1) % run.thin == 0:
            samples.append(y.to(torch.uint8))
    kept = torch.stack(samples) if samples else states.new_empty((0, *states.shape))
    return y.to(torch.uint8), total / run.sweeps, kept


def _run_numba(run: _Run, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run the images in groups, so that the memory of the averages by chain is bounded."""
    chains, num_images, num_labels = states.shape
    some = torch.split(torch.arange(num_images), max(1, _AT_ONCE // max(1, chains * num_labels)))
    if len(some) == 1:
        return _run_numba_part(run, states)
    parts = [
        _run_numba_part(
            run._replace(
                potentials=run.potentials.rows(rows),
                known=run.known[rows],
                keys=run.keys[..., rows],
            ),
            states[:, rows],
        )
        for rows in some
    ]
    ended, probabilities, samples = zip(*parts, strict=True)
    return torch.cat(ended, 1), torch.cat(probabilities), torch.cat(samples, 2)


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
        keys=run.keys.numpy().astype(np.uint32),
    )
    ended = states.contiguous().clone().numpy()
    kept = run.sweeps // run.thin if run.thin else 0
    totals, samples = np.zeros(shape), np.empty((kept, *shape), np.uint8)
    settings = (run.sweeps, run.first_sweep, run.thin, True if run.average else None)

    def work(first: int, last: int) -> None:
        sample_blocks(model, first, last, ended, totals, samples, *settings)

    blocks = count_blocks(*shape[:2], varies=len(weights) > 1)
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
    """Return couplings as the numba engine wants them: weights, starts of rows, neighbours.

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
