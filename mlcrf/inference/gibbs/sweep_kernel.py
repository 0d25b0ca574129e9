# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Gibbs sweeps on a CPU: chains side by side in vector registers.

Imported when first used, because numba loads slowly. `sweep` in `chains.py` computes the
same in torch; tests compare the two draw by draw.

A block is `WIDTH` lanes, each the state of one chain of one image, in label order:
y[label, lane]. All lanes redraw the same label at the same time:

    field = unary + sum_j pairwise_ij y_j         one multiplication and addition per neighbour
    y = ((word + 1) (1 + exp(-field)) <= 2^31)    word: 31 random bits, a hash of the position

exp is a polynomial; the probability is within 1.5e-7 of the true one, with a relative error of at
most 3e-6. It takes a division, which is made only for averages.

No draw depends on the other chains of the block, on the blocks, or on the threads. Where couplings
are a matrix, labels that no lane of the block has are left out of the sum. A label that all lanes
know is not drawn.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from mlcrf.inference.gibbs.blocks import (
    SCALE,
    WIDTH,
    Block,
    Jit,
    Model,
    called,
    enter,
    flush,
    list_present,
    make_block,
    write_states,
)
from mlcrf.inference.gibbs.lanes import (
    any_bit,
    bits_of,
    clip,
    fill,
    from_bits,
    item,
    load,
    multiply_add,
    one_where_at_most,
    store,
    to_float,
)

_PART = 16  # lanes drawn at once, so that every intermediate value has a register
_FLUSH = 64  # sweeps whose probabilities are added up in float32
_SPLIT = 12582912.0  # 1.5 * 2^23: a small number added to it is rounded to whole
_LOG2_E = 1.4426950408889634

_compiled: Jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_inlined: Jit = numba.njit(forceinline=True, error_model="numpy")


@_inlined
def _word(block: Block, counter: int, lane: int) -> Any:
    """Return 2^31 times `streams.uniforms`, less 1, as float32, for `_PART` lanes."""
    x = load(block.key, lane, _PART) + counter * 0x9E3779B9
    x = (x ^ (x >> 17)) * 0xED5AD4BB + load(block.key, lane + WIDTH, _PART)
    x = (x ^ (x >> 11)) * 0xAC4C1B51
    x = (x ^ (x >> 15)) * 0x31848BAB
    return to_float((x ^ (x >> 14)) >> 1)


@_inlined
def _draw(block: Block, label: int, counter: int, averaged: Any) -> Any:
    """Redraw a label in all lanes from its field; return whether a lane has it now."""
    present = fill(np.uint32(0), _PART)
    for lane in range(0, WIDTH, _PART):
        at = label * WIDTH + lane
        logit = clip(load(block.field, lane, _PART), -87.0, 87.0)  # or exp would leave float32
        # exp(-logit) = 2^whole 2^rest, the rest within a half of 0
        split = multiply_add(logit, -_LOG2_E, _SPLIT)
        rest = multiply_add(logit, -_LOG2_E, _SPLIT - split)
        power = multiply_add(rest, 0.00132647272526119, 0.009671512785777391)
        power = multiply_add(power, rest, 0.05550733744471256)
        power = multiply_add(power, rest, 0.2402224208311179)
        power = multiply_add(power, rest, 0.693146977597679)
        power = multiply_add(power, rest, 1.0)
        total = from_bits(bits_of(power) + (bits_of(split) << 23)) + 1.0
        word = _word(block, counter, lane)
        drawn = one_where_at_most(multiply_add(word, total, total), SCALE)
        if averaged is not None:
            store(block.probabilities, at, load(block.probabilities, at, _PART) + SCALE / total)
        store(block.y, at, drawn)
        present = present | bits_of(drawn)
    return any_bit(present)


@called
def _sweep(model: Model, block: Block, weights: Any, counter: int, averaged: Any) -> None:
    """Redraw every label that some lane does not know once."""
    labels = len(block.known)
    dense = len(model.starts) == 0
    for label in range(labels):
        if block.known[label]:
            continue
        field: Any = load(block.unary, label * WIDTH, WIDTH)
        if dense:
            count, row = block.listed[labels], label * labels
            for entry in range(count):
                other = entry if count == labels else item(block.listed, entry)
                weight = item(weights, row + other)
                field = multiply_add(load(block.y, other * WIDTH, WIDTH), weight, field)
        else:
            for entry in range(model.starts[label], model.starts[label + 1]):
                other, weight = item(model.others, entry), item(weights, entry)
                field = multiply_add(load(block.y, other * WIDTH, WIDTH), weight, field)
        store(block.field, 0, field)
        present = _draw(block, label, counter + label, averaged)
        if dense and present != block.present[label]:
            block.present[label] = present
            list_present(block)


def _make_sample_blocks(sources: str) -> Callable[..., None]:
    """Return the kernel that runs blocks, cached by numba for the same sources alone."""

    @_compiled
    def sample_blocks(
        model: Model, first: int, last: int, states: Any, totals: Any, samples: Any,
        sweeps: int, number: int, thin: int, averaged: Any,
    ) -> None:  # fmt: skip
        """Run the chains of some blocks, in place.

        Args:
            first, last: range of the blocks; `count_blocks` returns their number.
            states: uint8 (chains, N, L).
            totals: to which probabilities are added, float64 (chains, N, L).
            samples: for the states every `thin` sweeps, uint8 (T, chains, N, L).
            number: of the first sweep; draws differ from sweep to sweep by it.
            averaged: True if there are totals, else None, for which numba compiles no averages.
        """
        _ = sources  # read, so that it is part of the key of numba's cache
        labels = states.shape[2]
        block = make_block(labels)
        for index in range(first, last):
            enter(model, block, index, states)
            weights = model.weights[block.place[1, 0] if len(model.weights) > 1 else 0]
            for step in range(sweeps):
                counter = (number + step) * (labels + 1)
                _sweep(model, block, weights, counter, averaged)
                if averaged is not None and ((step + 1) % _FLUSH == 0 or step + 1 == sweeps):
                    flush(block, totals)
                if thin and (step + 1) % thin == 0:
                    write_states(block, samples[step // thin])
            write_states(block, states)

    return sample_blocks


_FILES = [Path(__file__).with_name(f"{name}.py") for name in ("lanes", "blocks", "sweep_kernel")]
sample_blocks = _make_sample_blocks(
    hashlib.sha256(b"".join(file.read_bytes() for file in _FILES)).hexdigest()
)
