# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Blocks of lanes for `mlcrf.inference.gibbs.sweep_kernel`: filled from chains and written back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

WIDTH = 64  # lanes of a block: the sums of one label fill eight registers of AVX2
SCALE = 2.0**31  # chances are kept times this
_CERTAIN = 1e30  # log-odds of a known label

Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
called: Jit = numba.njit(error_model="numpy")  # by compiled code only


class Model(NamedTuple):
    """What is sampled from.

    Attributes:
        unary: float32 (N, L).
        known: whether a label keeps its value (N, L).
        starts, others: rows of neighbours, int64 (L + 1,) and (2 E,); empty for a matrix.
        weights: couplings of the rows (.., 2 E) or the matrix (.., L L), shared by all images
            (1, ...) or one of each (N, ...), float32.
        ladder: inverse temperatures, the first 1, float32 (K,).
        keys: of the random streams, uint32 (2, K, chains, N).
    """

    unary: Any
    known: Any
    starts: Any
    others: Any
    weights: Any
    ladder: Any
    keys: Any


class Block(NamedTuple):
    """Work space of one thread; of L labels in WIDTH lanes where not said otherwise.

    Attributes:
        y, unary, chances: the states, their unaries, and chances added up.
        field: of one label, before it is drawn (WIDTH,).
        known: whether all lanes know a label (L,).
        present, listed: whether a lane has a label (L,), and those labels, their number at last.
        key: of each lane's stream (2 WIDTH,).
        score, beta: log-score and inverse temperature of each lane (WIDTH,).
        place: rung, chain and image of each lane, the rung -1 if it is idle (3, WIDTH).
    """

    y: Any
    unary: Any
    chances: Any
    field: Any
    known: Any
    present: Any
    listed: Any
    key: Any
    score: Any
    beta: Any
    place: Any


@called
def make_block(labels: int) -> Block:
    """Work space for a number of labels."""
    size = labels * WIDTH
    return Block(
        y=np.empty(size, np.float32),
        unary=np.empty(size, np.float32),
        chances=np.zeros(size, np.float32),
        field=np.empty(WIDTH, np.float32),
        known=np.empty(labels, np.bool_),
        present=np.empty(labels, np.bool_),
        listed=np.empty(labels + 1, np.int64),
        key=np.zeros(2 * WIDTH, np.uint32),
        score=np.zeros(WIDTH, np.float32),
        beta=np.ones(WIDTH, np.float32),
        place=np.empty((3, WIDTH), np.int64),
    )


def count_blocks(rungs: int, chains: int, images: int, *, varies: bool) -> int:
    """How many blocks hold all lanes; images with couplings of their own do not share one."""
    groups = WIDTH // rungs  # of the rungs of one chain, which share a block
    if varies:
        return images * -(-chains // groups)
    return -(-images * chains // groups)


@called
def enter(model: Model, block: Block, index: int, states: Any, scores: Any) -> None:
    """Fill the lanes with the chains of a block; idle ones never have a label."""
    rungs, chains, images, labels = states.shape
    groups = WIDTH // rungs
    by_image = -(-chains // groups)
    block.y[:] = 0.0
    block.unary[:] = -_CERTAIN
    block.known[:] = True
    for lane in range(WIDTH):
        group, rung = lane // rungs, lane % rungs
        if len(model.weights) > 1:
            image, chain = index // by_image, index % by_image * groups + group
        else:
            image, chain = divmod(index * groups + group, chains)
        idle = group >= groups or image >= images or chain >= chains
        block.place[0, lane] = -1 if idle else rung
        block.place[1, lane], block.place[2, lane] = chain, image
        if idle:
            continue
        block.key[lane] = model.keys[0, rung, chain, image]
        block.key[WIDTH + lane] = model.keys[1, rung, chain, image]
        block.score[lane] = scores[rung, chain, image]
        block.beta[lane] = model.ladder[rung]
        for label in range(labels):
            at, value = label * WIDTH + lane, states[rung, chain, image, label]
            block.y[at] = value
            block.unary[at] = model.unary[image, label]
            if model.known[image, label]:
                block.unary[at] = _CERTAIN if value else -_CERTAIN
            else:
                block.known[label] = False
    for label in range(labels):
        block.present[label] = block.y[label * WIDTH : (label + 1) * WIDTH].any()
    list_present(block)


@called
def flush(block: Block, totals: Any) -> None:
    """Move the chances of the first rung to the totals (chains, N, L)."""
    for lane in range(WIDTH):
        rung, chain, image = block.place[:, lane]
        if rung == 0:
            for label in range(totals.shape[2]):
                totals[chain, image, label] += block.chances[label * WIDTH + lane] / SCALE
    block.chances[:] = 0.0


@called
def keep(block: Block, sample: Any) -> None:
    """Write the states of the first rung to a sample (chains, N, L)."""
    for lane in range(WIDTH):
        rung, chain, image = block.place[:, lane]
        if rung == 0:
            for label in range(sample.shape[2]):
                sample[chain, image, label] = np.uint8(block.y[label * WIDTH + lane])


@called
def leave(block: Block, states: Any, scores: Any) -> None:
    """Write states and scores back, where `enter` had them from."""
    for lane in range(WIDTH):
        rung, chain, image = block.place[:, lane]
        if rung >= 0:
            scores[rung, chain, image] = block.score[lane]
            for label in range(states.shape[3]):
                states[rung, chain, image, label] = np.uint8(block.y[label * WIDTH + lane])


@called
def list_present(block: Block) -> None:
    """Bring the list of labels that a lane has up to date."""
    count, labels = 0, len(block.present)
    for label in range(labels):
        if block.present[label]:
            block.listed[count] = label
            count += 1
    block.listed[labels] = count
