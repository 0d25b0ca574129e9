# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Blocks of lanes for `sweep_kernel`: filled from chains and written back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

WIDTH = 64  # lanes of a block: the sums of one label fill eight registers of AVX2
SCALE = 2.0**31  # factor on stored probabilities
_CERTAIN = 1e30  # log-odds of a known label

Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
called: Jit = numba.njit(error_model="numpy")  # by compiled code only


class Model(NamedTuple):
    """The distribution that is sampled.

    Attributes:
        unary: float32 (N, L).
        known: whether a label keeps its value (N, L).
        starts, others: rows of neighbours, int64 (L + 1,) and (2 E,); empty for a matrix.
        weights: couplings of the rows (.., 2 E) or the matrix (.., L L), shared by all images
            (1, ...) or one of each (N, ...), float32.
        keys: of the random streams, uint32 (2, chains, N).
    """

    unary: Any
    known: Any
    starts: Any
    others: Any
    weights: Any
    keys: Any


class Block(NamedTuple):
    """Work space of one thread: L labels in WIDTH lanes, if not stated otherwise.

    Attributes:
        y, unary, probabilities: the states, their unaries, and probabilities added up.
        field: of one label, before it is drawn (WIDTH,).
        known: whether all lanes know a label (L,).
        present, listed: whether a lane has a label (L,), and a list of those labels with its length
            at the end.
        key: of each lane's stream (2 WIDTH,).
        place: chain and image of each lane, the chain -1 if it is idle (2, WIDTH).
    """

    y: Any
    unary: Any
    probabilities: Any
    field: Any
    known: Any
    present: Any
    listed: Any
    key: Any
    place: Any


@called
def make_block(labels: int) -> Block:
    """Make work space for a number of labels."""
    size = labels * WIDTH
    return Block(
        y=np.empty(size, np.float32),
        unary=np.empty(size, np.float32),
        probabilities=np.zeros(size, np.float32),
        field=np.empty(WIDTH, np.float32),
        known=np.empty(labels, np.bool_),
        present=np.empty(labels, np.bool_),
        listed=np.empty(labels + 1, np.int64),
        key=np.zeros(2 * WIDTH, np.uint32),
        place=np.empty((2, WIDTH), np.int64),
    )


def count_blocks(chains: int, images: int, *, varies: bool) -> int:
    """Return the number of blocks for all lanes; images with their own couplings share no block."""
    if varies:
        return images * -(-chains // WIDTH)
    return -(-images * chains // WIDTH)


@called
def enter(model: Model, block: Block, index: int, states: Any) -> None:
    """Fill the lanes with the chains of a block; idle lanes never have a label."""
    chains, images, labels = states.shape
    by_image = -(-chains // WIDTH)
    block.y[:] = 0.0
    block.unary[:] = -_CERTAIN
    block.known[:] = True
    for lane in range(WIDTH):
        if len(model.weights) > 1:
            image, chain = index // by_image, index % by_image * WIDTH + lane
        else:
            image, chain = divmod(index * WIDTH + lane, chains)
        idle = image >= images or chain >= chains
        block.place[0, lane], block.place[1, lane] = -1 if idle else chain, image
        if idle:
            continue
        block.key[lane] = model.keys[0, chain, image]
        block.key[WIDTH + lane] = model.keys[1, chain, image]
        for label in range(labels):
            at, value = label * WIDTH + lane, states[chain, image, label]
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
    """Move the probabilities to the totals (chains, N, L)."""
    for lane in range(WIDTH):
        chain, image = block.place[:, lane]
        if chain >= 0:
            for label in range(totals.shape[2]):
                totals[chain, image, label] += block.probabilities[label * WIDTH + lane] / SCALE
    block.probabilities[:] = 0.0


@called
def write_states(block: Block, states: Any) -> None:
    """Write the states of the lanes to (chains, N, L)."""
    for lane in range(WIDTH):
        chain, image = block.place[:, lane]
        if chain >= 0:
            for label in range(states.shape[2]):
                states[chain, image, label] = np.uint8(block.y[label * WIDTH + lane])


@called
def list_present(block: Block) -> None:
    """Update the list of labels that a lane has."""
    count, labels = 0, len(block.present)
    for label in range(labels):
        if block.present[label]:
            block.listed[count] = label
            count += 1
    block.listed[labels] = count
