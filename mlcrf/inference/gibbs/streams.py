"""Random streams with random access.

A draw depends on the seed, the image, the chain, the sweep and the label, but not on the
engine, other images, threads or earlier draws.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_AT_ONCE = (
    2**17
)  # largest number of draws computed at once, so that intermediate results stay in cache
_FIRST_STATES = -1  # number of the sweep whose draws are the random states


def stream_keys(seed: int, images: Tensor, *, chains: int) -> Tensor:
    """Return two words of 32 bits for each stream, from seed, image and chain: int64 (2, S, N).

    Each number in turn is added to a hash of those before it (Stafford's mix 13, as in SplitMix64),
    so that two streams have the same key with probability 2^-64.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.array(seed % 2**64, dtype=np.uint64))
        key = _mix(key + images.cpu().numpy().astype(np.uint64))
        key = _mix(key + np.arange(chains, dtype=np.uint64)[:, None])
        key = _mix(key)
    words = np.stack([key & np.uint64(_WORD), key >> np.uint64(32)])
    return torch.from_numpy(words.astype(np.int64))


def uniforms(keys: Tensor, number: int, num_labels: int) -> Tensor:
    """Draw one sweep's numbers of every stream: multiples of 2^-31 in (0, 1], float64 (..., L).

    Three rounds of folding and multiplying (Wellons' triple32) of a counter that steps through all
    words of 32 bits. It starts at the first half of the key; the second half, added after the
    first round, separates streams whose counters meet.

    Args:
        keys: (2, ...).
        number: number of the sweep. Each sweep has one draw per label, and one unused draw.
    """
    counter = number * (num_labels + 1) + torch.arange(num_labels, device=keys.device)
    x = (keys[0].unsqueeze(-1) + counter * 0x9E3779B9) & _WORD
    x = ((x ^ (x >> 17)) * 0xED5AD4BB + keys[1].unsqueeze(-1)) & _WORD
    x = ((x ^ (x >> 11)) * 0xAC4C1B51) & _WORD
    x = ((x ^ (x >> 15)) * 0x31848BAB) & _WORD
    return (((x ^ (x >> 14)) >> 1) + 1).double() / 2**31


def random_states(keys: Tensor, num_labels: int) -> Tensor:
    """Draw states in which each label is present with probability 1/2, uint8 (S, N, L).

    They are far apart, so that chains that get stuck disagree.

    Args:
        keys: on the CPU, as `stream_keys` returns them.
    """
    streams = keys.reshape(2, -1, 1).numpy().astype(np.uint32)
    states = np.empty((streams.shape[1], num_labels), np.uint8)
    first = _FIRST_STATES * (num_labels + 1)
    walk = (np.arange(first, first + num_labels) * 0x9E3779B9 & _WORD).astype(np.uint32)
    at_once = max(1, _AT_ONCE // num_labels)
    for start in range(0, len(states), at_once):
        some = slice(start, start + at_once)
        x: Any = streams[0, some] + walk  # as `uniforms`, in wrapping words of 32 bits
        x = (x ^ (x >> 17)) * np.uint32(0xED5AD4BB) + streams[1, some]
        x = (x ^ (x >> 11)) * np.uint32(0xAC4C1B51)
        x = (x ^ (x >> 15)) * np.uint32(0x31848BAB)
        states[some] = (x ^ (x >> 14)) >> 1 < 2**30
    return torch.from_numpy(states).reshape(*keys.shape[1:], num_labels)


def _mix(x: Any) -> Any:
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
