"""Large arrays that are reused: allocating memory takes longer than filling it."""

import math
from weakref import finalize

import torch
from torch import Tensor

_IDLE_BYTES = 2**29  # most bytes kept for the next user


class Scratch:
    """Arrays by name, each valid until the next of its name is taken."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised array, the last one of this name if it is large enough."""
        size, key = math.prod(shape), (name, like.dtype, like.device)
        if key not in self._arrays or self._arrays[key].numel() < size:
            self._arrays[key] = like.new_empty(size)
        return self._arrays[key][:size].view(shape)

    @property
    def num_bytes(self) -> int:
        """The size of all arrays together."""
        return sum(array.nbytes for array in self._arrays.values())


_idle: list[Scratch] = []  # one at most; popping from a list and appending to it are atomic


def borrow_scratch(user: object) -> Scratch:
    """Return arrays that no other living object uses; the next may use them once `user` is gone."""
    try:
        scratch = _idle.pop()
    except IndexError:
        scratch = Scratch()
    finalize(user, _give_back, scratch).atexit = False
    return scratch


def _give_back(scratch: Scratch) -> None:
    if not _idle and scratch.num_bytes <= _IDLE_BYTES:
        _idle.append(scratch)
